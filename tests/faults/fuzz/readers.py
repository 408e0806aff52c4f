"""The readers of files that a stranger may have written, with a valid file of each, and what they may do with a broken one.

A reader may accept a file or refuse it with one of its errors. What it accepts must make sense: `read` checks that, by assertions.
"""

import hashlib
import io
import json
import random
import shutil
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from dali_pipelines.turbojpeg import decode_upright
from ocr.cache.files import EntryError, EntryFiles
from ocr.checkpoint import CONFIG_KEY, MODEL_PREFIX, load_checkpoint
from ocr.config import PrepareConfig, TrainConfig, validate_config
from ocr.datasets.audit import build_manifest, load_manifest
from ocr.datasets.column_file import map_columns
from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.interface import AnnotationFormat
from ocr.datasets.formats.read import AUTO, FORMATS, read_annotations
from ocr.datasets.image_checks import inspect_image
from ocr.datasets.manifest import Manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.datasets.shards.images import load_shards
from ocr.errors import InputError, StorageError
from ocr.file_names import name_problem
from ocr.models.dbnet import build_dbnet
from ocr.onnx_network import INPUT_NAME, OUTPUT_NAME, load_onnx
from ocr.polygons import PolygonBatch
from ocr.prediction_lines import LINES_NAME, PredictionLines
from ocr.preparation.prepare import prepare_data
from ocr.targets.config import TargetConfig
from ocr.targets.maps import make_targets
from ocr.targets.offline import UnfitMaps, check_maps, maps_key, write_maps
from ocr.training.resume import resumption
from tests.faults.fuzz.mutations import (
    Mutation,
    mutated_archive,
    mutated_bytes,
    mutated_checkpoint,
    mutated_columns,
    mutated_json,
    mutated_text,
    mutated_xml,
)
from tests.ocr.datasets.formats.samples import write_images

SEEDS = Path(__file__).with_name("seeds")
"""Folders by the name of a format. A new format needs a folder with at least one valid file, and no code."""
EXTENSIONS = (".jpg", ".jpeg", ".png")
SIZE = (32, 32)


@dataclass(frozen=True)
class Reader:
    """One reader of files."""

    name: str
    mutate: Mutation
    samples: tuple[bytes, ...]
    """Valid files."""
    read: Callable[[bytes], None]
    """Reads a file with this content; raises one of `errors`, or AssertionError for a file that should not be accepted."""
    errors: tuple[type[BaseException], ...]


def build_readers(drawn: Path, folder: Path) -> list[Reader]:
    """Returns all readers.

    Args:
        drawn: drawn data set, not written to.
        folder: empty folder to write to.
    """
    images = write_images(folder)
    return [
        *(_annotations(one, seed, images, folder / one.name / seed.stem) for one in FORMATS for seed in seeds_of(one)),
        _upstage(drawn, folder / "drawn"),
        _icdar(drawn, folder / "drawn_icdar"),
        _index(drawn, folder / "index"),
        _memo(drawn, folder / "memo"),
        _checkpoint(folder / "checkpoint"),
        _resumed(folder / "resumed"),
        *_onnx(folder / "onnx"),
        _lines(folder / "lines"),
        _entry(folder / "entry"),
        _maps(folder / "maps"),
        _config(),
        _image(drawn, folder / "image"),
    ]


def _check_manifest(manifest: Manifest) -> None:
    assert all(name_problem(name) is None for name in manifest.filenames)
    assert len(set(manifest.filenames)) == len(manifest.filenames)
    assert np.isfinite(manifest.polygons.vertices).all()
    assert all(len(ring) >= 3 for index in range(len(manifest)) for ring in manifest.polygons.polygons_of(index))
    assert (manifest.stored_sizes > 0).all()
    assert (manifest.sample_ids >= 0).all()


