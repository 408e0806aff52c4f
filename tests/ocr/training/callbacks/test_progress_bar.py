"""The picture of a run in a terminal, and what is left of it."""

import logging
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ocr.command_line import compose_config
from ocr.config import EvaluateConfig
from ocr.inference import evaluate
from ocr.terminal_log import log_above_bars
from ocr.training.callbacks.losses import LossLog
from ocr.training.callbacks.progress_bar import ProgressBar
from ocr.training.fit import train
from ocr.training.host_sync import ForbidHostSync
from tests.terminal import Terminal, lines_left


@pytest.fixture
def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], str]:
    """Calls a function whose output goes to a terminal, with its log, and returns what is written there."""

    def call(function: Callable[[], object]) -> str:
        terminal, root = Terminal(), logging.getLogger()
        for variable, value in {"TERM": "xterm-256color", "COLUMNS": "250", "LINES": "50"}.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(sys, "stdout", terminal.file)
        monkeypatch.setattr(sys, "stderr", terminal.file)
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("[log] %(message)s"))
        root.addHandler(handler)
        level = root.level
        root.setLevel(logging.INFO)
        try:
            log_above_bars()
            function()
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            written = terminal.close()
        return written

    return call


def test_a_terminal_shows_one_bar_no_line_runs_into_it_and_it_leaves_nothing(tiny_run, in_terminal, tmp_path, drawn):
    written = in_terminal(lambda: train(tiny_run("loader=torch"), tmp_path / "run"))
    assert re.search(r"Epoch 2/2 .*waiting: ", written)
    left = lines_left(written)
    assert sum(line.startswith("[log] epoch ") for line in left) == 2
    assert_log_only(left)

    given = ["data=upstage", f"dataset_base_path={drawn}", "split=val", "device=cpu", "loader=torch"]
    given.append(f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}")
    written = in_terminal(lambda: evaluate(compose_config(EvaluateConfig, "evaluate", given), tmp_path / "evaluated"))
    assert re.search(r"Evaluation .*2/2", written)
    assert_log_only(lines_left(written))


def test_hmean_is_read_from_the_device_after_a_validation_and_not_in_each_step():
    bar = ProgressBar(LossLog(1))
    trainer: Any = SimpleNamespace(
        callback_metrics={"val/hmean": torch.tensor(0.5)}, train_dataloader=None, state=SimpleNamespace(fn="fit")
    )
    module: Any = None
    bar.on_validation_end(trainer, module)
    with ForbidHostSync():
        assert bar.get_metrics(trainer, module) == {"hmean": "0.500"}


def assert_log_only(lines: list[str]) -> None:
    """Asserts that no bar is among the lines, and that a log line begins each line that has one."""
    assert lines[-2].startswith("[log] everything is in ")
    assert lines[-1] == ""
    assert not [line for line in lines if re.match(r"(Epoch|Validation|Evaluation|Predicting) ", line)]
    assert not [line for line in lines if "[log]" in line[1:]]
