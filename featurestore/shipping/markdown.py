"""Texts from anywhere within Markdown: class names, notes and names of files and runs."""

from __future__ import annotations

import re

from featurestore.names import printable

# What CommonMark and GitHub read within a line: code, emphasis, links, HTML, entities, formulas,
# closing marks of a heading, and addresses (``https://``, ``www.``) that they make links of.
_READ = re.compile(r"[\\`*_\[\]<>&~|$#@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def code(name: str) -> str:
    """Return a name as a code span, in which Markdown reads nothing.

    Source: CommonMark 0.31, section 6.1: the fence is longer than any row of backticks within, and
    one space at each end is dropped where both are there, but not from spaces alone.
    """
    text = printable(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padded = text.strip(" ") and (text.startswith((" ", "`")) or text.endswith((" ", "`")))
    return f"{fence} {text} {fence}" if padded else f"{fence}{text}{fence}"


def escaped(sentence: str) -> str:
    """Return a sentence for the middle of a line, shown as it stands."""
    return _READ.sub(lambda found: "\\" + found[0], printable(sentence))
