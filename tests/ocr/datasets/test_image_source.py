import threading

from ocr.datasets.image_source import ask_each


def test_files_are_asked_at_the_same_time_and_answers_keep_their_order():
    """Two files, far apart, answer only once both have been asked."""
    both = threading.Barrier(2, timeout=60)

    def ask(index: int) -> int:
        if index in (0, 199):
            both.wait()
        return 10 * index

    assert ask_each(ask, range(200)) == list(range(0, 2000, 10))


def test_no_file_gives_no_answer():
    assert ask_each(lambda index: index, []) == []
