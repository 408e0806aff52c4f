"""Budget, time limits, crashes and Ctrl-C, with a worker whose steps do just that."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check.lines import at_least
from benchmarks.gpu_check.report import markdown
from benchmarks.gpu_check.runner import Runner, Step, StepResult, exit_status
from benchmarks.gpu_check.settings import CheckSettings

WORKER = """
import os, subprocess, sys, time
from pathlib import Path
from benchmarks.gpu_check.figures import CannotMeasure
from benchmarks.gpu_check.worker import serve

output = Path(sys.argv[1])

def good(settings, keep):
    print("printed in good", flush=True)
    keep({"value": 2, "process": os.getpid()})

def low(settings, keep):
    keep({"value": 0})

def raises(settings, keep):
    raise ValueError("no luck")

def crashes(settings, keep):
    os._exit(3)

def cannot(settings, keep):
    raise CannotMeasure("there is no data")

def hangs(settings, keep):
    keep({"value": 2})
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (output / "child").write_text(str(child.pid))
    time.sleep(600)

serve({f.__name__: f for f in (good, low, raises, crashes, cannot, hangs)}, output)
"""


def judge(figures, settings):
    return [at_least("the value", figures["value"], 1, "What the step kept.")]


def step(name: str, seconds: float = 20, **more) -> Step:
    return Step(name, f"title of {name}", seconds, judge, **more)


def run(folder: Path, *steps: Step, minutes: float = 1, reuses_worker: bool = True) -> list[StepResult]:
    (folder / "worker.py").write_text(WORKER)
    settings = CheckSettings(output=str(folder), minutes=minutes)
    command = [sys.executable, str(folder / "worker.py"), str(folder)]
    seen: list[int] = []
    runner = Runner(
        steps, settings, command, reuses_worker=reuses_worker, on_result=lambda results: seen.append(len(results))
    )
    results = runner.run()
    assert seen == list(range(1, len(steps) + 1))
    return results


@pytest.fixture(autouse=True)
def _worker_finds_the_checkout(monkeypatch):
    root = str(Path(__file__).resolve().parents[3])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]))


def is_alive(process: int) -> bool:
    """After a while: what was killed ends when the system comes to it."""
    for _ in range(50):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.1)
    return True


def test_steps_of_one_process_are_judged_and_logged(tmp_path):
    first, again = run(tmp_path, step("good"), step("good"))
    assert (first.status, first.failures) == ("passed", [])
    assert first.figures["process"] == again.figures["process"]
    assert "printed in good" in (tmp_path / "logs" / "good.log").read_text()
    assert exit_status([first, again]) == 0


def test_each_step_has_a_process_of_its_own_where_it_should(tmp_path):
    first, again = run(tmp_path, step("good"), step("good"), reuses_worker=False)
    assert first.figures["process"] != again.figures["process"]


def test_a_hanging_step_is_ended_with_its_children_and_what_it_kept_is_judged(tmp_path):
    hung, after = run(tmp_path, step("hangs", seconds=2), step("good"))
    assert hung.status == "failed"
    assert hung.reason == "ended at its limit of 2 s"
    assert [line.passed for line in hung.lines] == [True]
    assert not is_alive(int((tmp_path / "child").read_text()))
    assert after.status == "passed"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("raises", "ValueError: no luck"), ("crashes", "its process ended with exit code 3"), ("low", None)],
)
def test_what_fails_is_named_and_the_others_run(tmp_path, name, reason):
    results = failed, after = run(tmp_path, step(name), step("good"))
    assert (failed.status, after.status) == ("failed", "passed")
    assert failed.reason is None if reason is None else reason in failed.reason
    assert exit_status(results) == 1
    text = markdown(results, CheckSettings(output=str(tmp_path)), ["gpu_check"])
    assert name in text
    assert ("**NO**" in text) == (name == "low")


def test_a_skipped_step_is_neither_passed_nor_failed(tmp_path):
    results = run(tmp_path, step("cannot"), step("good"))
    assert [result.status for result in results] == ["skipped", "passed"]
    assert exit_status(results) == 0
    text = markdown(results, CheckSettings(output=str(tmp_path)), ["gpu_check"])
    assert "- cannot (title of cannot), skipped: there is no data" in text


def test_the_end_of_the_budget_skips_with_a_line_and_is_never_passed(tmp_path):
    started = time.monotonic()
    hung, skipped, extra = run(
        tmp_path,
        step("hangs", seconds=60, least_seconds=1),
        step("good", least_seconds=5),
        step("low", is_extra=True),
        minutes=0.02,
    )
    assert time.monotonic() - started < 15
    assert hung.reason == "ended at its limit of 1 s"
    assert (skipped.status, skipped.seconds) == ("skipped", 0)
    assert "0 s were left of the 0.02 minutes; it needs 5 s at least" in skipped.reason
    assert extra.status == "failed"  # it ran: its time is its own


def test_where_no_step_was_run_nothing_was_checked(tmp_path):
    results = run(tmp_path, step("good"), step("low"), minutes=0.001)
    assert [result.status for result in results] == ["skipped", "skipped"]
    assert exit_status(results) == 1


def test_figures_that_end_early_fail_by_name(tmp_path):
    def of_a_whole_list(figures, settings):
        return [at_least("the sum", sum(figures["value"].values()), 1, "What the step kept.")]

    (result,) = run(tmp_path, Step("good", "title", 20, of_a_whole_list))
    assert (result.status, result.failures) == ("failed", ["figures are whole"])


def test_nothing_is_begun_once_a_needed_step_has_failed(tmp_path):
    _, after = run(tmp_path, step("raises", is_needed=True), step("good"))
    assert (after.status, after.reason) == ("skipped", "raises failed: ValueError: no luck")


def test_ctrl_c_keeps_what_was_seen(tmp_path):
    def press() -> None:
        while not (tmp_path / "child").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests side by side may ignore it
    presser = threading.Thread(target=press, daemon=True)
    presser.start()
    seen, hung, after = results = run(tmp_path, step("good"), step("hangs", seconds=30), step("good"))
    presser.join()
    signal.signal(signal.SIGINT, before)
    assert [result.status for result in results] == ["passed", "interrupted", "skipped"]
    assert seen.figures["value"] == hung.figures["value"] == 2
    assert after.reason == "interrupted before"
    assert exit_status(results) == 130
    assert not is_alive(int((tmp_path / "child").read_text()))
