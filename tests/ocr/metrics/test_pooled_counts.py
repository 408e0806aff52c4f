import numpy as np
import pytest

from ocr.metrics.icdar import MatchCounts, Scores, TargetRegions, match_image
from ocr.metrics.pooled_counts import PooledCounts, PooledSplit, is_clear, with_margin

NUM_RESAMPLES = 4000


def drawn_counts(num_images: int, seed: int) -> np.ndarray:
    """Returns (num_images, 2, 3) counts of two runs, which find the same images hard."""
    rng = np.random.default_rng(seed)
    num_texts = rng.integers(1, 60, num_images)
    ease = rng.beta(3, 1, num_images)
    runs = []
    for skill in (1.0, 0.95):
        matched = rng.binomial(num_texts, ease * skill)
        runs.append(np.stack([matched, num_texts, matched + rng.poisson(2, num_images)], axis=1))
    return np.stack(runs, axis=1)


def pooled_of(counts: np.ndarray) -> PooledCounts:
    """Returns the pooled counts of (N, R, 3) counts."""
    pooled = PooledCounts(counts.shape[1])
    for image in counts.tolist():
        pooled.add(*(MatchCounts(*run) for run in image))
    return pooled


def by_bootstrap(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the standard errors of the first run's scores, and of its difference to the last run, from resampled images."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), NUM_RESAMPLES)
    sums = np.einsum("bn,nrc->brc", draws, counts)
    scores = np.array([[Scores.of(MatchCounts(*run)) for run in resample] for resample in sums.tolist()])
    return scores[:, 0].std(axis=0), (scores[:, 0] - scores[:, -1]).std(axis=0)


def test_two_images_as_worked_by_hand():
    pooled = PooledCounts()
    pooled.add(MatchCounts(3, 4, 4))
    pooled.add(MatchCounts(1, 4, 4))
    # hmean 8/16; residuals (2 * 3 - 0.5 * 8) / 16 = 1/8 and (2 * 1 - 0.5 * 8) / 16 = -1/8; n / (n - 1) = 2.
    assert pooled.scores() == Scores(0.5, 0.5, 0.5)
    assert pooled.errors() == pytest.approx((2 * 2 / 8**2) ** 0.5 * np.ones(3))


@pytest.mark.parametrize(("num_images", "within"), [(30, 0.15), (60, 0.1), (400, 0.06)])
def test_errors_equal_those_of_resampled_images(num_images, within):
    counts = drawn_counts(num_images, seed=num_images)
    pooled = pooled_of(counts)
    single, difference = by_bootstrap(counts)
    assert pooled.errors(0) == pytest.approx(single, rel=within)
    assert pooled.difference_errors() == pytest.approx(difference, rel=within)


def test_errors_on_real_pages_equal_those_of_resampled_pages(receipts, street_scenes, with_detections):
    for pages in (receipts, street_scenes):
        counts = np.array(
            [
                [match_image(page.predictions, TargetRegions.from_polygons(page.polygons, page.ignore), (0.5,))[0]]
                for page in with_detections(pages)
            ]
        )
        assert pooled_of(counts).errors() == pytest.approx(by_bootstrap(counts)[0], rel=0.15)


def test_runs_that_find_the_same_images_hard_differ_more_clearly_than_single_errors_say():
    pooled = pooled_of(drawn_counts(60, seed=1))
    apart = np.hypot(pooled.errors(0), pooled.errors(1))
    assert (np.array(pooled.difference_errors()) < 0.7 * apart).all()


def test_a_run_does_not_differ_from_itself():
    counts = drawn_counts(60, seed=2)[:, :1].repeat(2, axis=1)
    assert pooled_of(counts).difference_errors() == pytest.approx(np.zeros(3), abs=1e-9)


@pytest.mark.parametrize("num_images", [0, 1])
def test_one_image_has_no_error(num_images):
    pooled = pooled_of(drawn_counts(3, seed=3)[:num_images])
    assert pooled.errors() is None
    assert pooled.difference_errors() is None


def test_a_split_pools_each_of_its_sets_by_itself():
    counts = drawn_counts(10, seed=4)
    split = PooledSplit({"receipts": 4, "none": 0, "scenes": 6}, num_thresholds=1, num_runs=2)
    for index in np.random.default_rng(0).permutation(10).tolist():
        split.add(index, *([MatchCounts(*run)] for run in counts[index].tolist()))
    parts = {"receipts": counts[:4], "scenes": counts[4:]}
    for (pooled,), own in [(split.whole, counts), *((split.of_sets[name], own) for name, own in parts.items())]:
        expected = pooled_of(own)
        assert [pooled.counts(run) for run in range(2)] == [expected.counts(run) for run in range(2)]
        assert pooled.difference_errors() == expected.difference_errors()
    assert split.of_sets["none"][0].num_images == 0


def test_pages_without_text_and_detections_score_0_and_have_no_margin():
    pooled = PooledCounts()
    pooled.add(MatchCounts(0, 0, 0))
    pooled.add(MatchCounts(0, 0, 0))
    assert pooled.scores() == pooled.errors() == Scores(0, 0, 0)
    assert with_margin(0.0, pooled.errors().hmean) == "0.0000"


def test_a_margin_is_two_errors():
    assert with_margin(0.67714, 0.0306) == "0.6771 ± 0.0612"
    assert with_margin(0.67714, None) == "0.6771"


def test_a_difference_is_clear_beyond_its_margin_in_either_direction():
    assert [is_clear(difference, 0.01) for difference in (-0.021, -0.019, 0.019, 0.021)] == [True, False, False, True]
    assert not is_clear(0.5, None)
    assert not is_clear(0.5, 0.0)
