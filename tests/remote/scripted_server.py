"""A server that answers as it is told, one answer a request, and writes down what was asked."""

from __future__ import annotations

import dataclasses
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

from featurestore.remote.pacing import Pacing

RESET = struct.pack("ii", 1, 0)


@dataclasses.dataclass
class Scripted:
    """One answer. `cut`: bytes of the body after which the connection breaks."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut: int | None = None
    reset: bool = False


@dataclasses.dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "GET"


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers) -> None:
        self.asked: list[Asked] = []
        self._answers: Iterator[Scripted] | Callable[[Asked], Scripted] = (
            answers if callable(answers) else iter(answers)
        )
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_answer(self, asked: Asked) -> Scripted:
        with self._lock:
            self.asked.append(asked)
            if callable(self._answers):
                return self._answers(asked)
            return next(self._answers, Scripted(599))

    def handle_error(self, request, client_address) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = Asked(self.path, dict(self.headers), self.rfile.read(length), self.command)
        answer = self.server.next_answer(asked)
        if answer.reset and answer.cut is None:
            self._break()
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not {"Content-Length", "Transfer-Encoding"} & set(answer.headers):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.cut])
        if answer.cut is not None:
            self.wfile.flush()
            self._break() if answer.reset else self._hang_up()

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _hang_up(self) -> None:
        self.close_connection = True

    def _break(self) -> None:
        time.sleep(0.02)  # what is on its way arrives
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.connection.close()
        self.close_connection = True

    def log_message(self, format, *arguments) -> None:
        pass


@contextmanager
def scripted(answers):
    """Serve a list of answers, one a request, or a function from what was asked to an answer."""
    server = ScriptedServer(answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Clock:
    """Time that passes only while somebody sleeps; `pauses` are the sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def pacing(self, **fields) -> Pacing:
        return Pacing(clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 1.0, **fields)


def between(url: str, spoil=lambda asked, answer: answer):
    """Serve what the service at `url` answers, after `spoil` has made of it what it likes."""
    pool = urllib3.PoolManager(maxsize=8)

    def answer(asked: Asked) -> Scripted:
        sent = {
            name: value
            for name, value in asked.headers.items()
            if name.lower() not in ("host", "connection")
        }
        found = pool.request(
            asked.method, url + asked.path, headers=sent, retries=3, redirect=False
        )
        kept = ("ETag", "Content-Type", "Content-Range", "Retry-After")
        kept += ("Content-Length",) if asked.method == "HEAD" else ()
        headers = {name: found.headers[name] for name in kept if name in found.headers}
        return spoil(asked, Scripted(found.status, found.data, headers))

    return scripted(answer)