def _read_annotations(path: Path, images: Path, report_path: Path, annotation_format: str = AUTO) -> None:
    annotations = list(read_annotations(path, ImageFolder(images, EXTENSIONS), annotation_format))
    manifest, report = build_manifest(
        images, annotations, extensions=EXTENSIONS, on_bad_sample="skip", check_pixels=False, report_path=report_path
    )
    _check_manifest(manifest)
    # Nothing in a finding can control a terminal; odd spaces and unassigned characters may stay.
    text = "".join(str(finding) for finding in report.findings)
    assert not {unicodedata.category(char) for char in set(text)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    json.loads(report_path.read_text())


def seeds_of(annotation_format: AnnotationFormat) -> list[Path]:
    """Returns the valid files of a format, for the images of tests/ocr/datasets/formats/samples.py."""
    return sorted((SEEDS / annotation_format.name).iterdir())


def _annotations(annotation_format: AnnotationFormat, seed: Path, images: Path, folder: Path) -> Reader:
    """Returns the reader of one file of a format. The other files of its folder stay as they are."""
    shutil.copytree(seed.parent, folder)
    path = folder if annotation_format.place == "folder" else folder / seed.name

    def read(content: bytes) -> None:
        (folder / seed.name).write_bytes(content)
        named = zlib.crc32(content) % 4 > 0  # the others are looked at
        report = folder.with_suffix(".report")
        _read_annotations(path, images, report, annotation_format.name if named else AUTO)

    mutate = {".json": mutated_json, ".xml": mutated_xml}.get(
        seed.suffix, mutated_bytes if seed.suffix == ".mat" else mutated_text
    )
    name = f"{annotation_format.name} {seed.name}"
    return Reader(name, mutate, (seed.read_bytes(),), read, (InputError,))


def _upstage(drawn: Path, folder: Path) -> Reader:
    folder.mkdir(parents=True)

    def read(content: bytes) -> None:
        (folder / "train.json").write_bytes(content)
        _read_annotations(folder / "train.json", drawn / "images" / "train", folder / "report.json")

    sample = (drawn / "jsons" / "train.json").read_bytes()
    small = json.dumps({"images": dict(list(json.loads(sample)["images"].items())[:2])}).encode()
    return Reader("drawn upstage", mutated_json, (sample, small), read, (InputError,))


def _icdar(drawn: Path, folder: Path) -> Reader:
    (folder / "gt").mkdir(parents=True)
    names = sorted(path.stem for path in (drawn / "images" / "train").iterdir())
    (folder / "gt" / f"gt_{names[1]}.txt").write_text("10,10,60,10,60,30,10,30,text\n" * 3)

    def read(content: bytes) -> None:
        (folder / "gt" / f"gt_{names[0]}.txt").write_bytes(content)
        _read_annotations(folder / "gt", drawn / "images" / "train", folder / "report.json")

    samples = (
        b"10,10,60,10,60,30,10,30,total\n10,40,60,40,60,60,10,60,###\n10,70,60,70,60,90,10,90,1,234.00\n",
        b'38, 43, 120, 65, "Tiredness"\n275, 294, 300, 310, "kills"\n',
        b"10,10,60,10,70,20,60,30,10,30,5,20,curved\n1,2,30,2,30,40,text\n",
    )
    return Reader("drawn icdar", mutated_text, samples, read, (InputError,))


def _index(drawn: Path, folder: Path) -> Reader:
    source = folder / "source"
    for part in ("images", "jsons"):
        shutil.copytree(drawn / part, source / part)
    values = {"image_path": f"{source}/images/train", "annotation_path": f"{source}/jsons/train.json"}
    config = {"dataset_base_path": str(source), "output": str(folder / "out"), "maps": False, "shards": True}
    config |= {"splits": ["train"], "datasets": {"train_dataset": {"config": values}}}
    prepare_data(PrepareConfig.model_validate(config), folder / "run")
    shards = folder / "out" / "shards" / "train"
    sample = (shards / "index.columns").read_bytes()
    digests = {row.tobytes().hex() for row in map_columns(shards / "index.columns").columns["sha256"]}

    def read(content: bytes) -> None:
        (shards / "index.columns").write_bytes(content)
        manifest, _ = load_shards(str(shards), report_path=folder / "report.json")
        assert all(name_problem(name) is None for name in manifest.filenames)
        assert np.isfinite(manifest.polygons.vertices).all()
        for index in range(min(len(manifest), 2)):
            assert hashlib.sha256(manifest.images.read(index)).hexdigest() in digests

    return Reader("shard index", mutated_columns, (sample,), read, (InputError, StorageError, OSError))


def _checkpoint(folder: Path) -> Reader:
    folder.mkdir(parents=True)
    values = {"model": {"fpn_channels": 16, "backbone": {"name": "mobilenetv3_small_050", "weights": None}}}
    config = TrainConfig.model_validate(values)
    torch.manual_seed(0)
    weights = build_dbnet(config.model, config.targets.map_stride).state_dict()
    state = {f"{MODEL_PREFIX}{key}": value for key, value in weights.items()}
    torch.save({CONFIG_KEY: config.model_dump(mode="json"), "state_dict": state}, folder / "whole.ckpt")

    def read(content: bytes) -> None:
        (folder / "a.ckpt").write_bytes(content)
        _, model = load_checkpoint(folder / "a.ckpt")
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())

    sample = (folder / "whole.ckpt").read_bytes()
    return Reader("checkpoint", mutated_checkpoint, (sample,), read, (InputError,))


