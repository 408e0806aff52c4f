"""scripts/export.py: writes a checkpoint's network for other runtimes, after it has been compared with PyTorch."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ocr import __version__
from ocr.atomic_write import refuse_unwritable, write_durably
from ocr.checkpoint import average_weights, load_checkpoint, read_weights, text_of
from ocr.config import ExportConfig, InferenceConfig, TrainConfig
from ocr.errors import InputError
from ocr.export.check import Comparison, Pictures, calibration_pictures, choose_pictures, compare
from ocr.export.graph import describe, metadata, save_torch_export, to_onnx, trace
from ocr.export.reduced import to_float16, to_int8
from ocr.export.triton import check_output, write_repository
from ocr.given_files import WEIGHTS_EXTENSION
from ocr.models.db_head import ProbMap
from ocr.models.dbnet import DBNet
from ocr.onnx_network import import_extra, is_onnx, levels_of, load_onnx
from ocr.restore import restore
from ocr.weights_file import write_weights_file

log = logging.getLogger(__name__)

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of the maps of a float32 file from PyTorch's."""
LARGEST_HMEAN_LOSS = {"float32": 0.001, "float16": 0.002, "int8": 0.01}
"""Largest loss of hmean by precision, unless max_hmean_loss says otherwise."""
_NUM_PROBES = 4
"""Calibration pictures whose maps say which layers int8 leaves in float32."""
EXTENSION = {"onnx": ".onnx", "torch_export": ".pt2", "triton": "", "safetensors": WEIGHTS_EXTENSION}


def export(config: ExportConfig) -> Comparison:
    """Writes the network of a checkpoint as config.format to config.output. Returns how it differs from PyTorch's.

    Raises:
        FileNotFoundError: no such checkpoint.
        InputError: the network cannot be exported, or the file differs too much from PyTorch; nothing is written then.
    """
    output, card = _checked_output(config), _read_card(config.card)
    for name in ("onnx", "onnxscript", "onnxruntime") if config.format in ("onnx", "triton") else ():
        import_extra(name, f"format={config.format}")  # before any work
    settings, model = restore(
        InferenceConfig(
            checkpoint=config.checkpoint,
            device="cpu",
            precision="32-true",
            image_size=config.image_size,
            postprocess=config.postprocess,
        )
    )
    if not isinstance(model, DBNet):
        raise TypeError(f"{config.checkpoint}: expected a PyTorch network")  # only for the type checker
    average_weights(model, config.average, "average")
    # A run in mixed precision may have float16 images, which float32 arithmetic refuses.
    settings = settings.model_copy(
        update={"pipeline": settings.pipeline.model_copy(update={"output_dtype": "float32"})}
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = choose_pictures(config, settings, folder / "drawn")
        files = ", averaged with ".join([config.checkpoint, *config.average])
        log.info("exporting %s as %s, %s", files, config.format, config.precision)
        file = folder / f"model{EXTENSION[config.format] or '.onnx'}"
        exported: nn.Module
        if config.format == "safetensors":
            _write_weights(file, model, config, settings, card)
            exported = load_checkpoint(file)[1]
        elif config.format == "torch_export":
            save_torch_export(trace(model, settings, config.uint8_input), settings, file)
            exported = _ExportedProgram(file, settings, config.uint8_input)
        else:
            program = trace(model, settings, config.uint8_input)
            _write_onnx(file, to_onnx(program, settings), config, settings, pictures)
            exported = load_onnx(file, "cpu")[1]
        comparison = compare(model, exported, settings, pictures)
        _tell(comparison, config)
        if config.format == "triton":
            described = metadata(settings, config.uint8_input, config.precision)
            write_repository(output, file, described, config.uint8_input)
        else:
            write_durably(output, file.read_bytes())
    log.info("written: %s%s", output, f" ({output.stat().st_size / 1e6:.1f} MB)" if output.is_file() else "")
    return comparison


def _checked_output(config: ExportConfig) -> Path:
    output, extension = Path(config.output), EXTENSION[config.format]
    if output.suffix.lower() != extension and extension:
        others = [name for name, ending in EXTENSION.items() if ending and ending == output.suffix.lower()]
        advice = f"; for {output.suffix} give format={others[0]}" if others else ""
        raise InputError(f"output={output}: format={config.format} writes a file that ends in {extension}{advice}")
    if extension and output.is_dir():
        raise InputError(f"output={output}: found a folder, expected the name of a file")
    if config.format == "triton":
        check_output(output)
    refuse_unwritable(output.parent if extension else output, f"output={output}")
    if is_onnx(config.checkpoint):
        raise InputError(f"checkpoint={config.checkpoint}: is exported already; give the .ckpt file of a run")
    return output


def _read_card(path: str | None) -> str | None:
    """Returns the text of the setting `card`; None: it is not set.

    Raises:
        InputError: not a text file.
    """
    try:
        return None if path is None else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"card={path}: cannot be read: {reason}; give a text file about the weights") from error


