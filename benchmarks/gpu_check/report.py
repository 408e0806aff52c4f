"""gpu_check.json, with everything, and gpu_check.md, to be read."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.lines import Line
from benchmarks.gpu_check.runner import StepResult, document
from benchmarks.gpu_check.settings import CheckSettings
from ocr.atomic_write import write_atomically


def write_report(results: Sequence[StepResult], settings: CheckSettings, command: Sequence[str]) -> None:
    """Both files, into the output folder."""
    output = Path(settings.output)
    content = {"command": list(command), "settings": vars(settings), "steps": document(results)}
    write_atomically(output / "gpu_check.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(output / "gpu_check.md", markdown(results, settings, command).encode())


def markdown(results: Sequence[StepResult], settings: CheckSettings, command: Sequence[str]) -> str:
    """Environment, verdict, all lines in one table, what was skipped, then each step with its figures."""
    parts = ["# GPU check" + (" without a GPU" if settings.cpu else ""), f"    {' '.join(command)}"]
    first = next((result for result in results if result.name == "environment"), None)
    if first is not None and first.lines:
        parts.append("\n".join(f"- {line.what}: {line.found}" for line in first.lines))
        versions = first.figures.get("versions", {})
        parts.append(
            "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version) + "."
        )
    parts += [_verdict(results), _table([result for result in results if result is not first])]
    left_out = [result for result in results if result.status in ("skipped", "interrupted")]
    if left_out:
        rows = "\n".join(f"- {result.name} ({result.title}), {result.status}: {result.reason}" for result in left_out)
        parts.append(f"## Not seen\n\n{rows}")
    broken = [result for result in results if result.status == "failed" and result.reason]
    if broken:
        rows = "\n".join(
            f"- {result.name}: {result.reason}. What it printed: logs/{result.name}.log" for result in broken
        )
        parts.append(f"## Did not finish\n\n{rows}")
    for result in results:
        if result.lines and result is not first:
            parts.append(_step(result))
    return "\n\n".join(parts) + "\n"


def _verdict(results: Sequence[StepResult]) -> str:
    count = {
        status: sum(result.status == status for result in results)
        for status in ("passed", "told", "failed", "skipped", "interrupted")
    }
    asked = [line for result in results for line in result.lines if line.passed is not None]
    said = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    return f"Steps: {said}. Lines asked: {sum(bool(line.passed) for line in asked)} of {len(asked)} passed."


def _table(results: Sequence[StepResult]) -> str:
    rows = ["| step | what | found | asked | passed |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        if not result.lines:
            rows.append(f"| {result.name} | {result.title} | {_cell(result.reason or '')} | | {result.status} |")
        for line in result.lines:
            rows.append(
                f"| {result.name} | {_cell(line.what)} | {_cell(line.found)} | {_cell(line.asked or '')} | {_mark(line)} |"
            )
    return "\n".join(rows)


def _step(result: StepResult) -> str:
    explained: dict[str, list[str]] = {}
    for line in result.lines:  # lines of one kind share their sentence
        explained.setdefault(line.explained, []).append(line.what)
    sentences = "\n".join(
        f"- {whats[0]}{f' and {len(whats) - 1} more of its kind' if len(whats) > 1 else ''}: {sentence}"
        for sentence, whats in explained.items()
    )
    figures = json.dumps(result.figures, separators=(",", ":"))
    shown = figures if len(figures) <= 1500 else figures[:1500] + " ... (whole in gpu_check.json)"
    return f"## {result.name}: {result.title}\n\n{result.status} in {result.seconds:.0f} s.\n\n{sentences}\n\n```json\n{shown}\n```"


def _mark(line: Line) -> str:
    return "" if line.passed is None else "yes" if line.passed else "**NO**"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
