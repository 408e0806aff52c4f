"""The common part of the Hydra scripts: registers schemas, silences libraries, checks the configuration, and runs the command
with errors as plain messages."""

import errno
import logging
import os
import re
import select
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dali_pipelines.config import Section
from ocr.command_help import help_text, wants_help
from ocr.config import (
    NOT_SET,
    AnyConfig,
    DataSection,
    EvaluateConfig,
    ExportConfig,
    InferenceConfig,
    InspectConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
    flat_keys,
    keys_of,
    no_such_key,
    validate_config,
)
from ocr.datasets.image_list import existing_entry
from ocr.datasets.schemas import DatasetConfig
from ocr.errors import CacheError, DivergedError, InputError, OutOfMemory, SignalExit, StorageError, WorkerError
from ocr.file_names import shown, shown_lines
from ocr.given_files import compared_path, refuse_missing_root, resumed_path, weights_path
from ocr.memory.out_of_memory import ExplainOutOfMemory
from ocr.path_overrides import with_literal_paths
from ocr.placement import placement
from ocr.program import in_users_words
from ocr.set_overrides import with_sets
from ocr.terminal_log import colour_the_terminal, log_above_bars

log = logging.getLogger(__name__)

_PLACES = (Path(__file__).resolve().parent / "_bundled", Path(__file__).resolve().parents[1])
CONFIG_DIR = next(place for place in _PLACES if (place / "configs").is_dir()) / "configs"
"""Folder of the configuration files: in a wheel below this package, in a checkout beside it."""
FULL_ERROR = "HYDRA_FULL_ERROR"
"""Environment variable with which Hydra, and this module, show the whole traceback of an error."""
_FULL_ERROR_AT_START = os.environ.get(FULL_ERROR)
_ADVICE = {
    errno.EACCES: "check its owner and permissions, or choose another path (hydra.run.dir=FOLDER for what a run writes)",
    errno.EPERM: "check its owner and permissions, or choose another path (hydra.run.dir=FOLDER for what a run writes)",
    errno.EROFS: "choose a path on a file system that can be written (hydra.run.dir=FOLDER for what a run writes)",
    errno.ENOSPC: "free some space, or choose another disk (hydra.run.dir=FOLDER for what a run writes)",
    errno.EDQUOT: "free some space, or choose another disk (hydra.run.dir=FOLDER for what a run writes)",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "give a folder, not a file",
    errno.EEXIST: "give a folder, not a file",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk (hydra.run.dir=FOLDER for what a run writes)",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""Advice for the commonest errors of the operating system."""

NOT_FOR_USERS = (
    "Experiment logs directory",  # the run's folder exists already: it holds config.yaml
    "The number of training batches",  # fewer than log_every_n_steps
    ".*LeafSpec.* is deprecated",  # inside Lightning
    "It is recommended to use `self.log",  # scores are summed over ranks already; the loss shown is that of rank 0
    "The dirpath has changed from",  # on a resume; BestCheckpoint handles it
    "Checkpoint directory",  # a run that resumes in its own folder; checkpoints there are replaced only by whole ones
    "The `srun` command is available",  # a run in a SLURM job may well be one process
    "Found .* module.s. in eval mode",  # those that model.freeze and model.batch_norm freeze
    "predict returned None",  # on purpose: detections leave the module through its workers
)
"""Warnings from libraries that a user can do nothing about."""
CHATTY_LOGGERS = (
    # The loggers that Lightning writes with. It sets the level of their parents when it is imported, which is later.
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "timm",
    "botocore",
)
"""Loggers whose information lines are not for users."""
_PATIENCE = 10.0
"""Seconds that the first rank has to say what is wrong with the command line, before the others end."""


_schemas: dict[str, type[Section]] = {}
"""The configurations of all commands by the first word of their names, once `prepare_hydra` has run."""
_own_folder: tuple[Path, str] | None = None
"""Run folder of this process's command and the name of its log there, if Hydra named it: the user named none with hydra.run.dir."""
_STARTED = time.time()


def prepare_hydra(*schemas: tuple[str, type[Section]]) -> None:
    """Gives Hydra every key with its default from the pydantic schemas, and silences warnings that are not for users.

    Args:
        schemas: (name in the ConfigStore, class) of further schemas.
    """
    shared: list[tuple[str, type[Section]]] = [
        ("train_schema", TrainConfig),
        ("evaluate_schema", EvaluateConfig),
        ("predict_schema", PredictConfig),
        ("export_schema", ExportConfig),
        ("prepare_schema", PrepareConfig),
        ("inspect_schema", InspectConfig),
    ]
    for name, schema in (*shared, *schemas):
        command = name.removesuffix("_schema")
        if command not in _schemas:  # storing them takes a third of the time of a composition
            ConfigStore.instance().store(name=name, node=schema.model_construct().model_dump(mode="json"))
            _schemas[command] = schema
    OmegaConf.register_new_resolver("first_existing", _first_existing, replace=True)
    OmegaConf.register_new_resolver("found", _found, replace=True)
    silence_libraries()
    logging.setLogRecordFactory(SafeLogRecord)


def silence_libraries() -> None:
    """Hides the warnings and information lines of libraries that are not for users."""
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class SafeLogRecord(logging.LogRecord):
    """A log record whose message cannot control a terminal, whatever file names and texts it quotes."""

    def getMessage(self) -> str:
        return in_users_words(shown_lines(super().getMessage()))


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
            _check_options(sys.argv[1:])
            sys.argv[1:] = with_sets(with_literal_paths(sys.argv[1:], set(_schemas.values())), CONFIG_DIR)
            if wants_help(sys.argv[1:]):
                print(help_text(config_name, CONFIG_DIR, _schemas[config_name.partition("_")[0]], sys.argv[1:]))
            else:
                try:
                    main()
                finally:
                    _remove_unused_folder()
        except SignalExit as stop:
            # The libraries take about six seconds to unload, and docker stop kills after ten.
            logging.shutdown()
            sys.stdout.flush()
            os._exit(int(stop.code or 0))
        except KeyboardInterrupt:
            if _FULL_ERROR_AT_START == "1":
                raise
            _say_that_it_ended(signal.SIGINT)
            raise SystemExit(128 + signal.SIGINT) from None
        except (HydraException, OmegaConfBaseException) as error:
            _leave_to_first_rank()
            _end(error, _composition_problem(error, config_name))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            _leave_to_first_rank()
            _end(error, f"a configuration file is not readable YAML: {error}; correct it")
        except RecursionError as error:
            _leave_to_first_rank()
            _end(error, "a configuration file has brackets nested too deep to read; correct it")
        except ValueError as error:
            if "integer string conversion" not in str(error):
                raise
            _leave_to_first_rank()
            _end(error, "a value, or a configuration file, has an integer of thousands of digits; correct it")


@contextmanager
def _line_for_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the program with a line, as long as nothing else in the block handles it."""
    process = os.getpid()

    def end(signum: int, _: FrameType | None) -> None:
        if os.getpid() == process:  # not a process forked since, which only follows this one
            _say_that_it_ended(signum)
            _remove_unused_folder()
        os._exit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_that_it_ended(signum: int) -> None:
    if placement().is_first:
        line = f"{signal.Signals(signum).name} ended the command; the same command starts it again\n"
        os.write(sys.stderr.fileno(), line.encode())  # the signal may have come in the middle of a `print`


def _check_options(arguments: Sequence[str]) -> None:
    """Raises InputError if an option is not one of Hydra's, such as `--images FOLDER` in the place of `images=FOLDER`, or if two
    exclude each other."""
    known, unknown = get_args_parser().parse_known_args(list(arguments))
    exclusive = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(known, name)]
    options = [argument for argument in unknown if argument.startswith("-")]
    if len(exclusive) > 1 or (known.resolve and not known.cfg and not known.help):
        _leave_to_first_rank()
        if len(exclusive) > 1:
            raise InputError(
                f"{' '.join(exclusive)}: these options exclude each other; give one (--cfg shows a single run)"
            )
        raise InputError("--resolve: expected --cfg beside it, as in --cfg job --resolve")
    if not unknown:
        return
    _leave_to_first_rank()
    if not options:
        raise InputError(
            f"{unknown[0]}: an option stands between the settings; give options such as --multirun after all of them"
        )
    settings = []
    for option, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        if option in options:
            key, has_value, value = option.lstrip("-").partition("=")
            if not has_value:
                value = "true" if following.startswith("-") or "=" in following else following
            settings.append(shlex.quote(f"{key.replace('-', '_')}={value}"))
    raise InputError(f"{options[0]}: settings are written key=value: {' '.join(settings)}")


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
    if _FULL_ERROR_AT_START is not None:
        os.environ[FULL_ERROR] = _FULL_ERROR_AT_START
    in_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with plain_errors((DivergedError, OutOfMemory) if in_multirun else ()):
            yield _checked_job(config_class, hydra_config)
    finally:
        if in_multirun:
            os.environ[FULL_ERROR] = "1"  # Hydra hands the error of a job on when all have ended


def _checked_job(config_class: type[AnyConfig], hydra_config: DictConfig) -> tuple[AnyConfig, Path]:
    global _own_folder
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN and not is_given("hydra.run.dir"):
        _own_folder = Path(hydra.run.dir), f"{hydra.job.name}.log"
    try:
        config = validate_config(config_class, hydra_config)
        _refuse_multirun_of_ranks()
    except (SystemExit, InputError):
        _leave_to_first_rank()
        raise
    if config_class is not TrainConfig:
        _go_on_alone()
    colour_the_terminal()
    log_above_bars()
    output_dir = Path(hydra.runtime.output_dir)
    if placement().is_first:
        _refuse_missing_files(config)
        writes_elsewhere = isinstance(config, PredictConfig | ExportConfig) and config.output != NOT_SET
        where = "" if writes_elsewhere else f"; the folder of this run is {output_dir}"
        log.info("starting: loading the libraries%s", where)
    return config, output_dir


def _refuse_missing_files(config: Section) -> None:
    """Raises an error if a file or folder that the command names does not exist: at once, for the libraries take seconds to load."""
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
    if isinstance(config, DataSection) and not has_own_images and config.needs_root():
        refuse_missing_root(config.dataset_base_path)
    if type(config) is TrainConfig:
        if config.init_from is not None:
            weights_path(config.init_from, "init_from")
        if config.resume not in (None, "auto"):
            resumed_path(config.resume)


def is_given(key: str) -> bool:
    """Returns whether the command line of this Hydra job sets a key of Hydra's own; outside a command it does."""
    if not HydraConfig.initialized():
        return True
    return any(given.lstrip("+~").partition("=")[0] == key for given in HydraConfig.get().overrides.hydra)


def _remove_unused_folder() -> None:
    """Removes the run folder if it holds only what Hydra writes there, settings and log: the command failed before it wrote
    anything, or wrote it elsewhere. Folders above, up to the working folder, go too if they are empty then. A folder that the user
    named, or that was there before, stays."""
    if _own_folder is None:
        return
    folder, log_name = _own_folder
    with suppress(OSError):  # on a network file system, a file that is still open may keep its folder
        is_new = (folder / ".hydra").stat().st_mtime > _STARTED - 1
        if is_new and {entry.name for entry in folder.iterdir()} <= {".hydra", ".lock", log_name}:
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
            shutil.rmtree(folder)
            if not folder.is_absolute():
                os.removedirs(folder.parent)


def without_files(arguments: Sequence[str]) -> list[str]:
    """Returns the command line with which Hydra writes no file and creates no folder: that of all ranks but the first."""
    own = (
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=stdout",
        "hydra.job_logging.root.level=WARNING",
    )
    keys = [override.partition("=")[0] for override in own]
    return [*(given for given in arguments if given.lstrip("+~").partition("=")[0] not in keys), *own]


def _refuse_multirun_of_ranks() -> None:
    """Raises InputError if this job belongs to a multirun, and torchrun or srun started several processes for it."""
    place = placement()
    if place.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise InputError(
            f"{place.starter} started {place.world_size} processes, but a multirun needs one; start each run by itself, or use "
            "trainer.devices=N without torchrun and srun"
        )


def _go_on_alone() -> None:
    """Ends this process if it is one of several, and not the first, of a command that runs in one."""
    place = placement()
    if not place.is_first:
        raise SystemExit(0)
    if place.world_size > 1:
        name = HydraConfig.get().job.config_name
        log.warning(
            "scripts/%s.py runs in one process: only the first of the %d from %s works",
            name,
            place.world_size,
            place.starter,
        )


def _leave_to_first_rank() -> None:
    """Ends this process without a word, unless it is the first rank. All ranks find the same fault in their command line."""
    if not placement().is_first:
        time.sleep(_PATIENCE)  # torchrun ends the others as soon as one ends
        os._exit(1)


def given_keys(hydra_config: DictConfig) -> frozenset[str]:
    """Returns the keys of this Hydra job, written with dots, that its command line sets: by name, or by the choice of a file.

    A file sets the keys whose values differ from those of a command line without overrides. The recipe that comes with a data set
    sets none: it is no choice of the user, and the checkpoint holds what the run was trained with.
    """
    hydra = HydraConfig.get()
    values = flat_keys(OmegaConf.to_container(hydra_config, resolve=True))
    same_recipe = compose(hydra.job.config_name, overrides=[f"recipe={hydra.runtime.choices['data']}"])
    plain = flat_keys(OmegaConf.to_container(same_recipe, resolve=True))
    named = [override.lstrip("+~").partition("=")[0] for override in hydra.overrides.task]
    return frozenset(
        key
        for key, value in values.items()
        if key not in plain or plain[key] != value or any(key == name or key.startswith(f"{name}.") for name in named)
    )


def compose_config(config_class: type[AnyConfig], name: str, overrides: Sequence[str]) -> AnyConfig:
    """Returns the configuration that a script of this checkout gets from these overrides.

    Raises:
        SystemExit: a value is wrong; the message names it.
    """
    prepare_hydra()
    overrides = with_sets(with_literal_paths(overrides, set(_schemas.values())), CONFIG_DIR)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return validate_config(config_class, compose(name, overrides=overrides))


@contextmanager
def plain_errors(left_to_sweeper: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Ends the program with the message alone if the input is wrong, memory ran out, or a file cannot be read or written.

    HYDRA_FULL_ERROR=1 shows the traceback. All other errors are the program's own and always show theirs.

    Args:
        left_to_sweeper: errors that are logged and raised again, for Hydra's sweeper.
    """
    try:
        with ExplainOutOfMemory(when=""):  # for commands without advice of their own
            yield
    except left_to_sweeper as error:
        log.error("%s: %s", type(error).__name__, error)
        raise
    except (InputError, StorageError, CacheError, OutOfMemory, WorkerError, DivergedError) as error:
        _end(error, str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout.fileno()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered
            raise SystemExit(128 + signal.SIGPIPE) from None
        _end(error, _described(error))
    except RuntimeError as error:
        from dali_pipelines.source import SampleError  # loads torch, which --help must not

        if not isinstance(error, SampleError):
            raise
        _end(error, str(error))


def _has_no_reader(descriptor: int) -> bool:
    """Returns whether the reader of a pipe has ended, as `head` does in `--cfg job | head`."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _end(error: Exception, message: str) -> NoReturn:
    """Ends the program with the message, or with the traceback if the user wants it."""
    if _FULL_ERROR_AT_START == "1":
        raise error
    raise SystemExit(in_users_words(shown_lines(f"{type(error).__name__}: {message}"))) from None


def _composition_problem(error: Exception, config_name: str) -> str:
    """Returns the message of an error that Hydra met while it composed a configuration.

    Hydra advises to append an unknown key with a plus sign. The schemas refuse such a key, so this advice is replaced.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error, config_name)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _missing_choice(error, error.missing_cfg_file, error.options)
    several = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", str(error))
    if several:
        return _several_values(several[1])
    first, *more = str(error).splitlines()
    if more and more[0].startswith("To append to your config use"):
        key = re.search("'([^']+)'", first)
        return f"{first.rstrip('.')}: {_unknown_key(key[1] if key else '', config_name)}"
    if "Cannot merge DictConfig with ListConfig" in str(error):
        return f"{first.rstrip(':')}: a list in the place of a section; in a file, several data sets are a list under config.sets"
    return "\n".join(str(part).expandtabs(4) for part in (error, error.__cause__) if part is not None)


def _unreadable_override(error: OverrideParseException, config_name: str) -> str:
    """Returns what is wrong with an argument that Hydra cannot read."""
    given = error.override
    if "=" not in given:
        keys = keys_of(_schemas[config_name.partition("_")[0]])
        path_key = "images" if config_name == "predict" else "dataset_base_path"
        example = f"{given}=VALUE" if given in (*keys, *_groups_of(config_name)) else f"{path_key}={given}"
        return f"{given}: expected key=value, for example {example}"
    parts = re.split(r"[,;\s]+(?=[A-Za-z_][\w.]*=)", given)
    if len(parts) > 1:
        return f"{given}: {len(parts)} settings in one argument; write them apart: {' '.join(parts)}"
    key, _, value = given.partition("=")
    return (
        f"{given}: the value has a special character, or a bracket that is not closed; correct it, or quote it twice: "
        f"'{key}=\"{value}\"'"
    )


def _several_values(given: str) -> str:
    """Returns what to write in the place of an argument like seed=1,2 without --multirun."""
    key, _, value = given.partition("=")
    as_list = "" if value.endswith(")") else f", or give a list: {key}=[{value}]"
    return f"{given}: several values; add --multirun after the settings for a run with each{as_list}"


def _missing_choice(error: MissingConfigException, choice: str, options: Sequence[str]) -> str:
    """Returns what to say about a file of settings that does not exist: the nearest one, or all."""
    group, _, name = choice.rpartition("/")
    nearest = get_close_matches(name, options, 1)
    advice = f"the nearest is {nearest[0]} (all: --help)" if nearest else f"there are {', '.join(options)}"
    asking = re.match(r"In '([^']+/[^']+)'", str(error))  # a file that a user wrote
    where = f"{asking[1]}.yaml: " if asking and not asking[1].startswith("hydra/") else ""
    return f"{where}{group}={name}: no such choice; {advice}"


def _unknown_key(key: str, config_name: str) -> str:
    """Returns what to say about a key that this command lacks: the nearest that it has, and other commands that have the key."""
    own = config_name.partition("_")[0]
    told = no_such_key(key, [*_groups_of(config_name), *keys_of(_schemas[own])])
    owners = [name for name, schema in _schemas.items() if name != own and key in keys_of(schema)]
    return f"{told}; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} this key" if owners else told


def _groups_of(config_name: str) -> list[str]:
    """Returns the groups of files that a command can choose from, such as data."""
    defaults = yaml.safe_load((CONFIG_DIR / f"{config_name}.yaml").read_text())["defaults"]
    return [name.removeprefix("optional ") for entry in defaults if isinstance(entry, dict) for name in entry]


def _described(error: OSError) -> str:
    """Returns place, problem and remedy of an error of the operating system; our own errors keep their text."""
    if error.errno is None:
        return str(error)
    where = " -> ".join(shown(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None)
    advice = _ADVICE.get(error.errno, f"{FULL_ERROR}=1 shows where in the program")
    return f"{where or 'a file'}: {error.strerror}; {advice}"


def _first_existing(*paths: str) -> str:
    """Returns the first path that exists, or the last one if none does."""
    return next((path for path in paths[:-1] if Path(path).exists()), paths[-1])


def _found(folder: str, split: str, key: str) -> str | None:
    """Returns the value of a split's key for the data set in a folder (data=auto); its default if there is no such split."""
    from ocr.datasets.layout import find_splits  # loads the readers, which --help must not

    found = find_splits(folder, DatasetConfig.model_fields["image_extensions"].default).get(split)
    if found is None:
        return NOT_SET if key == "image_path" else DatasetConfig.model_fields[key].default
    return str(getattr(found, key))
