"""The help of a command: --help shows its keys and their values, --help KEY explains a key or a section."""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from dali_pipelines.config import Section
from ocr.config import NOT_SET, keys_of, no_such_key
from ocr.errors import InputError
from ocr.program import in_users_words

Schema = Mapping[str, Any]
"""JSON schema of a key."""

_WIDTH = 100


def wants_help(arguments: Sequence[str]) -> bool:
    """Returns whether to show the command's help; with another folder or file of configurations Hydra shows it."""
    elsewhere = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    return ("--help" in options or "-h" in options) and not any(option in elsewhere for option in options)


def help_text(config_name: str, config_dir: Path, schema: type[Section], arguments: Sequence[str]) -> str:
    """Returns the help that a command line asks for: of its keys, or else of the whole command.

    Raises:
        InputError: the command has no such key.
    """
    given = [argument for argument in arguments if not argument.startswith("-")]
    asked = [argument for argument in given if "=" not in argument]
    if asked:
        return in_users_words("\n\n".join(key_help(schema, key) for key in asked))
    return in_users_words(_command_help(config_name, config_dir, schema, given))


def _command_help(config_name: str, config_dir: Path, schema: type[Section], overrides: list[str]) -> str:
    """Returns the purpose of a command, its choices of files, and its keys with their values.

    Hydra's own help lists the files of all commands, and takes five times as long.
    """
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        config = compose(config_name, overrides=overrides, return_hydra_config=True)
    choices = [
        f"{group}={'|'.join(sorted(file.stem for file in (config_dir / group).glob('*.yaml')))}"
        for group in config.hydra.runtime.choices
        if (config_dir / group).is_dir()
    ]
    keys = [str(key) for key in config if key != "hydra"]
    sections = [key for key in keys if not OmegaConf.is_missing(config, key) and OmegaConf.is_dict(config[key])]
    properties = properties_of(schema)
    own = [
        f"{_commented(_first_sentence(properties[key].get('description', '')))}{_values(config, [key])}"
        for key in keys
        if key not in sections
    ]
    parts = [
        config.hydra.help.header.strip(),
        "Files of settings:\n\n" + "\n".join(choices),
        "Keys and their values (key=value):\n\n" + "\n".join(own),
        f"Keys of sections (section.key=value):\n\n{_values(config, sections)}",
        "--help KEY explains a key or a section, as in --help trainer. --cfg job shows only the keys, --multirun runs several "
        "values of a key, --hydra-help lists Hydra's own options.",
    ]
    return "\n\n".join(parts)


def key_help(schema: type[Section], asked: str) -> str:
    """Returns type, default and meaning of a key, or of each key of a section.

    Args:
        schema: of the command.
        asked: the key, written with dots.

    Raises:
        InputError: the command has no such key.
    """
    section: type[Section] = schema
    annotation: Any = schema
    for name in asked.split("."):
        if not is_section(annotation) or name not in annotation.model_fields:
            raise InputError(f"--help {asked}: {no_such_key(asked, [*schema.model_fields, *keys_of(schema)])}")
        section, annotation = annotation, annotation.model_fields[name].annotation
    if not is_section(annotation):
        return _explained(asked, properties_of(section)[name])
    section = annotation
    properties, doc = properties_of(section), section.__doc__
    parts = [textwrap.fill(" ".join(cleandoc(doc).split()), _WIDTH)] if doc and doc != Section.__doc__ else []
    for name, inner in section.model_fields.items():
        key = f"{asked}.{name}"
        parts.append(
            f"{key}: a section; --help {key}" if is_section(inner.annotation) else _explained(key, properties[name])
        )
    return "\n\n".join(parts)


def type_in_words(key: Schema, code: Callable[[str], str] = str) -> str:
    """Returns type and bounds of a key, for instance "float, above 0".

    Args:
        code: marks the words that a command line or Python has.
    """
    if "anyOf" in key:
        return " or ".join(type_in_words(choice, code) for choice in key["anyOf"])
    if "enum" in key or "const" in key:
        return ", ".join(code(json.dumps(value).strip('"')) for value in key.get("enum", [key.get("const")]))
    if "$ref" in key:  # an element of a list of sections; the key's meaning names its keys
        return code(key["$ref"].rpartition("/")[2])
    if key["type"] == "array":
        if "prefixItems" in key:
            return f"{len(key['prefixItems'])} times {type_in_words(key['prefixItems'][0], code)}"
        return f"list of {type_in_words(key['items'], code)}"
    names = {"integer": "int", "number": "float", "boolean": "bool", "null": "null", "string": "text"}
    words = {
        "exclusiveMinimum": "above",
        "minimum": "≥",
        "exclusiveMaximum": "below",
        "maximum": "≤",
        "multipleOf": "multiple of",
    }
    bounds = [
        f"{word} {'2^63' if key[bound] == 2**63 else key[bound]}" for bound, word in words.items() if bound in key
    ]
    return ", ".join([code(names[key["type"]]), *bounds, *([code(key["pattern"])] if "pattern" in key else [])])


def _explained(name: str, key: Schema) -> str:
    is_needed = "default" not in key or key["default"] == NOT_SET
    value = "not set" if is_needed else json.dumps(key["default"]).strip('"')
    meaning = textwrap.fill(
        " ".join(key.get("description", "").split()), _WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    return f"{name} ({type_in_words(key)}; default: {value or 'empty'})\n{meaning}".rstrip()


def _commented(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, _WIDTH))


def _first_sentence(text: str) -> str:
    """Returns the first sentence, which ends at a full stop before a capital letter or at the end."""
    text = " ".join(text.split())
    for at in range(len(text) - 2):
        if text[at : at + 2] == ". " and text[at + 2].isupper():
            return text[: at + 1]
    return text


def _values(config: DictConfig, keys: Sequence[str]) -> str:
    """Returns these keys of a configuration as YAML; NOT_SET, which Hydra shows for a mandatory key, in words."""
    return OmegaConf.to_yaml(OmegaConf.masked_copy(config, list(keys))).strip().replace(f": {NOT_SET}", ": (not set)")


def is_section(annotation: Any) -> bool:
    """Returns whether a field of this type is a section of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def properties_of(section: type[Section]) -> dict[str, Schema]:
    """Returns the JSON schema of each key."""
    properties: dict[str, Schema] = section.model_json_schema()["properties"]
    return properties
