"""One checkpoint has the same hmean on the GPU and on the CPU; without a GPU, with loader=dali and loader=torch"""

import pytest
import torch

from ocr.config import EvaluateConfig
from ocr.inference import evaluate

MAX_HMEAN_DIFFERENCE = 0.002


@pytest.mark.gpu
def test_a_checkpoint_has_the_same_hmean_on_both(trained_checkpoint, on_cpu, tmp_path, record, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which has the 10 bits of float16
    other = {"device": "cpu", "loader": "torch"} if on_cpu else {"device": "gpu", "loader": "dali"}
    hmeans = []
    for way in ({"device": "cpu", "loader": "dali"}, other):
        name = ", ".join(way.values())
        config = EvaluateConfig.model_validate(
            {"checkpoint": str(trained_checkpoint), "split": "val", "precision": "32-true", **way}
        )
        hmeans.append(evaluate(config, tmp_path / name)["hmean"])
        record(f"hmean, {name}", hmeans[-1])
    assert hmeans[0] > 0, "two zeros would agree too"
    record("hmean difference", abs(hmeans[0] - hmeans[1]), at_most=MAX_HMEAN_DIFFERENCE)
