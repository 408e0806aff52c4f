"""The driver's budget, limits, crashes and Ctrl-C, with test files that cause them."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).resolve().parent
HEAD = '''"""Title of {name}"""
import os, pathlib, subprocess, sys, time, pytest

@pytest.mark.gpu
def test_it(record):
    record("process", os.getpid())
'''
BODIES = {
    "good": ['record("value", 2, "units", at_least=1)'],
    "low": ['record("first", float("nan"), at_most=1)', 'record("second", 0, at_least=1)', 'record("third", 3)'],
    "raises": ['raise ValueError("no luck")'],
    "crashes": ["os._exit(3)"],
    "hangs": [
        'child = subprocess.Popen(["sleep", "600"], start_new_session=True)',
        'pathlib.Path(__file__).with_name("child").write_text(str(child.pid))',
        "time.sleep(600)",
    ],
    "skips": ['pytest.skip("there is no data")'],
}


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Runs the driver on some of the test files; returns what gpu_check.json says, by check."""
    monkeypatch.syspath_prepend(HERE)
    from run import Check, Driver

    shutil.copy(HERE / "conftest.py", tmp_path)
    for name, body in BODIES.items():
        source = HEAD.format(name=name) + "".join(f"    {line}\n" for line in body)
        (tmp_path / f"test_{name}.py").write_text(source)
    (tmp_path / "test_broken.py").write_text("import no_such_module")

    def driven(*names, limits=None, minutes=1.0, shares_process=True, needed=None):
        limits = limits or {}
        checks = [Check(name, limits.get(name, 30), at_least=1, is_needed=name == needed) for name in names]
        output = tmp_path / "output"
        Driver(checks, output, minutes=minutes, folder=tmp_path, shares_process=shares_process).run()
        return {check["name"]: check for check in json.loads((output / "gpu_check.json").read_text())["checks"]}

    return driven


def only_test(check):
    (test,) = check["tests"].values()
    return test


def is_alive(process: int) -> bool:
    """Returns whether a process still runs after five seconds: the system may take a moment to end it."""
    for _ in range(50):
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.1)
    return True


def test_each_failure_is_named_and_the_other_checks_run(drive, tmp_path):
    checks = drive("good", "hangs", "low", "raises", "crashes", "skips", "broken", limits={"hangs": 1})
    statuses = {name: check["status"] for name, check in checks.items()}
    failures = ("hangs", "low", "raises", "crashes", "broken")
    assert statuses == {"good": "passed", "skips": "skipped"} | dict.fromkeys(failures, "failed")
    assert checks["hangs"]["reason"] == only_test(checks["hangs"])["message"] == "stopped at its limit of 1 s"
    assert checks["crashes"]["reason"] == "its process ended with exit code 3"
    assert checks["skips"]["reason"] == "there is no data"
    low = only_test(checks["low"])
    assert low["message"] == "first: measured nan, limit: at most 1; second: measured 0, limit: at least 1"
    assert [figure.get("passed") for figure in low["figures"]] == [None, False, False, None]
    assert "ValueError: no luck" in only_test(checks["raises"])["message"]
    assert "no_such_module" in only_test(checks["broken"])["message"]
    assert not is_alive(int((tmp_path / "child").read_text()))
    for name in ("hangs", "raises", "crashes"):
        assert only_test(checks[name])["figures"][0]["name"] == "process"
    text = (tmp_path / "output" / "gpu_check.md").read_text()
    assert "| good | value | 2 units | at least 1 units | yes |" in text
    assert "- skips: Title of skips. Skipped: there is no data" in text
    assert "- good: Title of good. Passed in" in text
    assert re.search(
        r"\| raises \| `.*test_raises.py::test_it` \| ValueError: no luck \| passes \| \*\*NO\*\* \|", text
    )
    log = (tmp_path / "output" / "logs" / "good.log").read_text()
    assert re.search(r"test_hangs.py., line \d+ in test_it", log)  # the stacks of a check that was stopped


def test_each_check_has_a_process_of_its_own_on_a_gpu(drive):
    good, low = drive("good", "low", shares_process=False).values()
    assert (good["status"], low["status"]) == ("passed", "failed")
    assert only_test(good)["figures"][0]["value"] != only_test(low)["figures"][0]["value"]


