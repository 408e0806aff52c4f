"""Says what is wrong with a command line or a configuration that Hydra refuses, and what to write in its place."""

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches

import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException

from ocr.command_line.configuration import CONFIG_DIR, SCHEMAS
from ocr.command_line.ranks import leave_to_first_rank
from ocr.config import keys_of, no_such_key
from ocr.errors import InputError


def composition_problem(error: Exception, config_name: str) -> str:
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
        keys = keys_of(SCHEMAS[config_name.partition("_")[0]])
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
    told = no_such_key(key, [*_groups_of(config_name), *keys_of(SCHEMAS[own])])
    owners = [name for name, schema in SCHEMAS.items() if name != own and key in keys_of(schema)]
    return f"{told}; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} this key" if owners else told


def _groups_of(config_name: str) -> list[str]:
    """Returns the groups of files that a command can choose from, such as data."""
    defaults = yaml.safe_load((CONFIG_DIR / f"{config_name}.yaml").read_text())["defaults"]
    return [name.removeprefix("optional ") for entry in defaults if isinstance(entry, dict) for name in entry]


def check_options(arguments: Sequence[str]) -> None:
    """Raises InputError if an option is not one of Hydra's, such as `--images FOLDER` in the place of `images=FOLDER`, or if two
    exclude each other."""
    known, unknown = get_args_parser().parse_known_args(list(arguments))
    exclusive = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(known, name)]
    options = [argument for argument in unknown if argument.startswith("-")]
    if len(exclusive) > 1 or (known.resolve and not known.cfg and not known.help):
        leave_to_first_rank()
        if len(exclusive) > 1:
            raise InputError(
                f"{' '.join(exclusive)}: these options exclude each other; give one (--cfg shows a single run)"
            )
        raise InputError("--resolve: expected --cfg beside it, as in --cfg job --resolve")
    if not unknown:
        return
    leave_to_first_rank()
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