def _memo(drawn: Path, folder: Path) -> Reader:
    images, annotations = drawn / "images" / "train", drawn / "jsons" / "train.json"
    split = DatasetConfig(image_path=str(images), annotation_path=str(annotations), audit_memo=str(folder))
    expected, _ = load_manifest(split, max_megapixels=100)
    (path,) = folder.glob("**/*.memo")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        manifest, report = load_manifest(split, max_megapixels=100)
        _check_manifest(manifest)
        assert len(manifest) <= len(expected)
        str(report)

    return Reader("audit memo", mutated_columns, (path.read_bytes(),), read, (InputError,))


def _resumed(folder: Path) -> Reader:
    folder.mkdir(parents=True)
    config = TrainConfig()
    state = {
        CONFIG_KEY: config.model_dump(mode="json"),
        "state_dict": {"model.a": torch.zeros(2)},
        "optimizer_states": [],
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}},
        "global_step": 3,
        "callbacks": {"RunSummary": {"summary": {"epochs": []}}},
    }
    torch.save(state, folder / "whole.ckpt")

    def read(content: bytes) -> None:
        (folder / "last.ckpt").write_bytes(content)
        found = resumption(config.model_copy(update={"resume": str(folder / "last.ckpt")}), (), folder)
        assert found.first_step >= 0
        found.check_data({})

    return Reader("resume", mutated_checkpoint, ((folder / "whole.ckpt").read_bytes(),), read, (InputError,))


