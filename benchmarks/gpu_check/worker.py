"""The process that measures: it takes names of steps on its standard input and answers each with a line.

Imports take seconds, so one process may run many steps.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu_check.figures import CannotMeasure, Figures, Measure, figures_path
from benchmarks.gpu_check.settings import CheckSettings
from ocr.atomic_write import write_atomically

SETTINGS_NAME = "settings.json"


def serve(measures: Mapping[str, Measure], output: Path) -> None:
    """Runs the steps it is told, until its input ends. Everything printed in a step goes to logs/STEP.log."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    settings = CheckSettings.read(output / SETTINGS_NAME)
    for line in sys.stdin:
        step = line.strip()
        log = os.open(output / "logs" / f"{step}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        answers.write(json.dumps(_run(measures[step], settings, output, step)) + "\n")
        sys.stdout.flush()


def _run(measure: Measure, settings: CheckSettings, output: Path, step: str) -> dict[str, str]:
    def keep(figures: Figures) -> None:
        write_atomically(figures_path(output, step), json.dumps(figures, indent=1).encode())

    try:
        measure(settings, keep)
    except CannotMeasure as reason:
        return {"status": "skipped", "reason": str(reason)}
    except BaseException as error:  # SystemExit too: a wrong configuration ends in one
        traceback.print_exc()
        return {"status": "failed", "reason": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    return {"status": "measured"}


def main() -> None:
    from benchmarks.gpu_check.measures import MEASURES  # here: it imports torch and DALI

    serve(MEASURES, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
