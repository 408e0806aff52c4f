"""Generates the configuration reference from the pydantic schemas when the site is built (a hook of MkDocs)."""

import html
import json
from collections.abc import Iterator, Mapping
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.loaders.config import CompareConfig
from benchmarks.sweep.config import SweepConfig
from dali_pipelines.config import Section
from ocr.command_line.command_help import Schema, is_section, properties_of, type_in_words
from ocr.config import NOT_SET, EvaluateConfig, ExportConfig, InspectConfig, PredictConfig, PrepareConfig, TrainConfig

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: tuple[tuple[str, type[Section]], ...] = (
    ("evaluate.py", EvaluateConfig),
    ("predict.py", PredictConfig),
    ("export.py", ExportConfig),
    ("prepare_data.py", PrepareConfig),
    ("inspect_data.py", InspectConfig),
    ("compare_loaders.py", CompareConfig),
    ("sweep_defaults.py", SweepConfig),
)
PRESETS = {
    "data": "What `data=NAME` sets",
    "recipe": "Settings that come with a data set; `recipe=null` leaves them out",
    "experiment": "What `experiment=NAME` sets",
    "performance": "What `performance=NAME` sets",
}
INTRODUCTION = """---
search: {boost: 2}
---

# Configuration

Every key of every command, from the schemas that check it; this page is generated when the site is built. A key is given on
the command line as `section.key=value`. `--cfg job --resolve` prints the values that a command would use. An unknown key or a
wrong value ends the run at its start and is named.
"""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds configuration.md to the site."""
    from mkdocs.structure.files import File  # here, so that the reference is tested without the site's packages

    files.append(File.generated(config, "configuration.md", content=reference()))
    return files


def reference() -> str:
    """Returns the page as Markdown."""
    return "\n".join([INTRODUCTION, *_training(), *_commands(), *_presets()])


def _training() -> Iterator[str]:
    described: dict[type[Section], str] = {}
    yield "## Training\n\n`scripts/train.py`\n"
    yield from _section(TrainConfig, "", described)


def _section(section: type[Section], path: str, described: dict[type[Section], str]) -> Iterator[str]:
    """Yields the table of a section, then the sections inside it. A section that stands in two places is described once."""
    base = next((known for known in described if _is_variant(section, known)), None)
    keys = properties_of(section)
    if base is not None:
        keys = {name: key for name, key in keys.items() if key != properties_of(base)[name]}
    inner = {name: field.annotation for name, field in section.model_fields.items() if is_section(field.annotation)}
    has_own_keys = bool(section.model_fields.keys() - inner.keys())
    if path and (has_own_keys or "." not in path):
        yield f"### {path} {{ #{path} }}\n"
        doc = getdoc(section) if section.__doc__ and section.__doc__ != Section.__doc__ else None
        if base is None and doc and not doc.startswith("scripts/"):
            yield doc + "\n"
    if base is not None:
        link = f"[`{described[base]}`](#{described[base]})"
        yield f"The keys of {link}" + (", with other defaults:\n" if set(keys) - set(inner) else ".\n")
    yield from _table({name: key for name, key in keys.items() if name not in inner}, path)
    if has_own_keys:
        described.setdefault(section, path)
    for name in inner:
        if name in keys:
            annotation: Any = inner[name]
            yield from _section(annotation, f"{path}.{name}".lstrip("."), described)


def _commands() -> Iterator[str]:
    training = properties_of(TrainConfig)
    for script, section in COMMANDS:
        keys = properties_of(section)
        inner = {name for name, field in section.model_fields.items() if is_section(field.annotation)}
        shared = [name for name, key in keys.items() if training.get(name) == key]
        yield f"## {script}\n"
        if len(shared) == len(training):
            yield "All keys of [training](#training), and:\n"
        else:
            links = (f"[`{name}`](#{name})" if name in inner else f"`{name}`" for name in shared)
            yield f"As in [training](#training): {', '.join(links)}.\n"
        own = {name: key for name, key in keys.items() if name not in shared}
        yield from _table({name: key for name, key in own.items() if name not in inner}, script.removesuffix(".py"))
        for name in own:
            if name in inner and name not in training:
                annotation: Any = section.model_fields[name].annotation
                yield from _section(annotation, name, {})
            elif name in inner:  # the same keys, each without a default
                yield f"`{name}.…`: the keys of [`{name}`](#{name}); `null`, the default of each: as the checkpoint was trained.\n"


def _presets() -> Iterator[str]:
    for folder, meaning in PRESETS.items():
        yield f"## {folder}= {{ #{folder} }}\n\n{meaning}.\n"
        for file in sorted((ROOT / "configs" / folder).glob("*.yaml")):
            yield f"### {folder}={file.stem}\n\n```yaml\n{file.read_text().removeprefix('# @package _global_').strip()}\n```\n"


def _table(keys: Mapping[str, Schema], path: str) -> Iterator[str]:
    if not keys:
        return
    yield '<div class="keys" markdown="1">\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |'
    for name, key in keys.items():
        anchor = f"{path}.{name}".lstrip(".")
        meaning = _cell(key.get("description", ""))
        yield f"| `{name}`{{ #{anchor} }} | {type_in_words(key, '`{}`'.format)} | {_default(key)} | {meaning} |"
    yield "\n</div>\n"


def _default(key: Schema) -> str:
    if key.get("default") == NOT_SET or "default" not in key:
        return "must be given"
    value = key["default"]
    text = "`" + (value if isinstance(value, str) else json.dumps(value)) + "`"
    return text if value != "" else "empty"


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _is_variant(section: type[Section], known: type[Section]) -> bool:
    """Returns whether both have the same keys, as the splits for training and for evaluation do."""
    return issubclass(section, known) and section.model_fields.keys() == known.model_fields.keys()
