"""Decodes images in processes apart, so that no file can take the service down.

A codec that crashes, hangs or wants all memory costs its own image and the process that it ran in,
which the next image replaces (about 0.2 s). Such an image has a reason but is no known fact: the
same bytes are tried again.

Pixels come from `images.decode_image`, as in `fs embed`, so they are the same to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

import numpy as np

from featurestore.images import MAX_PIXELS
from featurestore.online import Refusal
from featurestore.service.decoder_process import HEADER, NO_MEMORY, PIXELS, TOO_LARGE

TIMEOUT_S = 30.0
_START_S = 30.0
# Of a process that has decoded nothing yet: Python, NumPy, Pillow and their threads' stacks.
_BASE_BYTES = 2**30
# Pillow holds a pixel in 4 bytes, and up to four copies of a picture at once: decoded, with
# transparency, over white, turned upright.
_BYTES_PER_PIXEL = 16
# A process that has outlived its service, or whose watch sleeps, ends itself so much later.
_ALARM_AFTER_S = 5.0
_CHILD = (
    "import json, sys; setting = json.loads(sys.stdin.buffer.readline());"
    "sys.path[:] = setting['path'];"
    "from featurestore.service.decoder_process import serve; serve(setting)"
)
_NOT_FOR_CHILDREN = "FS_TOKEN"


@dataclasses.dataclass(frozen=True)
class DecodeLimits:
    """What one image may take.

    Parameters
    ----------
    pixels
        As its header says; at most `images.MAX_PIXELS`, whose refusal is part of the rule.
    memory_bytes
        Of the process that decodes it (where the system can hold it to that); None follows from
        `pixels`.
    """

    pixels: int = MAX_PIXELS
    seconds: float = TIMEOUT_S
    memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Oversized:
    """The image has more pixels than allowed: `reason` says how many."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Lost:
    """Decoding the image did not end: `reason` says how. It says nothing certain of the bytes."""

    reason: str


Decoded = np.ndarray | Refusal | Oversized | Lost


@dataclasses.dataclass(frozen=True)
class DecodeTask:
    """Bytes, and the (height, width) in pixels and the filter that they are wanted in."""

    content: bytes
    size: tuple[int, int]
    interpolation: str


def memory_for(pixels: int) -> int:
    """Return the bytes that a process may have which decodes images of so many pixels."""
    return _BASE_BYTES + _BYTES_PER_PIXEL * pixels


class DecodePool:
    """Processes that decode; each is started when it is first needed. Any thread may ask.

    Parameters
    ----------
    decoder
        ``module:function``, called as `images.decode_image`, which tests replace.
    """

    def __init__(
        self,
        workers: int,
        *,
        limits: DecodeLimits = DecodeLimits(),  # frozen
        decoder: str = "featurestore.images:decode_image",
    ) -> None:
        self.workers = max(1, workers)
        pixels = min(limits.pixels, MAX_PIXELS)
        memory = limits.memory_bytes or memory_for(pixels)
        setting = {
            "path": sys.path,
            "decoder": decoder,
            "max_pixels": pixels,
            "memory_bytes": memory,
            "alarm_s": limits.seconds + _ALARM_AFTER_S,
        }
        self._slots = [
            _Slot(json.dumps(setting).encode(), limits.seconds) for _ in range(self.workers)
        ]
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        self._closing = threading.Event()
        self._tick_s = min(0.25, limits.seconds / 4)
        self._watch = threading.Thread(target=self._end_overdue, name="decode-watch", daemon=True)
        self._watch.start()

    def decode(self, task: DecodeTask) -> Future[Decoded]:
        """Return what will become of an image: (height, width, 3) uint8 RGB, or why there is none.

        Images are begun in the order given.
        """
        return self._threads.submit(self._decode, task)

    def close(self) -> None:
        """Finish what was given, then end the processes."""
        self._threads.shutdown(wait=True)
        self._closing.set()
        self._watch.join()
        for slot in self._slots:
            slot.close()

    def processes(self) -> list[int]:
        """Return the ids of the processes that run now."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    def _decode(self, task: DecodeTask) -> Decoded:
        slot = self._free.get()
        try:
            return slot.decode(task)
        finally:
            self._free.put(slot)

    def _end_overdue(self) -> None:
        while not self._closing.wait(self._tick_s):
            now = time.monotonic()
            for slot in self._slots:
                slot.end_if_overdue(now)


class _Slot:
    """A place for one process: used by one thread at a time, and watched by another."""

    def __init__(self, setting: bytes, seconds: float) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._setting = setting
        self._seconds = seconds
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._overdue = False

    def decode(self, task: DecodeTask) -> Decoded:
        process = self.process or self._start()
        self._expect_within(self._seconds)
        try:
            kind, body = _ask(process, task)
        except (EOFError, BrokenPipeError):
            self._expect_within(None)
            code = self._end()
            if self._overdue:
                return Lost(f"decoding it took longer than {self._seconds:g} s")
            return Lost(f"the process that decoded it ended {_how(code)}")
        self._expect_within(None)
        if kind == PIXELS:
            return np.frombuffer(body, np.uint8).reshape(*task.size, 3)
        reason = body.decode(errors="replace")
        if kind == NO_MEMORY:
            # What the codec left behind may be why: the next image has a new process.
            self._end()
            return Lost("decoding it takes more memory than one image may have")
        return Oversized(reason) if kind == TOO_LARGE else Refusal(reason)

    def end_if_overdue(self, now: float) -> None:
        """Kill the process if it has been at one image for too long."""
        with self._lock:
            if self._deadline is not None and now > self._deadline and self.process is not None:
                self._overdue = True
                self._deadline = None
                self.process.kill()

    def close(self) -> None:
        """End the process; no image is with it."""
        self._end()

    def _expect_within(self, seconds: float | None) -> None:
        with self._lock:
            if seconds is None:
                self._deadline = None
            else:
                self._overdue = False
                self._deadline = time.monotonic() + seconds

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # codecs print what a client sent
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the service, which ends this when it is done
        )
        with self._lock:
            self.process = process
        self._expect_within(_START_S)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(self._setting + b"\n")
            process.stdin.flush()
            ready = process.stdout.readline()
        except BrokenPipeError:
            ready = b""
        self._expect_within(None)
        if ready != b"\n":
            code = self._end()
            raise RuntimeError(
                f"a process that decodes images ended {_how(code)} before it was ready; to see "
                f"why: {sys.executable} -c 'import featurestore.service.decoder_process'"
            )
        return process

    def _end(self) -> int:
        process = self.process
        if process is None:
            return 0
        with self._lock:
            self.process = None
        process.kill()
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                _close(stream)
        return code


def _ask(process: subprocess.Popen[bytes], task: DecodeTask) -> tuple[bytes, bytes]:
    assert process.stdin is not None and process.stdout is not None
    height, width = task.size
    asked = {
        "bytes": len(task.content),
        "height": height,
        "width": width,
        "interpolation": task.interpolation,
    }
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.write(task.content)
    process.stdin.flush()
    head = _read(process.stdout, HEADER)
    return head[:1], _read(process.stdout, int.from_bytes(head[1:], "little"))


def _read(stream: IO[bytes], size: int) -> bytes:
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return body


def _close(stream: IO[bytes]) -> None:
    """Close a pipe; what could not be written to a process that has ended is of no use."""
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with code {code}"


def _environment() -> dict[str, str]:
    """Return this process's environment without the token, which no codec needs to know."""
    environment = {name: value for name, value in os.environ.items() if name != _NOT_FOR_CHILDREN}
    # Nothing here multiplies matrices; each thread of OpenBLAS would take address space.
    return environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
