"""The process that decodes images for the service: reads them from its input until that ends.

It is given limits that the operating system holds it to, so nothing that a file makes a codec do
reaches further than this process. It imports Pillow and NumPy, and no part of the service.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from featurestore.images import TooManyPixels, UnreadableImage

PIXELS, UNREADABLE, TOO_LARGE, NO_MEMORY = b"P", b"U", b"L", b"M"
HEADER = 5
"""Of an answer: its kind, and how many bytes follow in four bytes, the least significant first."""

Decode = Callable[..., np.ndarray]


def serve(setting: dict[str, Any]) -> None:
    """Answer requests of `DecodePool`, one at a time.

    Parameters
    ----------
    setting
        ``decoder`` (``module:function``, called as `images.decode_image`), ``max_pixels``,
        ``memory_bytes`` and ``alarm_s``.
    """
    # Who stops the service stops its group too; it still decodes what it accepted, and ends us by
    # ending our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What a codec prints must not land between answers.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    warnings.simplefilter("ignore")
    module, _, name = setting["decoder"].partition(":")
    decode: Decode = getattr(importlib.import_module(module), name)
    _limit(setting["memory_bytes"])
    requests = sys.stdin.buffer
    answers.write(b"\n")  # ready
    answers.flush()
    alarm_s = math.ceil(setting["alarm_s"])
    while head := requests.readline():
        asked = json.loads(head)
        content = requests.read(asked["bytes"])
        # The default of this signal ends the process, also within a codec, also as an orphan.
        if hasattr(signal, "alarm"):
            signal.alarm(alarm_s)
        kind, body = _answer(decode, content, asked, max_pixels=setting["max_pixels"])
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        _send(answers, kind, body)


def _answer(
    decode: Decode, content: bytes, asked: dict[str, Any], *, max_pixels: int
) -> tuple[bytes, bytes | memoryview]:
    try:
        pixels = decode(
            content,
            size=(asked["height"], asked["width"]),
            interpolation=asked["interpolation"],
            max_pixels=max_pixels,
        )
    except TooManyPixels as error:
        return TOO_LARGE, error.reason.encode(errors="replace")
    except UnreadableImage as error:
        return UNREADABLE, error.reason.encode(errors="replace")
    except MemoryError:
        return NO_MEMORY, b""
    return PIXELS, np.ascontiguousarray(pixels, np.uint8).reshape(-1).data


def _send(answers: IO[bytes], kind: bytes, body: bytes | memoryview) -> None:
    answers.write(kind + len(body).to_bytes(HEADER - 1, "little"))
    answers.write(body)
    answers.flush()


def _limit(memory_bytes: int) -> None:
    """Let the process have so much memory, write no file and leave no core."""
    try:
        import resource
    except ImportError:  # Windows has none of it
        return
    limits = {"RLIMIT_AS": memory_bytes, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, most in limits.items():
        which = getattr(resource, name, None)
        if which is None:
            continue
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))
