"""Measures TextDetector beside other text detectors on the same pages, and whether all its ways give the same text.

    uv run python -m benchmarks.detectors --checkpoint best.ckpt --pages receipts=FOLDER scenes=FOLDER
    uv run python -m benchmarks.detectors --checkpoint best.ckpt --exported float32.onnx int8.onnx --pages receipts=FOLDER
        --rival-python VENV/bin/python --rivals PP-OCRv4=rapidocr_onnxruntime PP-OCRv6=rapidocr

FOLDER holds images/val and jsons/val.json. A rival is NAME=PACKAGE or NAME=PACKAGE:MODEL.onnx; its packages are installed under the
Python of --rival-python, which needs nothing of this project:

    python -m venv VENV && VENV/bin/pip install rapidocr rapidocr-onnxruntime onnxruntime

--turned takes pictures with EXIF orientations, for the agreement only.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.detectors.agreement import Texts, compare, predicted
from benchmarks.detectors.processes import DetectorProcess, Found, find_in_turn
from benchmarks.detectors.report import DetectorResults, report, row_of
from benchmarks.detectors.scoring import Pages
from benchmarks.detectors.sharing import share
from benchmarks.environment import environment
from ocr.config import LoaderName
from ocr.device import cpu_is_faster_in_bfloat16
from ocr.loaders.engines import has_dali

_FOLDER = Path(__file__).parent
_CHECKPOINT = "TextDetector, checkpoint"
_LOADERS: tuple[LoaderName, ...] = ("torch", "dali")


def main() -> None:
    """Runs the command. The files are written after each step, so that an interrupted run leaves what it has measured."""
    arguments = _parse_arguments()
    torch.set_num_threads(1)
    machine = environment(torch.device("cpu"), "uv run python -m benchmarks.detectors")
    results = DetectorResults(machine, arguments.note)
    all_pages = [Pages.load(name, Path(folder), arguments.at_most) for name, folder in _named(arguments.pages)]
    paths = [path for pages in all_pages for path in pages.paths]
    own, rivals = _commands(arguments)
    found = _measure(arguments, results, all_pages, own, rivals)
    _save(arguments, results)
    _compare(arguments, results, {name: found[name] for name in own}, [*paths, *arguments.turned])
    _save(arguments, results)
    if arguments.threads:
        size = arguments.shared_image_size
        results.sharing = share(arguments.checkpoint, paths, arguments.threads, arguments.shared_pages, size)
        _save(arguments, results)
    report(results).print()


def _measure(
    arguments: argparse.Namespace,
    results: DetectorResults,
    all_pages: Sequence[Pages],
    own: Mapping[str, list[str]],
    rivals: Mapping[str, list[str]],
) -> dict[str, list[Found]]:
    """Adds the detectors' rows to the results. Returns each one's text on all pages; on turned pictures, only ours."""
    detectors = [DetectorProcess(name, command) for name, command in {**own, **rivals}.items()]
    results.detectors = {detector.name: detector.facts for detector in detectors}
    found: dict[str, list[Found]] = {detector.name: [] for detector in detectors}
    for pages in all_pages:
        measured = find_in_turn(detectors, pages.paths, arguments.rounds)
        for detector in detectors:
            rounds = measured[detector.name]
            found[detector.name] += rounds[0]
            firsts = measured[detectors[0].name][0]
            results.rows.append(row_of(pages, detector.name, detector.name in own, rounds, firsts, detector.facts))
    for detector in detectors:
        if detector.name in own:
            found[detector.name] += [detector.find(page) for page in arguments.turned]
        detector.close()
    return found


def _compare(
    arguments: argparse.Namespace, results: DetectorResults, found: Mapping[str, Sequence[Found]], paths: Sequence[Path]
) -> None:
    """Adds how far the text of TextDetector with the checkpoint agrees with that of float32 files and of predict.py."""
    texts: dict[str, list[Texts]] = {
        name: [(page.polygons, page.scores) for page in pages] for name, pages in found.items()
    }
    for name in found:
        if "float32" in name:
            results.agreements[name] = compare(texts[_CHECKPOINT], texts[name])
    for loader in _LOADERS if has_dali() else _LOADERS[:1]:
        with tempfile.TemporaryDirectory() as folder:
            written = predicted(arguments.checkpoint, paths, loader, Path(folder))
        results.agreements[f"predict.py loader={loader}"] = compare(texts[_CHECKPOINT], written, rounding=(0.01, 1e-4))


def _commands(arguments: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns the command of each of our detectors, the checkpoint's first, and of each rival."""
    start = [sys.executable, str(_FOLDER / "own_process.py")]
    own = {_CHECKPOINT: [*start, str(arguments.checkpoint), "32-true"]}
    if cpu_is_faster_in_bfloat16():  # what TextDetector chooses by itself there
        own["TextDetector, checkpoint in bfloat16"] = [*start, str(arguments.checkpoint), "bf16-mixed"]
    own |= {f"TextDetector, {file.name}": [*start, str(file), "32-true"] for file in arguments.exported}
    rivals = {}
    for name, rival in _named(arguments.rivals):
        package, *model = rival.split(":", 1)
        rivals[name] = [str(arguments.rival_python), str(_FOLDER / "rival_process.py"), package, *model]
    return own, rivals


def _named(pairs: Sequence[str]) -> list[tuple[str, str]]:
    split = [pair.partition("=") for pair in pairs]
    wrong = [pair for pair, (_, _, value) in zip(pairs, split, strict=True) if not value]
    if wrong:
        raise SystemExit(f"{wrong[0]}: expected NAME=VALUE")
    return [(name, value) for name, _, value in split]


def _save(arguments: argparse.Namespace, results: DetectorResults) -> None:
    if arguments.json:
        arguments.json.write_text(json.dumps(results.document(), indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report(results).markdown())


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of a run")
    parser.add_argument("--exported", type=Path, nargs="+", default=[], metavar="FILE", help=".onnx files of it")
    parser.add_argument("--pages", nargs="+", required=True, metavar="NAME=FOLDER", help="annotated data sets")
    parser.add_argument("--turned", type=Path, nargs="+", default=[], metavar="FILE", help="pictures with EXIF")
    parser.add_argument("--rivals", nargs="+", default=[], metavar="NAME=PACKAGE[:MODEL]", help="other detectors")
    parser.add_argument("--rival-python", type=Path, default=Path(sys.executable), help="Python of the rivals")
    parser.add_argument("--rounds", type=int, default=1, help="passes over the pages (default %(default)s)")
    parser.add_argument("--at-most", type=int, help="pages of a data set (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="also share a detector among this many threads")
    parser.add_argument("--shared-pages", type=int, default=1000, help="pages of these threads (default %(default)s)")
    parser.add_argument("--shared-image-size", type=int, default=320, help="their image_size (default %(default)s)")
    parser.add_argument("--note", nargs="+", default=[], help="lines for the report, on the checkpoint for example")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
