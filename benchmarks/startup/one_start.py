"""One start in its own process: prints a line of JSON with the seconds and the memory of each stage.

    python benchmarks/startup/one_start.py FOLDER MEMO

It uses only what earlier versions have too, so that PYTHONPATH chooses the version that is measured.
"""

import json
import sys
import time
from pathlib import Path


class Stages:
    """Seconds and memory by stage."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float | str]] = []
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self, name: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.rows.append(
            {
                "stage": name,
                "seconds": wall - self._wall,
                "cpu_seconds": cpu - self._cpu,
                "resident_mb": _status_mb("VmRSS"),
                "anonymous_mb": _status_mb("RssAnon"),
                "peak_mb": _status_mb("VmHWM"),
            }
        )
        self._wall, self._cpu = wall, cpu


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    folder, memo = Path(sys.argv[1]), sys.argv[2]
    stages = Stages()
    from dali_pipelines.config import PipelineConfig
    from ocr.datasets.audit import load_manifest
    from ocr.datasets.base import ValidatedOCRDataset
    from ocr.datasets.plan import SamplePlanner
    from ocr.datasets.schemas import DatasetConfig
    from ocr.targets.config import TargetConfig

    stages.end("imports")
    settings = {
        "image_path": str(folder / "images" / "train"),
        "annotation_path": str(folder / "jsons" / "train.json"),
    }
    if "audit_memo" in DatasetConfig.model_fields:
        settings["audit_memo"] = memo
    config, pipeline = DatasetConfig(**settings), PipelineConfig()
    manifest, report = load_manifest(config, max_megapixels=pipeline.max_megapixels)
    stages.end("audit")
    dataset = ValidatedOCRDataset(config, SamplePlanner(pipeline, training=True, seed=0), TargetConfig(), manifest)
    samples = dataset.planned(range(0, len(manifest), -(-len(manifest) // 16)))
    for row in range(len(samples)):
        dataset.render(samples[row])
    dataset.make_targets(samples)
    stages.end("first batch")
    print(json.dumps({"images": len(manifest), "words": report.num_words, "stages": stages.rows}))


if __name__ == "__main__":
    main()
