import logging
import re
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from benchmarks.loaders.config import CompareConfig
from ocr.command_line import CONFIG_DIR, given_keys, plain_errors, prepare_hydra, run_command, silence_libraries
from ocr.command_line.command_help import key_help
from ocr.command_line.configuration import SafeLogRecord
from ocr.command_line.ranks import without_files
from ocr.commands import inspect_data
from ocr.config import EvaluateConfig, OptimizerConfig, TrainConfig
from ocr.datasets.audit import load_manifest
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import InputError, StorageError
from ocr.placement import Placement
from ocr.training.checkpoint_files import CheckpointFiles
from ocr.training.optimizer import build_schedule
from ocr.training.ranks import Ranks
from ocr.training.trainer import build_trainer
from tests.programs import Program


def test_input_errors_end_a_script_without_a_traceback():
    with pytest.raises(SystemExit, match=r"^StorageError: s3://bucket: gone$"), plain_errors():
        raise StorageError("s3://bucket: gone")


@pytest.mark.parametrize(
    ("number", "name", "advice"),
    [
        (13, "PermissionError", "permissions"),
        (28, "OSError", "free some space"),
        (20, "NotADirectoryError", "a folder"),
    ],
)
def test_an_error_of_the_operating_system_is_one_line_with_path_and_advice(number, name, advice):
    with pytest.raises(SystemExit, match=rf"^{name}: /data/a\\x1b\.jpg: .*{advice}.*$"), plain_errors():
        raise OSError(number, "reason", "/data/a\x1b.jpg")


