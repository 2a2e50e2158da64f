"""Names and numbers as people read them. Names are anybody's: files and folders of a dataset."""

from __future__ import annotations

import re
import unicodedata

_LONG_S = 600  # from here on in minutes

# Control, format (among them those that turn the direction of text) and surrogate characters.
_UNSHOWABLE = frozenset({"Cc", "Cf", "Cs"})


def shown(name: str, most: int | None = None) -> str:
    """Return a name on one line, without characters that draw nothing or move others.

    Each is replaced by U+FFFD. Of a name longer than `most`, the middle becomes an ellipsis: what
    sets names apart stands at their ends.
    """
    text = "".join(
        "\ufffd" if unicodedata.category(character) in _UNSHOWABLE else character
        for character in name
    )
    if most is None or len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail].rstrip()}…{text[-tail:].lstrip()}"


def unbroken(sentence: str) -> str:
    """Return a sentence whose lines never break within ``p = 0.012`` or ``95 %``."""
    return re.sub(r"\bp ([=<]) (?=\d)| (?=%)", _without_breaks, sentence)


def _without_breaks(found: re.Match[str]) -> str:
    return found[0].replace(" ", "\u00a0")


def percent_text(share: float) -> str:
    """Return a share in percent: one decimal, none at the ends."""
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def points_text(difference: float) -> str:
    """Return a difference of accuracies in percent points, signed (but for 0), a true minus."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\u2212")


def microseconds_text(microseconds: float) -> str:
    """Return a duration: 0.8 µs, 42 µs, 2,520 µs."""
    return f"{microseconds:,.{1 if microseconds < 10 else 0}f} µs"


def seconds_text(seconds: float) -> str:
    """Return a duration: 0.42 s, 12.3 s, 135 s, 23.4 min, 2.6 h."""
    if seconds >= _LONG_S:
        minutes = seconds / 60
        return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    return f"{seconds:.{2 if seconds < 1 else 1 if seconds < 100 else 0}f} s"


def bytes_text(size_bytes: float) -> str:
    """Return a size in the largest binary unit that keeps it above one."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
