"""Reads the operators, their arguments and their devices from a serialised DALI graph, a protobuf message."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """An output of an operator, or its use as an input."""

    name: str
    device: str
    argument: str = ""
    """Name of the argument that the input gives a value for; empty for an image."""


@dataclass(frozen=True)
class Operator:
    """One operator of a graph."""

    name: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    arguments: dict[str, Any]
    """Arguments with a fixed value, the device among them; without those that only tell where the operator was called."""

    @property
    def device(self) -> str:
        """cpu, gpu or mixed."""
        return str(self.arguments["device"])


@dataclass(frozen=True)
class Graph:
    """A serialised pipeline."""

    operators: tuple[Operator, ...]
    outputs: tuple[Node, ...]

    def named(self, name: str) -> Operator:
        """Returns the only operator of this name."""
        (operator,) = (each for each in self.operators if each.name == name)
        return operator


def read_graph(serialised: bytes) -> Graph:
    """Returns the graph. Field numbers are those of DALI's dali.proto."""
    fields = list(_fields(serialised))
    outputs = tuple(_node(value) for number, value in fields if number == 7)
    return Graph(tuple(_operator(value) for number, value in fields if number == 5), outputs)


def _operator(message: bytes) -> Operator:
    fields = list(_fields(message))
    (name,) = (value.decode() for number, value in fields if number == 1)
    inputs, outputs = (tuple(_node(value) for number, value in fields if number == kind) for kind in (2, 3))
    arguments = dict(_argument(value) for number, value in fields if number == 4)
    told = {key: value for key, value in arguments.items() if not key.startswith("_") and key != "preserve_name"}
    return Operator(name, inputs, outputs, told)


def _node(message: bytes) -> Node:
    fields = dict(_fields(message))
    argument = fields.get(4, b"")
    return Node(fields[1].decode(), fields[2].decode(), argument.decode() if isinstance(argument, bytes) else "")


def _argument(message: bytes) -> tuple[str, Any]:
    """Returns name and value. The number of the field tells the type."""
    name, value = "", None
    elements = []
    is_list = False
    for number, content in _fields(message):
        if number == 1:
            name = content.decode()
        elif number == 3:
            (value,) = struct.unpack("<f", content)
        elif number == 4:
            value = content
        elif number == 5:
            value = content.decode()
        elif number == 6:
            value = bool(content)
        elif number == 7:
            elements.append(_argument(content)[1])
        elif number == 8:
            is_list = bool(content)
    return name, elements if is_list else value


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields number and content of each field: an int for a varint, bytes for the rest."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire_type = key & 7
        if wire_type == 0:
            content: Any
            content, place = _varint(message, place)
        else:
            length = {1: 8, 5: 4}.get(wire_type)
            if length is None:
                length, place = _varint(message, place)
            content, place = message[place : place + length], place + length
        yield key >> 3, content


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
