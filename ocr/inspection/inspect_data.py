"""Looks at the splits of a data set and writes what it sees: one HTML file, and PNG sheets with png=true."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from dali_pipelines.config import AUTO, PipelineConfig
from ocr.atomic_write import refuse_unwritable, write_durably
from ocr.config import NOT_SET, InspectConfig
from ocr.datasets.base import ValidatedOCRDataset
from ocr.datasets.data_checks import Measures, check_splits
from ocr.datasets.image_checks import IMAGE_EXTENSIONS
from ocr.datasets.plan import SamplePlanner
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError
from ocr.file_names import shown
from ocr.image_size import with_chosen_size
from ocr.inspection.histograms import histograms_of
from ocr.inspection.letters import letters_by_script
from ocr.inspection.near_duplicates import near_duplicates
from ocr.inspection.page import SplitPage, page
from ocr.inspection.strange import Chosen, strangest
from ocr.loaders.engines import Engine, has_dali
from ocr.loaders.loader import BatchLoader
from ocr.report.html import Shown
from ocr.report.samples import PANELS, as_jpeg, histogram_sheet, sample_strips, sheet, tile
from ocr.splits import audited_split, checks_of_split, draw_if_synthetic, layout_advice, say_check

log = logging.getLogger(__name__)

_NUM_NAMED = 5
"""Number of near duplicates that a line names."""


@dataclass(frozen=True)
class _Seen:
    """Results for one split: its page, and the pictures of its sheets."""

    dataset: ValidatedOCRDataset
    page: SplitPage
    tiles: list[Image.Image]
    strips: list[Image.Image]


def inspect_data(config: InspectConfig, run_dir: Path) -> Path:
    """Writes the report and returns the path of its HTML file.

    Bad images and words are left out and listed, as with on_bad_sample=skip. After the audit only num_images, num_samples and
    num_compared images are read, however many there are.

    Raises:
        InputError: there is no split to look at, or none of its images is usable.
        StorageError: a file cannot be written.
    """
    if config.images == NOT_SET:
        draw_if_synthetic(config)
    elif config.pipeline.image_size == AUTO:
        raise InputError(
            f"images={config.images} pipeline.image_size=auto: auto goes by the heights of annotated training words, and these "
            f"images have no annotations; give a number, such as pipeline.image_size={PipelineConfig().image_size}"
        )
    output = run_dir / "report.html" if config.output == NOT_SET else Path(config.output).resolve()
    if output.suffix.lower() != ".html":
        raise InputError(f"output={output}: expected a file that ends in .html")
    if output.is_dir():
        raise InputError(f"output={output}: found a folder, expected the name of a file")
    refuse_unwritable(output.parent, f"output={output}")
    if config.images == NOT_SET:
        config = with_chosen_size(config)
    seen = {name: _look_at(name, split, config, run_dir) for name, split in _splits(config).items()}
    together = _together(seen, config)
    settings = [
        ("pipeline.image_size", str(config.pipeline.image_size)),
        ("crop_size", str(config.pipeline.crop_size)),
        ("targets.min_side", f"{config.targets.min_side:g}"),
        ("targets.shrink_ratio", f"{config.targets.shrink_ratio:g}"),
        ("seed", str(config.seed)),
    ]
    document = page([one.page for one in seen.values()], together, settings)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_durably(output, document.encode(errors="replace"))
    log.info("the report is %s (%.1f MB); open it in a browser", output, output.stat().st_size / 1e6)
    if config.png:
        for one in seen.values():
            _write_sheets(one, output)
    return output


def _splits(config: InspectConfig) -> dict[str, DatasetConfig]:
    """Returns the splits to look at, by name."""
    if config.images != NOT_SET:
        if not Path(config.images).is_dir():
            raise InputError(f"images={config.images}: there is no such folder")
        return {"images": DatasetConfig(image_path=config.images, image_extensions=IMAGE_EXTENSIONS)}
    names = config.splits or ("train", "val", "test")
    named: dict[str, DatasetConfig] = {
        name: config.datasets.split(name) for name in names if config.datasets.has_split(name)
    }
    splits = named
    if config.loader != "webdataset" and config.splits is None:
        splits = {
            name: split
            for name, split in named.items()
            if all(Path(one.image_path).is_dir() for one in split.each_set().values())
        }
    # Without a test split, data= names the validation images as the test split too.
    firsts = {split.places: name for name, split in reversed(splits.items())}
    splits = {
        name: split for name, split in splits.items() if config.loader == "webdataset" or firsts[split.places] == name
    }
    if not splits:
        raise InputError(f"{_missing(named, config)}; images=FOLDER shows images without annotations")
    return splits


def _missing(named: dict[str, DatasetConfig], config: InspectConfig) -> str:
    """Returns which image folders of the splits do not exist, and what to change."""
    if not named:
        return "no image_path is set; give data=NAME dataset_base_path=FOLDER"
    missing = [
        (name, one)
        for name, split in named.items()
        for one in split.each_set().values()
        if not Path(one.image_path).is_dir()
    ]
    places = "; ".join(f"{name}: {one.image_path}: no such folder" for name, one in missing)
    return f"{places}; {layout_advice(missing[0][1], 'image_path', config)}"


def _look_at(name: str, split: DatasetConfig, config: InspectConfig, run_dir: Path) -> _Seen:
    split = split.model_copy(update={"on_bad_sample": "skip"}).without_list_of_one()
    manifest, reports = audited_split(split, config, run_dir / f"audit_{name}.json")
    training = name == "train"
    check = checks_of_split(manifest, reports.get(""), split, config, training=training)
    say_check(name, check)
    dataset = ValidatedOCRDataset(
        split, SamplePlanner(config.pipeline, training=training, seed=config.seed), config.targets, manifest
    )
    measures, image_size = Measures.of(manifest), config.pipeline.image_size
    letters: dict[str, int] = {}
    for one in split.each_set().values():
        for script, count in letters_by_script(one.annotation_path).items():
            letters[script] = letters.get(script, 0) + count
    chosen = strangest(measures, image_size, config.targets.min_side, config.num_images)
    tiles, images = _images(dataset, measures, chosen)
    strips, names = _samples(dataset, config)
    found = SplitPage(
        name=name,
        places=split.places,
        reports=reports,
        check=check,
        histograms=histograms_of(manifest, measures, image_size, letters),
        images=images,
        samples=[Shown(as_jpeg(strip), title, "") for strip, title in zip(strips, names, strict=True)],
        num_images=len(manifest),
    )
    return _Seen(dataset, found, tiles, strips)


def _images(
    dataset: ValidatedOCRDataset, measures: Measures, chosen: Sequence[Chosen]
) -> tuple[list[Image.Image], list[Shown]]:
    tiles, images = [], []
    polygons = dataset.manifest.polygons
    for index, reasons in chosen:
        position = int(measures.positions[index])
        name = shown(dataset.manifest.filenames[position])
        try:
            pixels = dataset.load_image(position).image_array
        except (OSError, ValueError) as error:
            log.warning("no picture of %s: %s", name, error)
            continue
        picture = tile(pixels, polygons.polygons_of(position), polygons.ignore_of(position))
        height, width = measures.sizes[index].tolist()
        facts = f"{width} x {height} px"
        if len(measures.ignore):
            facts += f", {int(measures.num_words[index]):,} words"
        tiles.append(picture)
        images.append(
            Shown(as_jpeg(picture), name, "; ".join((facts, *(reason for reason in reasons if reason not in facts))))
        )
    return tiles, images


def _samples(dataset: ValidatedOCRDataset, config: InspectConfig) -> tuple[list[Image.Image], list[str]]:
    """Returns the pictures of the first samples of epoch 0 and their names, from the loader that training uses."""
    use_dali = config.engine == "dali" and has_dali()
    engine = Engine("dali" if use_dali else "torch", torch.device("cpu"))
    number = min(config.num_samples, len(dataset))
    with closing(BatchLoader(dataset, engine, number, with_targets=True)) as loader:
        batch = next(iter(loader))
        names = [shown(dataset.manifest.filenames[index]) for index in batch.samples.indices.tolist()]
        if not dataset.manifest.polygons.num_polygons:
            batch = replace(batch, targets=None)  # four empty maps show nothing
        return sample_strips(batch, config.pipeline, config.targets), names


def _together(seen: dict[str, _Seen], config: InspectConfig) -> list[str]:
    """Returns what is wrong with training and validation split together."""
    if not {"train", "val"} <= seen.keys():
        return []
    train, val = seen["train"].dataset.manifest, seen["val"].dataset.manifest
    lines = check_splits(train, val)
    pairs = near_duplicates(train, val, config.num_compared) if config.num_compared else []
    if pairs:
        names = ", ".join(
            shown(f"{val.filenames[pair.val]} ~ {train.filenames[pair.train]}") for pair in pairs[:_NUM_NAMED]
        )
        more = f" and {len(pairs) - _NUM_NAMED} more" if len(pairs) > _NUM_NAMED else ""
        lines.append(
            f"{len(pairs):,} of the {min(len(val), config.num_compared):,} validation images compared look nearly like a training "
            f"image ({names}{more}): they may be copies, or forms of one layout with other entries; look at them, and keep "
            "pictures of one scene in one split"
        )
    for line in lines:
        log.warning("training and validation together: %s", line)
    return lines


def _write_sheets(seen: _Seen, output: Path) -> None:
    """Writes the sheets of a split beside the HTML file: report_train_images.png and so on."""
    found = seen.page
    captions = [f"{one.title}\n{one.caption}" for one in found.images]
    panels = PANELS if seen.dataset.manifest.polygons.num_polygons else PANELS[:1]
    sheets = {
        "histograms": histogram_sheet(f"{found.name}: histograms", found.histograms),
        "images": sheet(f"{found.name}: images, hardest and strangest first", seen.tiles, captions, num_columns=4),
        "samples": sheet(
            f"{found.name}: samples, each as {', '.join(panels)}",
            seen.strips,
            [one.title for one in found.samples],
            num_columns=1,
        ),
    }
    for kind, picture in sheets.items():
        path = output.with_name(f"{output.stem}_{found.name}_{kind}.png")
        picture.save(path)
        log.info("wrote %s", path)
