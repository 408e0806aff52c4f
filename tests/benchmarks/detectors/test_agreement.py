import numpy as np

from benchmarks.detectors.agreement import compare

SQUARE = np.array([[0, 0], [40, 0], [40, 20], [0, 20]], np.float32)


def page(*texts):
    return [polygon for polygon, _ in texts], np.array([score for _, score in texts], np.float32)


def test_texts_agree_whatever_their_order_and_first_corner():
    first = page((SQUARE, 0.9), (SQUARE + 100, 0.8))
    second = page((np.roll(SQUARE, 2, axis=0) + 100.3, 0.8004), (SQUARE, 0.9))
    found = compare([first], [second])
    assert found.holds
    assert found.num_same == 2
    np.testing.assert_allclose(found.most_pixels, 0.3 * 2**0.5, atol=1e-4)
    np.testing.assert_allclose(found.most_score, 0.0004, atol=1e-6)


def test_a_moved_corner_a_changed_score_and_a_missing_text_are_told():
    moved = SQUARE.copy()
    moved[2] += 1
    first = page((SQUARE, 0.9), (SQUARE + 100, 0.8), (SQUARE + 200, 0.7))
    second = page((moved, 0.9), (SQUARE + 100, 0.81))
    found = compare([first], [second])
    assert not found.holds
    assert (found.num_texts, found.num_others, found.num_same) == (3, 2, 0)
    np.testing.assert_allclose(found.unpaired_scores, [0.7], atol=1e-6)


def test_rounding_to_the_digits_of_a_file_does_not_count():
    first, second = page((SQUARE, 0.9)), page((SQUARE + 0.355, 0.90105))
    assert not compare([first], [second]).holds
    assert compare([first], [second], rounding=(0.01, 1e-4)).holds
