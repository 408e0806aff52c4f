import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ocr import TextDetector
from ocr.checkpoint import CONFIG_KEY, MODEL_PREFIX
from ocr.config import EvaluateConfig, ExportConfig, PredictConfig, TrainConfig
from ocr.errors import InputError
from ocr.export.run import LARGEST_HMEAN_LOSS, export
from ocr.export.triton_client import find_text, read_metadata
from ocr.inference import evaluate, predict
from ocr.models.dbnet import build_dbnet
from tests.splits import splits

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

THRESHOLDS = {"bin_thresh": 0.5, "box_thresh": 0.3}
"""The untrained network's maps have many regions at these."""


@pytest.fixture(scope="module")
def checkpoint(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small untrained network whose data set is `drawn`."""
    config = TrainConfig.model_validate(
        {
            "pipeline": {"image_size": 160},
            "model": {"fpn_channels": 16, "backbone": {"weights": None}},
            "postprocess": THRESHOLDS,
            "datasets": splits(drawn),
        }
    )
    torch.manual_seed(0)
    weights = build_dbnet(config.model, config.targets.map_stride).state_dict()
    state = {f"{MODEL_PREFIX}{key}": value for key, value in weights.items()}
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    torch.save({CONFIG_KEY: config.model_dump(mode="json"), "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def repository(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository for Triton, whose network takes uint8 levels."""
    folder = tmp_path_factory.mktemp("export") / "models"
    config = ExportConfig(checkpoint=str(checkpoint), output=str(folder), format="triton", uint8_input=True)
    comparison = export(config)
    assert comparison.num_pictures == 8
    assert comparison.largest_difference < 1e-4
    assert comparison.hmean_torch is not None
    assert comparison.hmean_exported == pytest.approx(comparison.hmean_torch, abs=0.001)
    return folder


@pytest.fixture(scope="module")
def onnx_file(repository: Path) -> Path:
    return repository / "dbnet/1/model.onnx"


@pytest.fixture(scope="module")
def images(drawn: Path) -> list[Path]:
    """Images, half of them turned by EXIF."""
    return sorted((drawn / "images/val").glob("*.jpg"))


def assert_close(found, expected) -> None:
    assert found.size == expected.size
    assert len(found.polygons) == len(expected.polygons)
    for polygon, other in zip(found.polygons, expected.polygons, strict=True):
        np.testing.assert_allclose(polygon, other, atol=0.5)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


def test_detector_finds_the_same_text_with_an_onnx_file(checkpoint, onnx_file, images):
    expected = TextDetector(checkpoint, device="cpu", precision="32-true", batch_size=3)(images)
    found = TextDetector(onnx_file, device="cpu", batch_size=3)(images)
    assert sum(len(text.polygons) for text in expected) > 20
    for text, other in zip(found, expected, strict=True):
        assert_close(text, other)


def test_tiles_and_turns_work_with_an_onnx_file(checkpoint, onnx_file, images):
    closer = {"device": "cpu", "batch_size": 3, "tile": 200, "rotations": "auto"}
    expected = TextDetector(checkpoint, precision="32-true", **closer)(images[:3])
    found = TextDetector(onnx_file, **closer)(images[:3])
    assert sum(len(text.polygons) for text in expected) > 5
    for text, other in zip(found, expected, strict=True):
        assert text.rotation == other.rotation
        assert_close(text, other)


def test_predict_takes_an_onnx_file(onnx_file, images, tmp_path):
    config = PredictConfig(
        checkpoint=str(onnx_file),
        images=str(images[0].parent),
        output=str(tmp_path / "found"),
        loader="torch",
        draw=False,
    )
    entries = json.loads((predict(config, tmp_path) / "predictions.json").read_text())["images"]
    detector = TextDetector(onnx_file)
    assert {name: len(entry["words"]) for name, entry in entries.items()} == {
        image.name: len(detector(image).polygons) for image in images
    }


def test_evaluate_takes_an_onnx_file_and_its_data_set(onnx_file, tmp_path):
    scores = evaluate(EvaluateConfig(checkpoint=str(onnx_file), split="val", loader="torch", device="cpu"), tmp_path)
    assert scores["images"] == 8
    assert 0 <= scores["hmean"] <= 1


def test_metadata_hold_what_postprocessing_needs(onnx_file):
    metadata = onnxruntime.InferenceSession(onnx_file).get_modelmeta().custom_metadata_map
    values = {key: json.loads(metadata[key]) for key in ("stride", "map_stride", "image_size", "bin_thresh", "classes")}
    assert values == {"stride": 32, "map_stride": 1, "image_size": 160, "bin_thresh": 0.5, "classes": ["text"]}
    assert {
        "shrink_ratio",
        "box_thresh",
        "unclip_ratio",
        "unclip_offset",
        "mean",
        "std",
        "version",
        CONFIG_KEY,
    } <= metadata.keys()
    assert metadata["input"] == "uint8 RGB, NHWC, 0 to 255"


def test_graph_has_named_dynamic_dimensions(onnx_file):
    session = onnxruntime.InferenceSession(onnx_file)
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_outputs()[0].shape == ["batch", "map_height", "map_width"]
    for shape in ((1, 32, 64, 3), (3, 96, 32, 3)):
        (prob_map,) = session.run(None, {"images": np.zeros(shape, np.uint8)})
        assert prob_map.shape == shape[:3]


def test_no_batch_norm_is_left_in_the_graph(onnx_file):
    operators = {node.op_type for node in onnx.load(onnx_file).graph.node}
    assert "Conv" in operators
    assert "BatchNormalization" not in operators


def test_int8_is_calibrated_keeps_the_input_and_is_checked(checkpoint, onnx_file, tmp_path):
    output = tmp_path / "int8.onnx"
    config = ExportConfig(
        checkpoint=str(checkpoint),
        output=str(output),
        precision="int8",
        uint8_input=True,
        num_images=2,
        max_hmean_loss=1,
    )
    assert 1e-6 < export(config).largest_difference < 0.5
    assert output.stat().st_size < 0.4 * onnx_file.stat().st_size
    session = onnxruntime.InferenceSession(output)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert json.loads(session.get_modelmeta().custom_metadata_map["image_size"]) == 160


def test_torch_export_gives_the_network_with_metadata(checkpoint, images, tmp_path):
    output = tmp_path / "model.pt2"
    comparison = export(
        ExportConfig(
            checkpoint=str(checkpoint),
            output=str(output),
            format="torch_export",
            images=str(images[0].parent),
            num_images=3,
        )
    )
    assert comparison.largest_difference < 1e-4
    assert comparison.hmean_torch is None
    extra = {"metadata.json": ""}
    program = torch.export.load(output, extra_files=extra)
    assert json.loads(extra["metadata.json"])["image_size"] == "160"
    assert program.module()(torch.zeros(1, 3, 64, 96)).shape == (1, 64, 96)


def test_client_of_triton_finds_what_the_detector_finds(repository, onnx_file, images):
    session = onnxruntime.InferenceSession(onnx_file)
    network = read_metadata(repository / "dbnet/metadata.json")
    detector = TextDetector(onnx_file)
    for image in images[:2]:
        found = find_text(image, network, lambda batch: session.run(None, {"images": np.ascontiguousarray(batch)})[0])
        expected = detector(image)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
        assert len(found.polygons) == len(expected.polygons) > 0


def test_repository_is_never_overwritten(checkpoint, repository):
    assert sorted(path.name for path in (repository / "dbnet").iterdir()) == [
        "1",
        "client.py",
        "config.pbtxt",
        "metadata.json",
    ]
    assert "dynamic_batching" in (repository / "dbnet/config.pbtxt").read_text()
    with pytest.raises(InputError, match="holds a model dbnet already"):
        export(ExportConfig(checkpoint=str(checkpoint), output=str(repository), format="triton"))


def test_a_failed_check_writes_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(LARGEST_HMEAN_LOSS, "float16", -1.0)  # float16 cannot be that much better
    content = torch.load(checkpoint, weights_only=True)
    content[CONFIG_KEY]["pipeline"]["output_dtype"] = (
        "float16"  # a run in mixed precision; the export is float32 at first
    )
    content[CONFIG_KEY]["trainer"]["precision"] = "bf16-mixed"
    torch.save(content, tmp_path / "mixed.ckpt")
    config = ExportConfig(
        checkpoint=str(tmp_path / "mixed.ckpt"), output=str(tmp_path / "half.onnx"), precision="float16", num_images=1
    )
    with pytest.raises(InputError, match=r"precision=float16: hmean 0.*, PyTorch's is 0.*; nothing is written"):
        export(config)
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.ckpt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "model.bin"}, r"writes a file that ends in \.onnx$"),
        ({"output": "."}, r"writes a file that ends in \.onnx$"),
        ({"output": "m.pt2"}, r"format=onnx writes a file that ends in \.onnx; for \.pt2 give format=torch_export$"),
        ({"output": "m.safetensors"}, r"ends in \.onnx; for \.safetensors give format=safetensors$"),
        (
            {"output": f"{__file__}/model.onnx"},
            r"found a file, .*test_run\.py, expected a folder",
        ),
        ({"output": f"{__file__}/models", "format": "triton"}, r"found a file, .*test_run\.py, expected a folder"),
        ({"checkpoint": "model.onnx", "output": "again.onnx"}, "is exported already"),
        (
            {"format": "safetensors", "output": "a.safetensors", "card": "none.md"},
            "card=none.md: cannot be read: No such file",
        ),
        ({"format": "safetensors", "output": "a.safetensors", "card": "."}, "card=.: cannot be read: Is a directory"),
    ],
)
def test_wrong_names_are_refused_before_any_work(given, message):
    with pytest.raises(InputError, match=message):
        export(ExportConfig(**{"checkpoint": "none.ckpt", **given}))


def test_precision_of_an_onnx_file_cannot_be_changed(onnx_file):
    with pytest.raises(InputError, match=r"an \.onnx file has the precision it was exported with"):
        TextDetector(onnx_file, precision="bf16-mixed")


def test_damaged_and_foreign_onnx_files_are_named(onnx_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        TextDetector(tmp_path / "none.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(InputError, match="onnxruntime cannot read it"):
        TextDetector(damaged)
    foreign = onnx.load(onnx_file)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="it has no configuration"):
        TextDetector(tmp_path / "foreign.onnx")


def test_missing_extra_is_one_line_with_the_command(checkpoint, onnx_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails then, as if it were not installed
    with pytest.raises(InputError, match=r"^format=onnx: needs the extra: uv sync --extra onnx$"):
        export(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "model.onnx")))
    with pytest.raises(InputError, match=r"model\.onnx: needs the extra: uv sync --extra onnx$"):
        TextDetector(onnx_file)
