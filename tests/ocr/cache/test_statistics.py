from ocr.cache.statistics import CacheSizes, CacheStatistics


def make(log_every_n, lines):
    return CacheStatistics(log_every_n, lambda: CacheSizes(404, 500, 404), lines.append)


def test_the_line_reads_as_promised():
    statistics = make(None, [])
    statistics.count(hits=450, misses=50)
    assert statistics.line() == (
        "Cache Statistics - Hits: 450, Misses: 50, Hit Rate: 90.0%, "
        "Image Cache Size: 404, Tensor Cache Size: 500, Maps Cache Size: 404"
    )


def test_a_line_is_logged_every_n_accesses_however_they_are_counted():
    lines = []
    statistics = make(50, lines)
    for _ in range(30):
        statistics.count(hits=3, misses=1)
    assert [line.split(", Hit")[0] for line in lines] == [
        "Cache Statistics - Hits: 39, Misses: 13",
        "Cache Statistics - Hits: 75, Misses: 25",
    ]


def test_without_n_nothing_is_logged():
    lines = []
    make(None, lines).count(hits=1000)
    assert lines == []


def test_the_hit_rate_of_an_epoch_starts_anew():
    statistics = make(None, [])
    statistics.count(misses=10)
    assert statistics.epoch_hit_rate == 0.0
    statistics.start_epoch()
    assert statistics.epoch_hit_rate is None
    statistics.count(hits=9, misses=1)
    assert statistics.epoch_hit_rate == 0.9
    assert (statistics.hits, statistics.misses) == (9, 11)


def test_without_accesses_the_rate_is_zero():
    assert "Hit Rate: 0.0%" in make(None, []).line()
