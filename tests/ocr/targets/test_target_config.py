import pytest
from pydantic import ValidationError

from ocr.targets.config import TargetConfig


def test_defaults_are_those_of_the_paper() -> None:
    config = TargetConfig()
    assert (config.shrink_ratio, config.thresh_min, config.thresh_max) == (0.4, 0.3, 0.7)


@pytest.mark.parametrize("thresh_min", [0.5, 0.7])
def test_thresholds_must_ascend(thresh_min: float) -> None:
    with pytest.raises(ValidationError, match=rf"thresh_min {thresh_min} must be below thresh_max 0\.5"):
        TargetConfig(thresh_min=thresh_min, thresh_max=0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shrink_ratio", 0),
        ("shrink_ratio", 1),
        ("thresh_max", 1.5),
        ("min_side", -1),
        ("map_stride", 3),
        ("max_text_weight", 0),
        ("max_text_weight", 256),  # stored as one byte
        ("min_size", 8),
    ],
)
def test_wrong_values_and_keys_are_named(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        TargetConfig.model_validate({key: value})
