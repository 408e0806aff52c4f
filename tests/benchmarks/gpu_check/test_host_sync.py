from types import SimpleNamespace

import torch

from benchmarks.gpu_check.host_sync import FIRST_STEPS, WatchSyncs


def watched(step: int, action) -> WatchSyncs:
    watch = WatchSyncs(on_gpu=False)
    watch.on_train_batch_start(SimpleNamespace(global_step=step), None, None, 0)
    action()
    watch.on_train_batch_end()
    return watch


def test_a_wait_is_counted_with_the_line_that_caused_it():
    watch = watched(FIRST_STEPS, lambda: torch.ones(3).sum().item())
    assert watch.num_steps == 1
    ((place, count),) = watch.places.items()
    assert count == 1
    assert place.startswith("_local_scalar_dense: ")
    assert "test_host_sync.py" in place


def test_what_waits_for_nothing_and_the_first_steps_are_not_counted():
    assert watched(FIRST_STEPS, lambda: torch.ones(3).sum()).places == {}
    assert watched(FIRST_STEPS - 1, lambda: torch.ones(3).sum().item()).num_steps == 0
