"""What a client is told of an error: no folder of this machine, and no command for its owner.

The log has all of it, under the id of the request.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from featurestore.errors import FeatureStoreError, IntegrityError
from featurestore.service.contract import Unavailable
from featurestore.service.logs import request_id

# What the library says to who sits at the machine.
_OWNERS = re.compile(r"(fs|pip|chmod|remove|do not use it:) ")

_PYTHONS = re.compile(r": \w+(Error|Exception)\(.*\)$", re.DOTALL)


def told(error: FeatureStoreError, *, status: int, cache: Path | None) -> tuple[str, str | None]:
    """Return what is said of an error that is answered with a status, and what may be done."""
    if status >= 500:
        return failure(_what_failed(error)), None
    message = error.message if cache is None else text_for_client(error.message, cache)
    return message, step_for_client(error.next_step)


def failure(what: str = "the service failed") -> str:
    """Return the sentence of an answer that only the log explains."""
    asked = request_id.get()
    return f"{what}; its log says how" + (f", under {asked}" if asked else "")


def step_for_client(step: str | None) -> str | None:
    """Return a next step where it is one that a client can take."""
    return None if step is None or _OWNERS.match(step) else step


def text_for_client(text: str, cache: Path) -> str:
    """Return a text with names in the cache instead of paths, and without what Python said."""
    for whole, within in _patterns(cache):
        text = whole.sub("this cache", within.sub("", text))
    return _PYTHONS.sub("", text)


@lru_cache(maxsize=8)
def _patterns(cache: Path) -> list[tuple[re.Pattern[str], re.Pattern[str]]]:
    written = {str(cache), os.path.abspath(cache), str(cache.resolve())}
    found = []
    for each in sorted(written, key=len, reverse=True):
        path = re.escape(each)
        # A relative path is a word that a text may have for another reason, and tells little.
        before = r"(?:\bcache )?" if os.path.isabs(each) else r"\bcache "
        whole = re.compile(rf"{before}{path}(?![\w/-])")
        found.append((whole, re.compile(rf"(?<![\w.-]){path}[/\\](?=\S)")))
    return found


def _what_failed(error: FeatureStoreError) -> str:
    if isinstance(error, Unavailable):
        return "the cache is not there now"
    if isinstance(error, IntegrityError):
        return "what the service holds is damaged or incomplete"
    return "the service failed"
