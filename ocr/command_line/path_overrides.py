"""Lets overrides take paths as they are: `images=영수증`, `images='a=b (1).jpg'` without a second pair of quotes for Hydra.

Hydra reads a value as its own language, in which letters beyond ASCII, `=`, parentheses and quotes are errors, `a,b` is a sweep and
`2024` a number. The value of a key that holds text is put in quotes here unless Hydra reads it as the same text anyway.
"""

import os
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from pydantic import BaseModel

_HYDRA_KEYS = frozenset({"hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"})
_OVERRIDE = re.compile(r"\+{0,2}(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
_ELEMENT = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]+)\s*(?:,|$)""", re.DOTALL)


def with_literal_paths(arguments: Sequence[str], sections: Iterable[type[BaseModel]]) -> list[str]:
    """Returns the arguments of a command with values of text keys quoted for Hydra where it would read something else.

    Left as they are: values that Hydra reads as this text, as null, a list, in quotes, or with its escapes; sweeps with --multirun;
    interpolations. A value that names an existing file or folder is always that name.

    Args:
        sections: classes of the configuration; their keys that hold text are meant.
    """
    keys = _HYDRA_KEYS.union(*map(_text_keys, sections))
    may_sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    return [_with_literal_value(argument, keys, may_sweep) for argument in arguments]


def _with_literal_value(argument: str, keys: frozenset[str], may_sweep: bool) -> str:
    match = _OVERRIDE.fullmatch(argument)
    if match is None or match["key"] not in keys or not match["value"]:
        return argument
    value, start = match["value"], argument[: match.start("value")]
    parsed = _parsed(argument)
    if os.path.lexists(value):
        is_read_as_it_is = parsed is not None and not parsed.is_sweep_override() and parsed.value() == value
        return argument if is_read_as_it_is and "${" not in value else start + quoted(value.replace("${", "\\${"))
    if value.startswith("[") and value.endswith("]") and (parsed is None or _has_numbers(parsed.value())):
        elements = [element.strip() for element in _ELEMENT.findall(value[1:-1])]
        return (
            f"{start}[{','.join(element if element.startswith(_QUOTES) else quoted(element) for element in elements)}]"
        )
    if parsed is not None and parsed.is_sweep_override():
        is_kept = may_sweep
    else:
        is_kept = parsed is not None and isinstance(parsed.value(), str | list | None)
    return argument if is_kept else start + quoted(value)


_QUOTES = ("'", '"')


def _has_numbers(value: object) -> bool:
    """Returns whether Hydra reads an element of a list, such as the folder 2024.10, as a number or as true or false."""
    return isinstance(value, list) and any(isinstance(element, int | float) for element in value)


def quoted(text: str) -> str:
    """Returns a text in quotes, which Hydra reads as this text."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _text_keys(section: type[BaseModel]) -> frozenset[str]:
    """Returns the keys, written with dots, whose values are text of any content."""
    return frozenset(_walk(section))


def _walk(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kinds = set(_alternatives(field.annotation))
        if str in kinds and not kinds & {int, float, bool}:
            yield f"{prefix}{name}"
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _walk(kind, f"{prefix}{name}.")


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yields the classes that a type allows: those of a union, the type behind Annotated, and str for a list of texts."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    elif origin in (list, tuple) and str in get_args(annotation):
        yield str
    else:
        yield annotation
