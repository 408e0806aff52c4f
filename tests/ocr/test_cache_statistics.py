import logging

from ocr.cache_statistics import CacheSizes, CacheStatistics


def make_statistics(log_every_n=None):
    return CacheStatistics(log_every_n, lambda: CacheSizes(404, 500, 404))


def test_the_line_counts_the_epoch_and_adds_the_total_of_the_run():
    statistics = make_statistics()
    statistics.count(misses=500)
    statistics.start_epoch()
    statistics.count(hits=450, misses=50)
    assert statistics.counts().line() == (
        "Cache Statistics - Hits: 450, Misses: 50, Hit Rate: 90.0%, "
        "Image Cache Size: 404, Tensor Cache Size: 500, Maps Cache Size: 404 "
        "(this epoch; whole run: 450 of 1000, 45.0%)"
    )


def test_an_epoch_of_hits_only_has_a_hit_rate_of_100_percent():
    statistics = make_statistics()
    statistics.count(misses=6)
    statistics.start_epoch()
    statistics.count(hits=6)
    assert "Hits: 6, Misses: 0, Hit Rate: 100.0%" in statistics.counts().line()


def test_a_line_is_logged_every_n_accesses_however_they_are_counted(caplog):
    statistics = make_statistics(50)
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            statistics.count(hits=3, misses=1)
    assert [line.split(", Hit")[0] for line in caplog.messages] == [
        "Cache Statistics - Hits: 39, Misses: 13",
        "Cache Statistics - Hits: 75, Misses: 25",
    ]


def test_without_n_nothing_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        make_statistics().count(hits=1000)
    assert caplog.messages == []


def test_each_epoch_has_a_hit_rate_of_its_own():
    statistics = make_statistics()
    statistics.count(misses=10)
    assert "Hits: 0, Misses: 10, Hit Rate: 0.0%" in statistics.counts().line()
    statistics.start_epoch()
    statistics.count(hits=9, misses=1)
    assert "Hits: 9, Misses: 1, Hit Rate: 90.0%" in statistics.counts().line()
    assert (statistics.hits, statistics.misses) == (9, 11)


def test_without_accesses_the_rate_is_zero():
    assert "Hit Rate: 0.0%" in make_statistics().counts().line()
