import pytest
import torch

from dali_pipelines.allocation_errors import FailedAllocation
from ocr.errors import OutOfMemory
from ocr.memory.out_of_memory import ExplainOutOfMemory, out_of_memory_text

MB = 10**6


def test_the_message_without_remedies_still_names_the_holders_of_the_memory():
    failed = FailedAllocation("RAM", "DALI", 5 * MB)
    text = out_of_memory_text(failed, when="", cache_bytes={"ram": 3 * MB}, remedies=())
    assert text.startswith("RAM ran out: DALI requested 5 MB; ")
    assert "including 3 MB in caches" in text
    assert "uv run" not in text


@pytest.mark.parametrize(("requested", "is_fragmented"), [(800 * MB, True), (2_000 * MB, False)])
def test_on_a_gpu_the_shares_of_torch_and_dali_are_named(monkeypatch, requested, is_fragmented):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300 * MB, 8_000 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6_000 * MB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5_000 * MB)
    failed = FailedAllocation("GPU memory", "torch", requested)
    text = out_of_memory_text(failed, when="in training, epoch 1", cache_bytes={"gpu": 10**9}, remedies=())
    assert text.startswith(
        f"GPU memory ran out in training, epoch 1: torch requested {requested // MB:,} MB; 300 MB of 8,000 MB free.\n"
        "  torch: 6,000 MB, including 1,000 MB in caches and 1,000 MB unused\n"
        "  DALI, CUDA and other programs: 1,700 MB"
    )
    assert ("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before the command may help" in text) == is_fragmented


def test_the_message_is_that_of_the_moment_when_memory_ran_out():
    asked = []
    explain = ExplainOutOfMemory(remedies=lambda in_validation: asked.append(in_validation) or (), when="in validation")

    def run_out() -> None:
        try:
            bytearray(1 << 60)
        except MemoryError as error:
            explain.explain_now(error, {"ram": 3 * MB})
            explain.when = "later"
            raise

    with pytest.raises(OutOfMemory, match=r"ran out in validation: .*\n.*including 3 MB in caches"), explain:
        run_out()
    assert asked == [True]


def test_only_failed_allocations_are_explained():
    with pytest.raises(KeyError), ExplainOutOfMemory():
        raise KeyError("x")
    with pytest.raises(OutOfMemory, match=r"^RAM ran out before the first step: ") as caught, ExplainOutOfMemory():
        bytearray(1 << 60)
    with pytest.raises(OutOfMemory) as again, ExplainOutOfMemory():
        raise caught.value
    assert again.value is caught.value
