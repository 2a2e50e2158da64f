"""Loads one server from this process: requests made beforehand, answers counted and not looked at.

A closed loop: each client has one connection, and sends its next request when the answer to the
last is whole. Takes one plan as JSON on stdin and prints what became of it as JSON; `run_plan` does
that in a process of its own, so that neither the server nor who measures is in its way. Nothing
here imports more than the standard library and, where it is there, uvloop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

_BOUNDARY = b"featurestore-benchmark"
_BUFFER_BYTES = 2**18
_GRACE_S = 120.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CACHE = re.compile(rb"\r\nx-featurestore-cache: *(\w+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send.

    Parameters
    ----------
    targets
        Paths with their query. Without `images` each is fetched; with them there is one, and it is
        sent images: one as a raw body, several as a form.
    images
        Files, read before the clock starts.
    start
        Which request comes first; they are taken in turns, by whichever client is free.
    seconds
        When to send no more; None sends each request once.
    """

    port: int
    targets: Sequence[str]
    images: Sequence[str] = ()
    images_a_request: int = 1
    accept: str = "*/*"
    clients: int = 1
    start: int = 0
    seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What became of a plan.

    Parameters
    ----------
    body_bytes
        Of the answers.
    statuses, caches
        How many answers had each, and each value of ``X-Featurestore-Cache``.
    processor_share
        Of one core, that this generator took itself.
    next
        The request that would have been sent next.
    """

    requests: int
    seconds: float
    body_bytes: int
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    caches: dict[str, int]
    processor_share: float
    next: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def mb_per_s(self) -> float:
        return self.body_bytes / self.seconds / 1e6


def run_plan(plan: Plan) -> Load:
    """Run a plan in a process of its own.

    Raises
    ------
    RuntimeError
        An answer was no 200, or a connection broke.
    """
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(dataclasses.asdict(plan)).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator ended with exit code {done.returncode}")
    load = Load(**json.loads(done.stdout))
    if set(load.statuses) - {"200"}:
        raise RuntimeError(f"expected 200 alone, found {load.statuses} for {plan.targets[0]}")
    return load


def requests_of(plan: Plan) -> list[bytes]:
    """Return whole requests, head and body."""
    if not plan.images:
        return [_request("GET", target, plan) for target in plan.targets]
    contents = [Path(path).read_bytes() for path in plan.images]
    (target,) = plan.targets
    if plan.images_a_request == 1:
        return [_request("POST", target, plan, body=each, kind="image/jpeg") for each in contents]
    many = plan.images_a_request
    groups = [contents[at : at + many] for at in range(0, len(contents), many)]
    kind = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
    return [_request("POST", target, plan, body=_form(each), kind=kind) for each in groups]


def _request(method: str, target: str, plan: Plan, *, body: bytes = b"", kind: str = "") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nAccept: {plan.accept}\r\n"
    if method == "POST":
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _form(contents: Sequence[bytes]) -> bytes:
    pieces = []
    for index, content in enumerate(contents):
        pieces.append(
            b"--%s\r\nContent-Disposition: form-data; name=image; filename=%d.jpg\r\n"
            b"Content-Type: image/jpeg\r\n\r\n" % (_BOUNDARY, index)
        )
        pieces += [content, b"\r\n"]
    return b"".join([*pieces, b"--%s--\r\n" % _BOUNDARY])


class _Turns:
    """Hands out requests and keeps what became of them."""

    def __init__(self, requests: list[bytes], plan: Plan) -> None:
        self.requests, self.at = requests, plan.start % len(requests)
        self.left = math.inf if plan.seconds is not None else len(requests)
        self.ends = math.inf
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.caches: Counter[str] = Counter()
        self.body_bytes = 0

    def take(self) -> bytes | None:
        if self.left < 1 or time.perf_counter() >= self.ends:
            return None
        self.left -= 1
        request = self.requests[self.at]
        self.at = (self.at + 1) % len(self.requests)
        return request


class _Client(asyncio.BufferedProtocol):
    def __init__(self, turns: _Turns, done: asyncio.Future[None]) -> None:
        self._turns, self._done = turns, done
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._head = b""
        self._left: int | None = None  # bytes of the body to come; None within the head
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._view

    def send(self) -> None:
        assert self._transport is not None
        request = self._turns.take()
        if request is None:
            self._done.set_result(None)
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(request)

    def buffer_updated(self, nbytes: int) -> None:
        if self._left is None:
            self._head += bytes(self._view[:nbytes])
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, nbytes = self._head[:end], len(self._head) - end - 4
            self._head = b""
            length = _LENGTH.search(head)
            if length is None:
                self._fail(ValueError(f"expected an answer of a stated length, found {head!r}"))
                return
            self._left = int(length[1])
            self._turns.body_bytes += self._left
            self._turns.statuses[head[9:12].decode()] += 1
            if cache := _CACHE.search(head):
                self._turns.caches[cache[1].decode()] += 1
        self._left -= nbytes
        if self._left < 0:
            self._fail(ValueError("the answer is longer than it says"))
        elif self._left == 0:
            self._left = None
            self._turns.latencies.append(time.perf_counter() - self._began)
            self.send()

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def load(plan: Plan) -> Load:
    """Run a plan in this event loop."""
    loop = asyncio.get_running_loop()
    turns = _Turns(requests_of(plan), plan)
    clients, done = [], []
    for _ in range(plan.clients):
        future: asyncio.Future[None] = loop.create_future()
        made = lambda future=future: _Client(turns, future)  # noqa: E731
        _, client = await loop.create_connection(made, "127.0.0.1", plan.port)
        clients.append(client)
        done.append(future)
    processor, began = time.process_time(), time.perf_counter()
    if plan.seconds is not None:
        turns.ends = began + plan.seconds
    for client in clients:
        client.send()
    async with asyncio.timeout((plan.seconds or 600) + _GRACE_S):
        await asyncio.gather(*done)
    seconds = time.perf_counter() - began
    return Load(
        requests=len(turns.latencies),
        seconds=seconds,
        body_bytes=turns.body_bytes,
        p50_ms=1000 * percentile(turns.latencies, 50),
        p99_ms=1000 * percentile(turns.latencies, 99),
        statuses=dict(turns.statuses),
        caches=dict(turns.caches),
        processor_share=(time.process_time() - processor) / seconds,
        next=turns.at,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    try:
        from uvloop import run
    except ModuleNotFoundError:
        from asyncio import run
    print(json.dumps(dataclasses.asdict(run(load(plan)))))


if __name__ == "__main__":
    main()
