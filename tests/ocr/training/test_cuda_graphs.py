"""A forward pass is recorded, replayed or run eagerly. On a CPU a substitute records: it runs the pass into fixed tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from ocr.config import TrainerConfig
from ocr.models.config import BackboneConfig, ModelConfig
from ocr.models.db_head import DBMaps
from ocr.models.dbnet import DBNet, build_dbnet
from ocr.training.cuda_graphs import Forward, GraphedForward, Recording
from ocr.training.network import EvaluationForward, forward_maps, prepare_network


class Recorder:
    """Counts recordings and replays."""

    def __init__(self) -> None:
        self.recorded, self.replayed = 0, 0

    def __call__(self, forward: Forward, images: Tensor) -> Recording:
        self.recorded += 1
        static_images, maps = images.clone(), forward(images)

        def replay() -> None:
            self.replayed += 1
            for static, new in zip(maps, forward(static_images), strict=True):
                static.copy_(new)

        return Recording(static_images, maps, replay)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> DBMaps:
        return DBMaps(self.weight * images[:, 0], images[:, 1])


def graphed() -> tuple[Scale, Recorder, GraphedForward]:
    model, recorder = Scale(), Recorder()
    return model, recorder, GraphedForward(model, lambda: chain(model.parameters(), model.buffers()), recorder)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def batch(value: float, size: int = 2) -> Tensor:
    return torch.full((size, 3, 4, 4), value)


def test_the_first_batch_is_recorded_and_similar_ones_are_replayed():
    _, recorder, forward = graphed()
    for value in (1.0, 3.0, 5.0):
        maps = forward(batch(value))
        assert (maps.prob_logits == 2 * value).all()
        assert (maps.thresh_map == value).all()
    assert (recorder.recorded, recorder.replayed) == (1, 3)


@pytest.mark.parametrize("other", [batch(7, size=1), batch(7).double(), batch(7).to(memory_format=torch.channels_last)])
def test_other_batches_run_eagerly_and_keep_the_recording(other):
    _, recorder, forward = graphed()
    forward(batch(1))
    assert (forward(other).prob_logits == 14).all()
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    forward(batch(3))
    assert (recorder.recorded, recorder.replayed) == (1, 2)


def test_a_replay_reads_new_values_in_the_same_memory():
    """New values come from an optimizer step, from swapping in averaged weights, or from loading a checkpoint."""
    model, recorder, forward = graphed()
    forward(batch(1))
    model.weight.copy_(torch.tensor(10.0))
    assert (forward(batch(1)).prob_logits == 10).all()
    model.load_state_dict({"weight": torch.tensor(4.0)})
    assert (forward(batch(1)).prob_logits == 4).all()
    assert recorder.recorded == 1


def test_a_weight_in_other_memory_needs_a_new_recording():
    model, recorder, forward = graphed()
    forward(batch(1))
    kept = model.weight.data  # so that its memory is not used again
    model.weight.data = torch.tensor(10.0)
    assert (forward(batch(1)).prob_logits == 10).all()
    assert recorder.recorded == 2
    assert kept == 2


def test_another_autocast_needs_a_new_recording():
    _, recorder, forward = graphed()
    forward(batch(1))
    with torch.autocast("cpu", torch.bfloat16):
        forward(batch(1))
        forward(batch(1))
    assert (recorder.recorded, recorder.replayed) == (2, 3)


def test_after_a_release_the_next_batch_is_recorded():
    _, recorder, forward = graphed()
    forward(batch(1))
    forward.release()
    assert (forward(batch(3)).prob_logits == 6).all()
    assert recorder.recorded == 2


def small_network() -> DBNet:
    torch.manual_seed(0)
    return build_dbnet(ModelConfig(backbone=BackboneConfig(weights=None), fpn_channels=16), map_stride=4).eval()


def evaluation(model: DBNet, settings: TrainerConfig, device_type: str) -> EvaluationForward:
    prepare_network(model, settings)
    return EvaluationForward(model, settings, device_type)


def whole(images: torch.Tensor) -> npt.NDArray[np.int64]:
    """Sizes of images that fill their inputs."""
    return np.array([images.shape[2:]] * len(images))


def test_on_a_cpu_cuda_graphs_change_nothing_and_the_log_says_so(caplog):
    model = small_network()
    images = torch.randn(2, 3, 64, 64)
    expected = forward_maps(model, images, channels_last=True)
    found = evaluation(model, TrainerConfig(cuda_graphs=True), "cpu")(images, whole(images))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert "trainer.cuda_graphs has no effect on a CPU" in caplog.text


@contextmanager
def compiled_without_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """torch.compile traces and guards as usual, but generates no code, which takes a minute. Yields the number of graphs."""
    compile_module = nn.Module.compile
    with monkeypatch.context() as patched:
        patched.setattr(
            nn.Module, "compile", lambda module, **options: compile_module(module, backend="eager", **options)
        )
        torch._dynamo.reset()
        counters = torch._dynamo.utils.counters
        counters.clear()
        yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def test_a_smaller_last_batch_uses_the_compiled_code_of_the_others(monkeypatch):
    """In float16, as in the tensor cache, under the autocast of a CPU with bfloat16."""
    model = small_network()
    images = torch.randn(3, 3, 64, 64).half()
    with torch.autocast("cpu", torch.bfloat16):
        expected = forward_maps(model, images, channels_last=True)
        with compiled_without_code(monkeypatch) as num_graphs:
            forward = evaluation(model, TrainerConfig(compile=True), "cpu")
            together = forward(images, whole(images))
            num_before = num_graphs()
            parts = [forward(part, whole(part)) for part in (images[:2], images[2:])]
            assert num_graphs() == num_before > 0
    for name, maps in enumerate(zip(*parts, strict=True)):
        torch.testing.assert_close(together[name], expected[name])
        assert torch.equal(torch.cat(maps), together[name])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_replay_on_the_gpu_gives_the_maps_of_the_eager_pass(precision, dtype, monkeypatch):
    """Each batch twice, the last one smaller; then with other weights in the same memory and in other memory."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # the maps are compared bit by bit
    settings = TrainerConfig(cuda_graphs=True)
    model = small_network().cuda()
    forward = evaluation(model, settings, "cuda")
    batches = [torch.randn(size, 3, 64, 64, device="cuda").to(dtype) for size in (3, 3, 2)]
    for change in ("none", "in place", "moved"):
        if change == "in place":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1)
        elif change == "moved":
            model.load_state_dict({name: 0.9 * tensor for name, tensor in model.state_dict().items()}, assign=True)
        with torch.autocast("cuda", precision or torch.float16, enabled=precision is not None):
            for images in batches * 2:
                padded = torch.cat([images, images[-1:].expand(3 - len(images), -1, -1, -1)])
                expected = [maps[: len(images)].clone() for maps in forward_maps(model, padded, True)]
                found = [maps.clone() for maps in forward(images, whole(images))]
                assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)), change
    forward.release()
