"""Texts and labels by which annotations mark don't-care regions."""

from typing import Any

IGNORE_TEXTS = ("###", "*")
"""Transcriptions of don't-care regions."""
_IGNORE_LABELS = frozenset({"ignore", "ignored", "dontcare", "illegible", "illegibility", "unreadable"})
"""In lower case, without the characters below."""
_PADDING = str.maketrans("", "", " -_'\u2019")


def is_ignore_label(label: Any) -> bool:
    """Returns whether a label, class, category or flag marks don't-care regions: `ignore`, `Don't care`, `illegible`, `###`, ..."""
    return isinstance(label, str) and (label in IGNORE_TEXTS or label.lower().translate(_PADDING) in _IGNORE_LABELS)
