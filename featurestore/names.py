"""File names as text: one spelling on every system, and what to do with names that are no text."""

from __future__ import annotations

import os
import unicodedata


def nfc(text: str) -> str:
    """Return `text` in Unicode normal form C, so that macOS and Linux give one name."""
    return unicodedata.normalize("NFC", text)


def is_unicode(text: str) -> bool:
    """Whether a name from the file system was valid UTF-8 (holds no lone surrogate)."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str) -> str:
    """Return `text` with bytes that are not UTF-8 written as ``\\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
