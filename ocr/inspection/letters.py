"""Counts the letters of the transcriptions by script. Readers drop texts, so this looks into the annotation files themselves."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

MAX_BYTES = 16_000_000
"""Bytes that are read of the annotation files of a split."""
MAX_FILES = 2000
"""Number of files that are read of a folder of annotation files."""
_JSON_TEXT = re.compile(r'"(?:transcription|text|utf8_string|label|value)"\s*:\s*\[?\s*("(?:[^"\\]|\\.)*")')
_XML_TEXT = re.compile(r'<Unicode>([^<]*)</Unicode>|(?:CONTENT|transcription|text)="([^"]*)"')
_COORDINATES = re.compile(r"^[\s\d.,;+-]*")
_ENDINGS = (".json", ".jsonl", ".txt", ".xml", ".gt")


def letters_by_script(annotation_path: str | None) -> dict[str, int]:
    """Returns the number of letters by Unicode script, such as {"Latin": 900, "Hangul": 40}; empty without transcriptions.

    Args:
        annotation_path: file or folder of annotations; of large ones the first `MAX_BYTES` count. None: no annotations.
    """
    if annotation_path is None:
        return {}
    counts: Counter[str] = Counter()
    for text in _texts(Path(annotation_path)):
        counts.update(_script(letter) for letter in text if letter.isalpha())
    return {name: count for name, count in counts.most_common() if name}


def _texts(path: Path) -> Iterator[str]:
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in _ENDINGS)[:MAX_FILES]
    else:
        files = [path] if path.suffix.lower() in _ENDINGS and path.is_file() else []
    num_left = MAX_BYTES
    for file in files:
        if num_left <= 0:
            return
        with file.open("rb") as stream:
            content = stream.read(num_left)
        num_left -= len(content)
        yield from _texts_in(content.decode("utf-8", "replace"), file.suffix.lower())


def _texts_in(content: str, ending: str) -> Iterator[str]:
    if ending == ".xml":
        for found in _XML_TEXT.finditer(content):
            yield found[1] or found[2] or ""
    elif ending in (".json", ".jsonl") or _JSON_TEXT.search(content[:10_000]):
        for found in _JSON_TEXT.finditer(content):
            try:
                yield json.loads(found[1], strict=False)
            except ValueError:
                continue
    else:
        for line in content.splitlines():
            yield _COORDINATES.sub("", line)


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    return {"CJK": "Han"}.get(name, name.capitalize())