def test_checks_that_do_not_fit_the_budget_are_skipped(drive):
    checks = drive("hangs", "good", minutes=0.02)
    assert checks["hangs"]["reason"] == "stopped at its limit of 1 s"
    assert checks["good"]["status"] == "skipped"
    assert checks["good"]["reason"] == "0 s were left of the 0.02 minutes; it needs at least 1 s"


def test_nothing_runs_without_a_needed_check(drive):
    checks = drive("skips", "good", needed="skips")
    assert checks["good"]["status"] == "skipped"
    assert checks["good"]["reason"] == "skips did not pass"


def test_ctrl_c_keeps_what_was_seen(drive, tmp_path):
    def press() -> None:
        while not (tmp_path / "child").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist may ignore it
    threading.Thread(target=press, daemon=True).start()
    checks = drive("good", "hangs", "skips")
    signal.signal(signal.SIGINT, before)
    assert [check["status"] for check in checks.values()] == ["passed", "interrupted", "skipped"]
    assert only_test(checks["hangs"])["figures"][0]["name"] == "process"
    assert checks["skips"]["reason"] == "interrupted before it began"
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_ctrl_c_while_a_result_is_written_loses_none(drive, monkeypatch):
    import run

    written = []

    def write(*arguments):
        written.append(arguments)
        if len(written) == 1:  # of the first check, when the second one has begun
            raise KeyboardInterrupt
        write_reports(*arguments)

    write_reports = run.write_reports
    monkeypatch.setattr(run, "write_reports", write)
    checks = drive("good", "hangs", "skips")
    assert [check["status"] for check in checks.values()] == ["passed", "interrupted", "skipped"]


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["passed", "skipped"], 0),
        (["passed", "failed"], 1),
        (["skipped", "skipped"], 1),
        (["passed", "interrupted", "skipped"], 130),
    ],
)
def test_the_exit_status_follows_the_checks(statuses, status, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    from report import Result, exit_status

    assert exit_status([Result("name", "title", each) for each in statuses]) == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes 0: must be more than 0"),
        (["--minutes", "nan"], "--minutes nan: must be more than 0"),
        (["--output", "full"], "--output full: exists; name a new or an empty folder"),
        (["--output", "full/file"], "--output full/file: exists"),
        (["--data", "nowhere"], "--data nowhere: there is no jsons/train.json in it"),
        (["--data", "full"], "--data full: there is no jsons/val.json in it"),
        (["--receipts"], "--receipts needs --data FOLDER"),
        (["--only", "decode,decoed"], "--only decoed: no such check; choose from environment, gpu_tests, decode"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(HERE)
    from run import parse_arguments

    (tmp_path / "full" / "jsons").mkdir(parents=True)
    (tmp_path / "full" / "jsons" / "train.json").touch()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_only_files_with_gpu_tests_are_collected_outside_the_checks(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    from run import OTHER_TESTS

    names = {Path(path).relative_to(HERE.parent).as_posix() for path in OTHER_TESTS}
    assert {"ocr/training/test_cuda_graphs.py", "ocr/targets/test_triton_maps.py"} < names
    assert "ocr/metrics/test_cleval.py" not in names  # needs a package of the development group
    assert not [name for name in names if name.startswith("gpu/")]


def test_tests_see_one_gpu_at_most():
    """A run takes all GPUs by default, and the command that it would start again for each other GPU is pytest's."""
    assert "," not in os.environ["CUDA_VISIBLE_DEVICES"]


def test_checks_are_chosen_in_order_after_the_environment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    from run import NAMES, chosen_checks, parse_arguments

    def chosen(*arguments):
        return [check.name for check in chosen_checks(parse_arguments([*arguments, "--output", str(tmp_path)]))]

    assert chosen("--only", "targets,,decode") == ["environment", "decode", "targets"]
    assert chosen() == [name for name in NAMES if name != "receipts"]
    assert chosen("--cpu") == [name for name in NAMES if name not in ("gpu_tests", "receipts")]
