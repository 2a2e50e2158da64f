"""Connections that wait for nobody: uvicorn's, with the limits on slow clients that it has not.

uvicorn closes a connection that is idle after an answer. It has no limit for one that never asks,
that sends its request's head byte by byte or without end, that goes on sending a body which was
refused, or that does not read its answer; and when descriptors run out it can accept nobody.
And it takes the body of a request that offers another protocol for the next request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import sys
from typing import Any

import httptools
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

_log = logging.getLogger("featurestore.service")
_PIPELINED = 32
_READ_BYTES = 16 * 2**10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long, and with how many, connections are waited for.

    Parameters
    ----------
    head_s
        For a request's head, from the connection or the head's first byte on; as long for the rest
        of a body that nobody wants.
    read_s
        For a client to read some of what is ready for it: `_READ_BYTES`, or all.
    head_bytes
        Of an unfinished head.
    connections
        Open at once; beyond, the one that was idle longest makes room.
    grace_s
        For what is at work when the server is told to end.
    """

    head_s: float = 10.0
    read_s: float = 60.0
    head_bytes: int = 64 * 2**10
    connections: int = 4096
    grace_s: float = 30.0


class _Idle:
    """Connections without a request at work, the one that is idle longest first."""

    def __init__(self) -> None:
        self._idle: dict[PatientProtocol, None] = {}

    def add(self, connection: PatientProtocol) -> None:
        self._idle.pop(connection, None)
        self._idle[connection] = None

    def discard(self, connection: PatientProtocol) -> None:
        self._idle.pop(connection, None)

    def close_longest(self) -> None:
        if self._idle:
            connection = next(iter(self._idle))
            self.discard(connection)
            connection.transport.abort()


class PatientProtocol(HttpToolsProtocol):
    """One connection; see the module. Made by `patient_protocol`."""

    patience: Patience
    idle: _Idle

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._in_head = False
        self._offered = b""
        self._until_head: asyncio.TimerHandle | None = None
        self._until_read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.idle.add(self)
        self._wait_for_head()
        if len(self.connections) > self.patience.connections:
            self.idle.close_longest()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.idle.discard(self)
        self._stop_waiting_for_head()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            said = "Invalid HTTP request received."
            self.logger.warning(said)
            self.send_400_response(said)
        if self.transport.is_closing():
            self._wait_for_reader()
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.patience.head_bytes and not self._at_work:
                self._refuse(431, "Request Header Fields Too Large")
                return
        if not self._at_work and self._until_head is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = False
        self._stop_waiting_for_head()
        self.idle.discard(self)
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError("too many requests at once")  # answered 400 by data_received
        if self.parser.should_upgrade():
            self._offered = self._head_without_upgrade()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        if not self._offered:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._wait_for_reader()
        elif not self._at_work:
            self.idle.add(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """See `HttpToolsProtocol`."""
        # Closing would wait for a client that has not read all of its answer in that time.
        self.transport.abort()

    def _parse(self, data: bytes) -> None:
        """Parse requests as if none offered another protocol, which a server may (RFC 9110 7.8).

        httptools cannot be told so: it ends such a request with its head, and takes the body for
        the next one. So the head is parsed again without the offer.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._offered + data[upgrade.args[0] :]
                self._offered = b""
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        method = self.parser.get_method()
        if method == b"CONNECT":  # is an offer by itself
            raise ValueError("not a proxy")
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        for name, text in self.headers:
            if b"\r" in text or b"\n" in text:
                raise ValueError("a line break in a header")
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, text))
        return b"\r\n".join((*lines, b"", b""))

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._until_head = self.loop.call_later(self.patience.head_s, self._head_is_late)

    def _stop_waiting_for_head(self) -> None:
        if self._until_head is not None:
            self._until_head.cancel()
            self._until_head = None

    def _head_is_late(self) -> None:
        self._until_head = None
        if self.transport.is_closing():
            return
        if self._at_work:  # the next request's head, begun while this one is answered
            self._wait_for_head()
        elif self._in_head:
            self._refuse(408, "Request Timeout")
        else:
            self.transport.abort()

    def _wait_for_reader(self) -> None:
        if self._until_read is None:
            left = self._left_to_read()
            self._until_read = self.loop.call_later(
                self.patience.read_s, self._look_at_reader, left
            )

    def _look_at_reader(self, left_before: int) -> None:
        # An answer of many MiB may be written at once; a slow line needs longer for all of it.
        self._until_read = None
        if self._left_to_read() > max(0, left_before - _READ_BYTES):
            self.transport.abort()
        else:
            self._wait_for_reader()

    def _left_to_read(self) -> int:
        """Return the bytes that the client's system has not taken.

        The system's buffer holds MiB, and is refilled from ours when a third of it is free: ours
        alone looks for minutes as if a slow client read nothing. Where the system cannot tell
        (Windows), only ours counts.
        """
        left = self.transport.get_write_buffer_size()
        connection = self.transport.get_extra_info("socket")
        try:
            import fcntl
            import termios

            queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        except (ModuleNotFoundError, OSError, ValueError):
            return left
        return left + int.from_bytes(queued, sys.byteorder)

    def _stop_waiting_for_reader(self) -> None:
        if self._until_read is not None:
            self._until_read.cancel()
            self._until_read = None

    def _refuse(self, status: int, phrase: str) -> None:
        self.transport.write(
            f"HTTP/1.1 {status} {phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
        )
        self.transport.close()
        self._wait_for_reader()


class PatientServer(uvicorn.Server):
    """uvicorn's, whose end no client can put off."""

    def __init__(self, config: Config, patience: Patience) -> None:
        super().__init__(config)
        self._grace_s = patience.grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; clients that are not done after the grace are cut off."""
        loop = asyncio.get_running_loop()
        end = loop.call_later(self._grace_s, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()

    def _cut_off(self) -> None:
        connections = list(self.server_state.connections)
        _log.warning(
            "%d connections were not done %g s after the end was asked for: they are cut off",
            len(connections),
            self._grace_s,
        )
        for connection in connections:
            connection.transport.abort()


def patient_protocol(patience: Patience) -> type[PatientProtocol]:
    """Return the class of one server's connections, which share what `_Idle` knows."""
    shared = {"patience": patience, "idle": _Idle()}
    return type("ServersProtocol", (PatientProtocol,), shared)
