"""scripts/gpu_check.sh"""

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.gpu_check.report import write_report
from benchmarks.gpu_check.runner import Runner, exit_status
from benchmarks.gpu_check.settings import CheckSettings
from benchmarks.gpu_check.steps import chosen_steps, names

log = logging.getLogger(__name__)

DESCRIPTION = """Checks everything that only a GPU can show, and writes what it found to gpu_check.md and gpu_check.json.
No network is needed. The exit status is 1 where something asked for was not found, a step did not finish, or none was run;
130 after Ctrl-C."""


def main() -> int:
    settings = _parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    if settings.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever a step would take by itself
    command = ["scripts/gpu_check.sh", *sys.argv[1:]]
    log.info("writing to %s", output)
    runner = Runner(
        chosen_steps(settings),
        settings,
        [sys.executable, "-m", "benchmarks.gpu_check.worker", str(output)],
        reuses_worker=settings.cpu,  # imports take long there; a GPU's memory is surely given back by a process that ends
        on_result=lambda results: write_report(results, settings, command),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the worker must not outlive this process
    results = runner.run()
    failed = [result.name for result in results if result.status == "failed"]
    skipped = [result.name for result in results if result.status == "skipped"]
    if skipped:
        log.info("skipped: %s", ", ".join(skipped))
    log.info("failed: %s", ", ".join(failed) or "nothing")
    log.info("the result is in %s", output / "gpu_check.md")
    return exit_status(results)


def _parse_arguments() -> CheckSettings:
    parser = argparse.ArgumentParser(
        "scripts/gpu_check.sh", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="do without a GPU what can be done without one, smaller")
    parser.add_argument("--short", action="store_true", help="few and small steps, as tests run them")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all steps but receipts (default %(default)g)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"steps to run: {', '.join(names())}")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images/{train,val} and jsons/{train,val}.json")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="new or empty; default: outputs/gpu_check/ and the time"
    )
    parser.add_argument("--receipts", action="store_true", help="train on --data for eight minutes more")
    given = parser.parse_args()
    if given.receipts and given.data is None:
        parser.error("--receipts needs --data FOLDER with real receipts")
    for split in ("train", "val") if given.data is not None else ():
        if not (given.data / "jsons" / f"{split}.json").is_file():
            parser.error(f"--data {given.data}: there is no jsons/{split}.json in it")
    if not given.minutes > 0:
        parser.error(f"--minutes {given.minutes:g}: more than 0 are needed")
    output = given.output or Path("outputs") / "gpu_check" / time.strftime("%Y-%m-%d_%H-%M-%S")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        parser.error(f"--output {output}: is there already; name a new or an empty folder")
    settings = CheckSettings(
        output=str(output.resolve()),
        cpu=given.cpu,
        short=given.short,
        minutes=given.minutes,
        only=tuple(name for name in given.only.split(",") if name),
        data=None if given.data is None else str(given.data.resolve()),
        receipts=given.receipts,
    )
    try:
        chosen_steps(settings)
    except ValueError as error:
        parser.error(str(error))
    return settings


if __name__ == "__main__":
    sys.exit(main())