def test_a_command_whose_output_nobody_reads_any_more_ends_without_a_word():
    code = "from ocr.command_line import plain_errors\nwith plain_errors():\n    print('line\\n' * 100_000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_command_stopped_while_it_loads_libraries_says_so_in_one_line(name):
    code = (
        "import sys, time\n"
        "from ocr.command_line import run_command\n"
        "sys.argv = ['train.py']\n"
        "run_command(lambda: (print('loading', flush=True), time.sleep(100)), 'train')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.Signals[name])
        assert process.stderr.read().decode() == f"{name} ended the command; the same command starts it again\n"
    assert process.returncode == 128 + signal.Signals[name]


def test_sigterm_ends_a_command_whose_folder_cannot_be_removed_now():
    """The log, for example, cannot be closed in the middle of a write, and logging passes over errors."""
    code = (
        "import sys, time\n"
        "from contextlib import suppress\n"
        "from ocr.command_line import command\n"
        "sys.argv, command.remove_unused_folder = ['train.py'], lambda: 1 / 0\n"
        "def main():\n"
        "    with suppress(ZeroDivisionError):\n"
        "        print('writing', flush=True), time.sleep(100)\n"
        "    time.sleep(100)\n"
        "command.run_command(main, 'train')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        try:
            assert process.wait(20) == 143
        finally:
            process.kill()


def test_the_option_png_is_the_setting(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inspect_data.py", "data=upstage", "--png"])
    given = []
    monkeypatch.setattr(inspect_data, "run_command", lambda *_: given.extend(sys.argv))
    inspect_data.run()
    assert given == ["inspect_data.py", "data=upstage", "png=true"]


def test_help_shows_the_keys_of_a_command_before_those_of_sections(monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it
    monkeypatch.setattr(sys, "argv", ["predict.py", "--help"])
    prepare_hydra()
    run_command(lambda: None, "predict")
    text = capsys.readouterr().out
    assert text.startswith("Finds text in images.")
    assert text.index("\ncheckpoint: ") < text.index("\nsynthetic:\n")
    assert "# Save each image with its detections drawn on it.\ndraw: true" in text
    assert "\noutput: (not set)" in text
    assert "???" not in text


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ("trainer.ema_decay", ["trainer.ema_decay (float, above 0, below 1 or null; default: null)"]),
        ("device", ["device (auto, cpu, gpu; default: auto)", "  auto: a GPU if there is one."]),
        (
            "model",
            [
                "model.backbone: a section; --help model.backbone",
                "model.fpn_channels (int, ≥ 16, multiple of 16; default: 256)",
            ],
        ),
    ],
)
def test_help_explains_the_keys_that_are_asked_for(monkeypatch, capsys, asked, lines):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it
    monkeypatch.setattr(sys, "argv", ["train.py", "--help", asked])
    prepare_hydra()
    run_command(lambda: None, "train")
    assert set(lines) <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("asked", ["trainer.max_epoch", "trainer.max_epochs.value", "trainers"])
def test_help_names_the_nearest_key_to_an_unknown_one(asked):
    with pytest.raises(InputError, match=rf"--help {asked}: no such key; the nearest is trainer"):
        key_help(TrainConfig, asked)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("predict", "--images imgs --output f5", "--images: settings are written key=value: images=imgs output=f5"),
        (
            "predict",
            "seed=1 --image-size=640 --draw",
            "--image-size=640: settings are written key=value: image_size=640 draw=true",
        ),
        (
            "train",
            "seed=1 --multirun device=cpu",
            "device=cpu: an option stands between the settings; give options such as ",
        ),
        ("predict", "imgs f5", "imgs: expected key=value, for example images=imgs"),
        ("train", "ds", "ds: expected key=value, for example dataset_base_path=ds"),
        ("train", "resume", "resume: expected key=value, for example resume=VALUE"),
        (
            "train",
            "data=upstage,dataset_base_path=ds",
            "2 settings in one argument; write them apart: data=upstage dataset_base_path=ds",
        ),
        ("train", "seed=[1", "seed=[1: the value has a special character, or a bracket that is not closed; "),
        ("train", "data=upstag", "data=upstag: no such choice; the nearest is upstage (all: --help)"),
        (
            "train",
            "data=upstage,icdar",
            "several values; add --multirun after the settings for a run with each, or give a list: data=[upstage,icdar]",
        ),
        (
            "train",
            "seed=range(3)",
            "seed=range(3): several values; add --multirun after the settings for a run with each",
        ),
        (
            "train",
            "seed=1,2 --multirun --cfg job",
            "--multirun --cfg: these options exclude each other; give one (--cfg shows a single run)",
        ),
        ("train", "--resolve", "--resolve: expected --cfg beside it, as in --cfg job --resolve"),
        ("train", "performance=q", "performance=q: no such choice; there are balanced, baseline, constrained, max"),
    ],
)
def test_a_mistake_in_the_syntax_of_a_command_is_one_line_that_names_the_argument(
    monkeypatch, command, arguments, message
):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *arguments.split()])
    prepare_hydra()

    def main() -> None:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            compose(command, overrides=sys.argv[1:])

    with pytest.raises(SystemExit, match=rf"^[^\n]*{re.escape(message)}[^\n]*$"):
        run_command(main, command)


def test_schemas_are_stored_once_in_a_process(monkeypatch):
    prepare_hydra(("compare_schema", CompareConfig))
    stored = []
    monkeypatch.setattr(ConfigStore, "store", lambda _, name, node: stored.append(name))
    prepare_hydra(("compare_schema", CompareConfig))
    assert stored == []
    node = ConfigStore.instance().load("evaluate_schema.yaml").node
    assert OmegaConf.to_container(node) == EvaluateConfig.model_construct().model_dump(mode="json")


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ValueError, match="bug"), plain_errors():
        raise ValueError("bug")
    with pytest.raises(RuntimeError, match="bug"), plain_errors():
        raise RuntimeError("bug")


MULTIRUN = """
import hydra
from ocr.command_line import CONFIG_DIR, checked_job, prepare_hydra, run_command
from ocr.config import TrainConfig
from ocr.errors import DivergedError, InputError

prepare_hydra()

@hydra.main(config_path=str(CONFIG_DIR), config_name="train", version_base="1.3")
def main(hydra_config):
    with checked_job(TrainConfig, hydra_config) as (config, _):
        if config.seed == 1:
            raise {error}("gone")
        print("trained", config.seed)

run_command(main, "train")
"""