def _write_weights(file: Path, model: DBNet, config: ExportConfig, settings: TrainConfig, card: str | None) -> None:
    """Writes weights with the configuration they were trained with, and this export's image_size and thresholds."""
    trained = read_weights(config.checkpoint).config
    if trained is None:
        raise TypeError(f"{config.checkpoint}: expected a configuration")  # only for the type checker
    size = trained.pipeline.model_copy(update={"image_size": settings.pipeline.image_size})
    text = text_of(trained.model_copy(update={"pipeline": size, "postprocess": settings.postprocess}))
    text |= {"version": __version__, "precision": config.precision}
    if config.license is not None:
        text["license"] = config.license
    if card is not None:
        text["card"] = card
    float16 = config.precision == "float16"
    write_weights_file(file, model.state_dict(), text, float16=float16)


def _write_onnx(file: Path, model: Any, config: ExportConfig, settings: TrainConfig, pictures: Pictures) -> None:
    onnx = import_extra("onnx", "format=onnx")
    if config.precision == "float16":
        model = to_float16(model)
    elif config.precision == "int8":
        calibration = calibration_pictures(config, settings, pictures)
        probes = replace(calibration, limit=min(calibration.limit, _NUM_PROBES))
        inputs, probed = (some.graph_inputs(config.uint8_input) for some in (calibration, probes))
        model = to_int8(model, inputs, list(probed), file.parent)
    describe(model, settings, config.uint8_input, config.precision)
    onnx.checker.check_model(model)
    onnx.save(model, file)


class _ExportedProgram(nn.Module):
    """The program of a .pt2 file; takes normalised images, like the network."""

    def __init__(self, file: Path, settings: TrainConfig, uint8_input: bool) -> None:
        super().__init__()
        self._run = torch.export.load(file).module()
        self._pipeline, self._uint8_input = settings.pipeline, uint8_input

    def forward(self, images: Tensor) -> ProbMap:
        if self._uint8_input:
            images = levels_of(images, self._pipeline)
        return ProbMap(self._run(images.contiguous()))


def _tell(found: Comparison, config: ExportConfig) -> None:
    """Logs how the file differs from PyTorch.

    Raises:
        InputError: it differs too much.
    """
    log.info(
        "largest difference of the maps from PyTorch's on %d pictures: %.2g",
        found.num_pictures,
        found.largest_difference,
    )
    allowed = LARGEST_HMEAN_LOSS[config.precision] if config.max_hmean_loss is None else config.max_hmean_loss
    limit = LARGEST_DIFFERENCE if config.precision == "float32" else 1.0
    if not found.largest_difference <= limit:
        raise InputError(
            f"precision={config.precision}: the maps differ from PyTorch's by {found.largest_difference:.2g}, expected at most "
            f"{limit:g}; nothing is written. Try another precision, or another version of torch or onnxruntime"
        )
    if found.hmean_torch is None or found.hmean_exported is None:
        log.info("these pictures have no annotations, so hmean is not compared")
        return
    hmeans = {"hmean": (found.hmean_torch, found.hmean_exported)}
    hmeans |= {f"hmean of {name}": pair for name, pair in found.hmean_of_sets.items()}
    for title, (in_torch, in_file) in hmeans.items():
        log.info("%s %.4f, PyTorch %.4f", title, in_file, in_torch)
    for title, (in_torch, in_file) in hmeans.items():
        if in_torch - in_file > allowed:
            raise InputError(
                f"precision={config.precision}: {title} {in_file:.4f}, PyTorch's is {in_torch:.4f}; a loss of at most "
                f"{allowed:g} is accepted (max_hmean_loss); nothing is written. Use precision=float32, or check on more pictures "
                "(num_images)"
            )