def _onnx(folder: Path) -> list[Reader]:
    """Returns the reader of .onnx files, if onnx and onnxruntime are installed."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError:
        return []
    folder.mkdir(parents=True)
    node = onnx.helper.make_node("ReduceMean", [INPUT_NAME, "axes"], [OUTPUT_NAME], keepdims=0)
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    given = onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.FLOAT, ["B", 3, "H", "W"])
    made = onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["B", "H", "W"])
    graph = onnx.helper.make_graph([node], "network", [given], [made], [axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {CONFIG_KEY: TrainConfig().model_dump_json()})
    sample = model.SerializeToString()

    def mutate(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutated_bytes(content, rng)
        changed = onnx.ModelProto.FromString(content)
        # A string of protobuf is UTF-8.
        values = mutated_json(TrainConfig().model_dump_json().encode(), rng).decode("utf-8", "replace")
        onnx.helper.set_model_props(changed, {CONFIG_KEY: values})
        return changed.SerializeToString()

    def read(content: bytes) -> None:
        (folder / "a.onnx").write_bytes(content)
        load_onnx(folder / "a.onnx", "cpu")

    return [Reader("onnx", mutate, (sample,), read, (InputError,))]


def _lines(folder: Path) -> Reader:
    names, header = ("a.jpg", "b/c.jpg"), {"checkpoint": "1", "images": "2", "settings": "3"}
    with PredictionLines(folder, header, names) as lines:
        for name in names:
            lines.append(json.dumps({"image": name, "words": {}}).encode() + b"\n")

    def read(content: bytes) -> None:
        (folder / LINES_NAME).write_bytes(content)
        with PredictionLines(folder, header, names) as lines:
            assert [line["image"] for line in lines.read()] == list(names[: lines.num_done])

    def mutate(content: bytes, rng: random.Random) -> bytes:
        *before, line = content.splitlines(keepends=True)[: rng.choice((1, 2, 3))]
        return b"".join([*before, mutated_json(line, rng).replace(b"\n", b""), b"\n"])

    return Reader("prediction lines", mutate, ((folder / LINES_NAME).read_bytes(),), read, ())


def _entry(folder: Path) -> Reader:
    files = EntryFiles(folder, budget=10**6)
    key = hashlib.sha256(b"entry").digest()
    expected = np.arange(3000, dtype=np.uint8)
    files.write(key, [expected])
    (path,) = folder.glob("*.entry")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        found = np.zeros_like(expected)
        files.read(key, [found])
        assert np.array_equal(found, expected)

    return Reader("cache entry", mutated_bytes, (path.read_bytes(),), read, (EntryError,))


def _maps(folder: Path) -> Reader:
    config = TargetConfig(min_side=2)
    square = np.array([[4, 4], [28, 4], [28, 28], [4, 28]], np.float32)
    polygons = PolygonBatch.from_lists([[square]], [[False]])
    key, path = maps_key(polygons, SIZE, config), folder / "a.jpg.npz"
    write_maps(path, make_targets(polygons, SIZE, config), key)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        check_maps(path, key, SIZE)

    return Reader("maps", mutated_archive, (path.read_bytes(),), read, (UnfitMaps,))


def _config() -> Reader:
    def read(content: bytes) -> None:
        # As `run_command` and `checked_job` do, which turn these errors into one line.
        try:
            given = yaml.safe_load(content)
        except ValueError as error:
            if isinstance(error, UnicodeDecodeError) or "integer string conversion" in str(error):
                return
            raise
        config = validate_config(TrainConfig, OmegaConf.create(given if isinstance(given, dict) else {}))
        assert TrainConfig.model_validate(config.model_dump()) == config

    default = TrainConfig().model_dump(mode="json")
    samples = (yaml.safe_dump(default).encode(), json.dumps(default).encode())
    errors = (SystemExit, yaml.YAMLError, UnicodeDecodeError, RecursionError, OmegaConfBaseException)
    return Reader("config", _mutated_config, samples, read, errors)


def _mutated_config(content: bytes, rng: random.Random) -> bytes:
    """Returns at most 64 KB: PyYAML takes 20 s for a megabyte, and a configuration is written by the user."""
    return (mutated_json if content.startswith(b"{") else mutated_text)(content, rng)[: 2**16]


def _image(drawn: Path, folder: Path) -> Reader:
    folder.mkdir(parents=True)
    png = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 8, 7)).save(png, "PNG")
    jpegs = sorted((drawn / "images" / "train").iterdir(), key=lambda path: path.stat().st_size)

    def read(content: bytes) -> None:
        path = folder / ("a.png" if content.startswith(b"\x89PNG") else "a.jpg")
        path.write_bytes(content)
        header = inspect_image(path, EXTENSIONS, 100, with_pixels=True).header
        if header is not None:
            pixels = decode_upright(content, header.orientation, stored_size=header.stored_size)
            assert sorted(pixels.shape[:2]) == sorted(header.stored_size)

    samples = (jpegs[0].read_bytes(), jpegs[1].read_bytes(), png.getvalue())
    return Reader("image", mutated_bytes, samples, read, (ValueError, OSError))
