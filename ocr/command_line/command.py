"""Runs the function of a command with a checked configuration."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dali_pipelines.config import Section
from ocr.command_line.command_help import help_text, wants_help
from ocr.command_line.composition_errors import check_options, composition_problem
from ocr.command_line.configuration import CONFIG_DIR, SCHEMAS
from ocr.command_line.path_overrides import with_literal_paths
from ocr.command_line.plain_errors import FULL_ERROR, FULL_ERROR_AT_START, end, plain_errors
from ocr.command_line.ranks import go_on_alone, leave_to_first_rank, refuse_multirun_of_ranks, without_files
from ocr.command_line.run_folder import note_own_folder, remove_unused_folder
from ocr.command_line.set_overrides import with_sets
from ocr.config import (
    NOT_SET,
    AnyConfig,
    DataSection,
    EvaluateConfig,
    ExportConfig,
    InferenceConfig,
    InspectConfig,
    PredictConfig,
    TrainConfig,
    validate_config,
)
from ocr.datasets.image_list import existing_entry
from ocr.errors import DivergedError, InputError, OutOfMemory, SignalExit
from ocr.given_files import compared_path, refuse_missing_root, resumed_path, weights_path
from ocr.placement import placement
from ocr.terminal_log import colour_the_terminal, log_above_bars

log = logging.getLogger(__name__)


def run_command(main: Callable[[], object], config_name: str) -> None:
    """Runs the function of a command that `hydra.main` decorates.

    Errors before its job starts end with one line too: a configuration that Hydra cannot read, a run folder that cannot be created.
    So do SIGTERM and Ctrl-C while the libraries are loaded, and wherever else a command does not handle them itself.
    """
    os.environ[FULL_ERROR] = "1"  # Hydra hands errors on instead of printing them
    with plain_errors(), _line_for_sigterm():
        if not placement().is_first:
            sys.argv[1:] = without_files(sys.argv[1:])
        try:
            check_options(sys.argv[1:])
            sys.argv[1:] = with_sets(with_literal_paths(sys.argv[1:], set(SCHEMAS.values())), CONFIG_DIR)
            if wants_help(sys.argv[1:]):
                print(help_text(config_name, CONFIG_DIR, SCHEMAS[config_name.partition("_")[0]], sys.argv[1:]))
            else:
                try:
                    main()
                finally:
                    remove_unused_folder()
        except SignalExit as stop:
            # The libraries take about six seconds to unload, and docker stop kills after ten.
            logging.shutdown()
            sys.stdout.flush()
            os._exit(int(stop.code or 0))
        except KeyboardInterrupt:
            if FULL_ERROR_AT_START == "1":
                raise
            _say_that_it_ended(signal.SIGINT)
            raise SystemExit(128 + signal.SIGINT) from None
        except (HydraException, OmegaConfBaseException) as error:
            leave_to_first_rank()
            end(error, composition_problem(error, config_name))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            leave_to_first_rank()
            end(error, f"a configuration file is not readable YAML: {error}; correct it")
        except RecursionError as error:
            leave_to_first_rank()
            end(error, "a configuration file has brackets nested too deep to read; correct it")
        except ValueError as error:
            if "integer string conversion" not in str(error):
                raise
            leave_to_first_rank()
            end(error, "a value, or a configuration file, has an integer of thousands of digits; correct it")


@contextmanager
def _line_for_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the program with a line, as long as nothing else in the block handles it."""
    process = os.getpid()

    def stop(signum: int, _: FrameType | None) -> None:
        try:
            if os.getpid() == process:  # not a process forked since, which only follows this one
                _say_that_it_ended(signum)
                remove_unused_folder()
        finally:  # whatever happens here: the log, for example, cannot be closed in the middle of a write
            os._exit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_that_it_ended(signum: int) -> None:
    if placement().is_first:
        line = f"{signal.Signals(signum).name} ended the command; the same command starts it again\n"
        os.write(sys.stderr.fileno(), line.encode())  # the signal may have come in the middle of a `print`


@contextmanager
def checked_job(config_class: type[AnyConfig], hydra_config: DictConfig) -> Iterator[tuple[AnyConfig, Path]]:
    """Gives the checked configuration and the run folder to the `with` block that runs the command.

    The command is imported inside the block: torch, Lightning and DALI take seconds to load, and neither `--help` nor a wrong
    setting needs them.

    Raises:
        SystemExit: a key or the input is wrong, or memory ran out; its text is the message alone.
        DivergedError, OutOfMemory: in a multirun. Hydra hands them to its sweeper, after whose end `run_command` says them in one
            line. Optuna's goes on with the next run if hydra.sweeper.max_failure_rate allows it.
    """
    # Set by `run_command`. Processes that the job starts must not inherit it.
    os.environ.pop(FULL_ERROR, None)
    if FULL_ERROR_AT_START is not None:
        os.environ[FULL_ERROR] = FULL_ERROR_AT_START
    in_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with plain_errors((DivergedError, OutOfMemory) if in_multirun else ()):
            yield _checked_job(config_class, hydra_config)
    finally:
        if in_multirun:
            os.environ[FULL_ERROR] = "1"  # Hydra hands the error of a job on when all have ended


def _checked_job(config_class: type[AnyConfig], hydra_config: DictConfig) -> tuple[AnyConfig, Path]:
    note_own_folder()
    try:
        config = validate_config(config_class, hydra_config)
        refuse_multirun_of_ranks()
    except (SystemExit, InputError):
        leave_to_first_rank()
        raise
    if config_class is not TrainConfig:
        go_on_alone()
    colour_the_terminal()
    log_above_bars()
    output_dir = Path(HydraConfig.get().runtime.output_dir)
    if placement().is_first:
        _refuse_missing_files(config)
        writes_elsewhere = isinstance(config, PredictConfig | ExportConfig) and config.output != NOT_SET
        where = "" if writes_elsewhere else f"; the folder of this run is {output_dir}"
        log.info("starting: loading the libraries%s", where)
    return config, output_dir


def _refuse_missing_files(config: Section) -> None:
    """Raises an error if a file or folder that the command names does not exist, before the libraries take seconds to load."""
    if isinstance(config, InferenceConfig | ExportConfig):
        weights_path(config.checkpoint)
    if isinstance(config, ExportConfig):
        for path in config.average:
            weights_path(path, "average")
    if isinstance(config, EvaluateConfig) and config.compare is not None:
        compared_path(config.compare)
    if isinstance(config, PredictConfig) and config.images != NOT_SET:
        for entry in (config.images,) if isinstance(config.images, str) else config.images:
            existing_entry(entry)
    has_own_images = isinstance(config, PredictConfig | InspectConfig | ExportConfig) and config.images != NOT_SET
    resumes = isinstance(config, TrainConfig) and config.resume is not None  # the checkpoint may name the data set
    if isinstance(config, DataSection) and not has_own_images and not resumes and config.needs_root():
        refuse_missing_root(config.dataset_base_path)
    if type(config) is TrainConfig:
        if config.init_from is not None:
            weights_path(config.init_from, "init_from")
        if config.resume not in (None, "auto"):
            resumed_path(config.resume)
