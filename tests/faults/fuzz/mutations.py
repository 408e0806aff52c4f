"""Seeded changes of valid files: of their bytes, of the values in a JSON document, and of the members of an archive.

Each kind of text is sometimes stretched, up to nearly 1 MB: brackets deep inside one another, one long token, one key repeated,
thousands of tiny records. A reader whose time grows with the square of such a size is found this way.
"""

import copy
import io
import json
import math
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

# fmt: off
_TOKENS = [
    b"\x00", b"\xff\xd8\xff", b"\x1d", b"\x1b[31m", b"\n", b"\r\n", b",", b'"', b"{", b"}", b"[", b"]", b"\xed\xa0\x80", b"###",
    b"-1", b"1e999", b"NaN", b"inf", b"9" * 400, b"99999999999999999999", b"../", b"/etc/", b"\\ud800", b"\xe2\x80\xa8", b"null",
    b"true", b"[" * 3000, b'{"a":' * 1500, b"PK\x03\x04", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"1,2,3,4,5,6,7,8,",
    b"\xef\xbb\xbf", b"\xe2\x80\xae",
]
"""Byte strings that readers are known to stumble over."""

_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, float("nan"), float("inf"), -0.0, 5e-324, "", "a",
    "\ud800", "\x00", "\x1b[2J\n", "\u2028\u202e", "../../x.jpg", "/etc/x.jpg", "./x.jpg", "a" * 5000, [], {}, [[]], [[1, 2]],
    [[1, 2], [3, 4], [5, 6]], [[float("nan"), 1], [2, 2], [3, 3]], [1e308, -1e308, 0], {"points": []},
]
_NUMBERS = ["-1", "0", "1e999", "NaN", "inf", "9" * 400, "0x10", "1,5", "", "1e308", "-0", "\u0661", "1_0", " ", "5;6;7", "1 2,3 4"]
_TEXTS = ["", "a", "../../x.jpg", "/etc/passwd", "&#27;[31m", "&#x2028;&#x202e;", "&a;", "&#0;", "c.jpg", "a" * 5000, "%s%n"]
PROLOGS = [
    '<!DOCTYPE r [<!ENTITY a0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {"a" if n == 29 else f"a{n + 1}"} "{f"&a{n};" * 10}">' for n in range(30)) + "]>",
    '<!DOCTYPE r [<!ENTITY a "' + "a" * 100_000 + '">]>',
    '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE r [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
    '<!DOCTYPE r SYSTEM "file:///etc/passwd">',
]
"""Document types: entities inside entities, a long one, and ones that other files define."""

_TEXT_PIECES = [
    b"[", b"{", b"[[", b"x: [", b",", b"1,", b"1 ", b"9", b"-", b"1e", b".", b"a", b" ", b"\t", b'"', b"#", b"\n", b"\r",
    b"\r\n", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"1,2,3,4,5,6,7,8,a\n", b"1,2,3,4\n", b"0 0.5 0.5 0.1 0.1\n",
    b"a\n", b",\n", b"a.jpg\t[]\n", b"x: [[1 2]], y: [[1 2]], ornt: [u'c'], transcriptions: [u'a']\n",
]
_JSON_PIECES = [
    b"[", b'{"a":', b'[{"a":', b'{"points":[', b"[1,", b"[[],", b"9", b"-", b"1e", b"1,", b"0.1,", b"9e999,", b"null,", b"[],",
    b"{},", b'"",', b'{"a":1},', b'"a":1,', b'"":0,', b'"a":{},', b'"images":{},', b'"words":[],', b"\\ud800", b"\\u0000",
    b"\\", b'\\"', b"a", b"\x00", b"\xed\xa0\x80", b" ", b"\n", b'"', b",", b":", b"]", b"}",
]
_XML_PIECES = [
    b"<a>", b"<", b"<!--", b"<![CDATA[", b"<?a ", b"&amp;", b"&#0;", b"&#55296;", b"]]>", b' a="1"', b' xmlns:a="b"', b"<a/>",
    b"<a></a>", b"a", b"9", b"1,1 ", b"-", b" ", b"\n", b"\x00", b"\xed\xa0\x80", b'"', b"<a:", b"</a>",
]
"""Parts of a stretched file, by syntax."""
COLUMNS_END = struct.Struct("<QI8s")
"""The end of a column file: length and checksum of its footer, magic."""
_SIZES = (200, 5_000, 2**16, 2**18, 2**20 - 1)
"""Bytes of a stretched part."""
# fmt: on


