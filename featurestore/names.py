"""File names as text: one spelling on every system, and what to do with names that are no text.

`as_unicode` is for what is stored, `printable` for what a person is shown.
"""

from __future__ import annotations

import os
import unicodedata

_OBEYED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def nfc(text: str) -> str:
    """Return `text` in Unicode normal form C, so that macOS and Linux give one name."""
    return unicodedata.normalize("NFC", text)


def is_unicode(text: str) -> bool:
    """Whether a name from the file system was valid UTF-8 (holds no lone surrogate)."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def as_unicode(text: str) -> str:
    """Return `text` with bytes that are not UTF-8 written as ``\\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return `text` as one line that a terminal shows and does not obey.

    Escaped as in Python's literals: control characters (line breaks and the escape sequences of
    terminals among them), the marks that reorder text (Unicode's bidirectional embeddings,
    overrides and isolates), line and paragraph separators, and lone surrogates; those that stand
    for bytes as ``\\xNN``. Applied twice it is the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as Python reads names
        return f"\\x{ord(character) - 0xDC00:02x}"
    if (
        unicodedata.category(character) in _OBEYED
        or unicodedata.bidirectional(character) in _REORDERING
    ):
        return character.encode("unicode_escape").decode()
    return character
