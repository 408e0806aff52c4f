import pytest

from ocr.config import PredictConfig
from ocr.errors import InputError
from ocr.inference import predict


@pytest.mark.parametrize("output", ["", "images", "images/found"])
def test_predict_refuses_to_write_among_the_images(tmp_path, output):
    images = tmp_path / "images" if output else tmp_path
    config = PredictConfig(checkpoint="any.ckpt", images=str(images), output=str(tmp_path / output))
    with pytest.raises(InputError, match="lies in the folder of images"):
        predict(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