def stretched(content: bytes, pieces: Sequence[bytes], rng: random.Random) -> bytes:
    """Returns the content with one piece, a line, or a number of its own repeated many times, or nothing but that."""
    size = rng.choice(_SIZES)
    token = rng.choice(re.findall(rb"[0-9]+|[A-Za-z]+", content[: 2**16]) or [b"0"])
    line = rng.choice(content[: 2**16].splitlines() or [b"0"]) + b"\n"
    piece = rng.choice((rng.choice(pieces), rng.choice(pieces), token, line))
    repeated = piece * max(size // max(len(piece), 1), 1)
    action = rng.randrange(4)
    if action == 0:
        return repeated[: 2**20 - 1]
    if action == 1:
        return (repeated + content)[: 2**20 - 1]
    places = [match.start() for match in re.finditer(re.escape(piece), content)] or [rng.randrange(len(content) + 1)]
    place = rng.choice(places) + (len(piece) if action == 2 else 0)
    room = max(2**20 - 1 - len(content), 0)  # what follows stays, so that the file may be well-formed
    return (content[:place] + repeated[:room] + content[place:])[: 2**20 - 1]


def mutated_text(content: bytes, rng: random.Random) -> bytes:
    """Returns lines of text after some changes of bytes, or stretched."""
    return stretched(content, _TEXT_PIECES, rng) if rng.random() < 0.2 else mutated_bytes(content, rng)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Returns the content after one to eight changes: bytes replaced, cut, repeated, moved, or tokens inserted."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 8, 64, 1024)), len(data))
        action = rng.randrange(7)
        if action == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[place : place + length] = rng.randbytes(length)
        elif action == 2:
            del data[place : place + length]
        elif action == 3:
            data[place:place] = rng.choice(_TOKENS)
        elif action == 4:
            data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
        elif action == 5:
            start = rng.randrange(len(data) + 1)
            data[place : place + length] = data[start : start + length]
        else:
            del data[place:]
    return bytes(data[: 2**20 - 1])


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """Returns the document with some of its values or keys exchanged, repeated or nested; or `mutated_bytes`."""
    if rng.random() < 0.4:
        return mutated_bytes(content, rng) if rng.random() < 0.7 else stretched(content, _JSON_PIECES, rng)
    document = json.loads(content)
    if rng.random() < 0.15:
        return json.dumps(_filled(document, rng)).encode("utf-8", "surrogatepass")[: 2**20 - 1]
    for _ in range(rng.choice((1, 1, 2, 5))):
        document = _with_change(document, rng)
    text = json.dumps(document)
    if rng.random() < 0.1:  # a repeated key, which no Python object can hold
        text = text.replace("{", "{" + '"k": 1, ' * rng.choice((2, 2000)), rng.choice((1, 2, 3)))
    return text.encode("utf-8", "surrogatepass")[: 2**20 - 1]


def mutated_xml(content: bytes, rng: random.Random) -> bytes:
    """Returns the document with numbers, names or elements exchanged or repeated, or with a prolog that declares entities."""
    if rng.random() < 0.5:
        return mutated_bytes(content, rng) if rng.random() < 0.7 else stretched(content, _XML_PIECES, rng)
    text = content.decode("utf-8")
    if rng.random() < 0.15:
        elements = re.findall(r"<(\w+)[^>]*?/>|<(\w+)\b[^>]*>.*?</\2>", text, re.DOTALL)
        names = sorted({name for found in elements for name in found if name}) or ["a"]
        return _filled_xml(text, rng.choice(names), rng).encode("utf-8", "surrogatepass")[: 2**20 - 1]
    for _ in range(rng.choice((1, 1, 2, 5))):
        action = rng.randrange(6)
        if action == 0:
            text = _replaced(r"-?\d+(\.\d+)?", rng.choice(_NUMBERS), text, rng)
        elif action == 1:
            text = _replaced(r'"[^"]*"', f'"{rng.choice(_TEXTS)}"', text, rng)
        elif action == 2:
            text = _replaced(r"(?<=<)\w+|(?<=</)\w+", rng.choice(("a", "Page", "image", "x:y")), text, rng)
        elif action == 3:
            element = rng.choice(re.findall(r"<\w[^>]*?/>", text) or [" "])
            text = text.replace(element, element * rng.choice((0, 2, 300)), 1)
        elif action == 4:
            place, depth = (
                rng.choice([match.end() for match in re.finditer(">", text)] or [0]),
                rng.choice((1, 300, 20000)),
            )
            text = text[:place] + "<a>" * depth + "</a>" * depth + text[place:]
        else:
            text = re.sub(r"^(<\?xml[^>]*>)?", lambda match: match.group() + rng.choice(PROLOGS), text, count=1)
            text = _replaced(r"(?<=>)[^<]*(?=<)", "&a;", text, rng)
    return text.encode("utf-8", "surrogatepass")[: 2**20 - 1]


def _filled_xml(text: str, name: str, rng: random.Random) -> str:
    """Returns the document with one element beside itself or inside itself many times."""
    found = re.search(rf"<{name}\b[^>]*?/>|<{name}\b[^>]*>.*?</{name}>", text, re.DOTALL)
    if found is None:
        return text
    room = rng.choice(_SIZES) - len(text)
    if rng.random() < 0.5:
        return text[: found.start()] + found.group() * max(room // len(found.group()), 1) + text[found.end() :]
    depth = max(room // (2 * len(name) + 5), 1)
    return text[: found.start()] + f"<{name}>" * depth + found.group() + f"</{name}>" * depth + text[found.end() :]


def _replaced(pattern: str, value: str, text: str, rng: random.Random) -> str:
    """Returns the text with one match of the pattern replaced."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return text
    match = rng.choice(matches)
    return text[: match.start()] + value + text[match.end() :]


def mutated_archive(content: bytes, rng: random.Random) -> bytes:
    """Returns a sound zip archive with one changed member; or `mutated_bytes` of the whole."""
    if rng.random() < 0.4:
        return mutated_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    action = rng.randrange(6)
    if action == 0:
        del members[name]
    elif action == 1:
        members[name] = members[rng.choice(list(members))]
    elif action == 2:
        members[name] = bytes(rng.choice((0, 1, 10**6)))
    else:
        members[name] = mutated_bytes(members[name], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return file.getvalue()


def mutated_checkpoint(content: bytes, rng: random.Random) -> bytes:
    """Returns a sound checkpoint with one to five values exchanged, repeated or left out; or `mutated_archive`."""
    if rng.random() < 0.4:
        return mutated_archive(content, rng)
    state = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(rng.choice((1, 1, 2, 5))):
        state = _with_change(state, rng)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def mutated_columns(content: bytes, rng: random.Random) -> bytes:
    """Returns a column file with a changed footer or column and right checksums; or `mutated_bytes`."""
    if rng.random() < 0.3:
        return mutated_bytes(content, rng)
    length = COLUMNS_END.unpack(content[-COLUMNS_END.size :])[0]
    start = len(content) - COLUMNS_END.size - length
    footer = json.loads(content[start : start + length])
    columns = bytearray(content[:start])
    if rng.random() < 0.5:
        _, descr, shape, first, _ = column = rng.choice(footer["columns"])
        size = np.dtype([tuple(field) for field in descr] if descr[0][0] else descr[0][1]).itemsize * math.prod(shape)
        changed = mutated_bytes(bytes(columns[first : first + size]), rng)[:size].ljust(size, b"\xff")
        columns[first : first + size], column[4] = changed, zlib.crc32(changed)
        written = json.dumps(footer).encode()
    else:
        written = mutated_json(json.dumps(footer).encode(), rng)
    return bytes(columns) + written + COLUMNS_END.pack(len(written), zlib.crc32(written), content[-8:])


Mutation = Callable[[bytes, random.Random], bytes]


def _filled(document: Any, rng: random.Random) -> Any:
    """Returns the document with one of its lists or objects, at a random depth, holding thousands of its own members."""
    inside = [key for key, value in _members(document) if isinstance(value, (dict, list)) and value]
    if inside and rng.random() < 0.75:
        changed, key = copy.copy(document), rng.choice(inside)
        changed[key] = _filled(document[key], rng)
        return changed
    members = _members(document) or [(0, rng.choice(_VALUES))]
    _, value = rng.choice(members)
    count = max(rng.choice(_SIZES) // (len(json.dumps(value)) + 12), 1)
    if isinstance(document, list):
        return document + [value] * count
    return document | {f"{key}{number}": value for key, number in ((members[-1][0], n) for n in range(count))}


def _members(document: Any) -> list[tuple[Any, Any]]:
    if isinstance(document, dict):
        return list(document.items())
    return list(enumerate(document)) if isinstance(document, list) else []


def _with_change(document: Any, rng: random.Random) -> Any:
    """Returns the document with one value, at a random depth, exchanged."""
    if rng.random() < 0.3 or not isinstance(document, (dict, list)) or not document:
        value = copy.deepcopy(rng.choice(_VALUES))
        for _ in range(rng.choice((0, 0, 0, 1, 60))):
            value = [value]
        return value
    if isinstance(document, list):
        index = rng.randrange(len(document))
        if rng.random() < 0.1:
            return document + [document[index]] * rng.choice((1, 300))
        return [*document[:index], _with_change(document[index], rng), *document[index + 1 :]]
    key = rng.choice(list(document))
    if rng.random() < 0.2:
        new_key = str(rng.choice(_VALUES))[:300]
        return {new_key if name == key else name: value for name, value in document.items()}
    if rng.random() < 0.1:
        return {name: value for name, value in document.items() if name != key}
    return document | {key: _with_change(document[key], rng)}