@pytest.mark.parametrize(("error", "num_trained"), [("DivergedError", 2), ("InputError", 1)])
def test_a_run_that_diverges_does_not_end_its_multirun(error, num_trained, tmp_path):
    script = tmp_path / "several.py"
    script.write_text(MULTIRUN.format(error=error))
    ended = Program(script, "-m", "seed=0,1,2", "dataset_base_path=data", cwd=tmp_path).wait()
    assert ended.returncode == 1
    assert ended.stdout.count("trained") == num_trained
    assert ended.stderr.splitlines()[-1] == f"{error}: gone"
    assert "Traceback" not in ended.stderr


def test_a_first_step_that_the_gradient_scaler_leaves_out_warns_nobody():
    weight, scaler = torch.ones(1, requires_grad=True), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = build_schedule(optimizer, 10, OptimizerConfig())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_libraries()
        scaler.scale(weight.sum() * torch.inf).backward()
        scaler.step(optimizer)
        schedule.step()
    assert weight.item() == 1
    assert not caught


def test_a_message_cannot_control_the_terminal():
    with pytest.raises(SystemExit) as ended, plain_errors():
        raise InputError("gt_\x1b[2J.txt\u2028:\n  line \u202etxt")
    assert str(ended.value) == "InputError: gt_\\x1b[2J.txt\\u2028:\n  line \\u202etxt"


def test_a_log_line_cannot_control_the_terminal():
    record = SafeLogRecord("ocr", logging.INFO, "file.py", 1, "read %s\nof %d", ("a\x1b[31m\u2029\ud800.jpg", 3), None)
    assert record.getMessage() == "read a\\x1b[31m\\u2029\\ud800.jpg\nof 3"


def test_cut_annotations_end_a_script_with_one_line(drawn, tmp_path):
    (tmp_path / "train.json").write_text('{"images": {}')
    config = DatasetConfig(
        image_path=str(drawn / "images/train"), annotation_path=str(tmp_path / "train.json"), on_bad_sample="skip"
    )
    with pytest.raises(SystemExit, match=r"^InputError: .*train\.json: not a JSON file in UTF-8: .*$"), plain_errors():
        load_manifest(config, max_megapixels=100)


def test_a_setting_that_lightning_refuses_is_named_with_its_value(tmp_path):
    config = TrainConfig.model_validate({"trainer": {"strategy": "none"}})
    ranks = Ranks(Placement(), config.trainer, "cpu")
    with pytest.raises(SystemExit, match=r"trainer\.strategy=none.*Lightning refuses"), plain_errors(), ranks:
        build_trainer(config, ranks, "32-true", tmp_path, CheckpointFiles(), [])


@pytest.mark.parametrize(
    ("overrides", "are_given", "are_not"),
    [
        (["resume=FILE"], {"resume"}, {"optimizer.lr", "dataset_base_path"}),
        (
            ["data=upstage", "dataset_base_path=FOLDER"],
            {"dataset_base_path", "datasets.train_dataset.config.image_path", "draw_synthetic"},
            {"optimizer.lr", "trainer.max_epochs", "dataloader.batch_size", "pipeline.augmentation.crop_size"},
        ),
        (["data=webdataset", "trainer.max_epochs=3"], {"loader", "trainer.max_epochs"}, {"optimizer.lr"}),
        (["data=upstage", "experiment=receipts"], {"targets.shrink_ratio"}, {"seed"}),
        (["data=upstage", "recipe=synthetic"], {"targets.shrink_ratio", "optimizer.lr"}, {"seed"}),
    ],
)
def test_only_keys_named_or_set_by_a_chosen_file_are_given(overrides, are_given, are_not):
    prepare_hydra()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        composed = compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
        try:
            keys = given_keys(compose("train", overrides))
        finally:
            HydraConfig.instance().cfg = None
    assert are_given <= keys
    assert not are_not & keys


def test_ranks_after_the_first_write_no_file_whatever_the_command_line_says():
    arguments = without_files(["seed=1", "hydra.run.dir=outputs/job_7", "+hydra.output_subdir=kept"])
    assert arguments[0] == "seed=1"
    assert {"hydra.run.dir=.", "hydra.output_subdir=null"} <= set(arguments)
    assert not any("job_7" in argument or "kept" in argument for argument in arguments)
