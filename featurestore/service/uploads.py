"""Images as clients send them: read piece by piece within limits, and held in memory only.

A body is one image, or `multipart/form-data` with an image in each file part. What a client says
about itself (length, names, counts) is never believed: bytes are counted as they come, and a name
is text to be echoed, not a path.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from featurestore.errors import InvalidInput
from featurestore.service.contract import Busy, Limits, TooLarge

_FORM = "multipart/form-data"
# Beside the files of a form: fields that nobody reads, and what stands above one part.
_FIELDS = 100
_PART_HEAD_BYTES = 8192
_NAME_CHARACTERS = 1000
# Slower than this in any `body_seconds`, a client would hold its bytes for hours within a limit on
# each piece: 64 MiB in pieces of one byte, or all at once but one.
_LEAST_BYTES_PER_S = 10_000
# Bodies held at once, over all requests, in bodies of the largest size.
_LARGEST_BODIES = 8
# A hit is answered before; only then is it worth asking whether somebody still waits.
_LOOK_AFTER_S = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """One image as sent; `name` is the client's own, None where it gave none."""

    name: str | None
    content: bytes


class Uploads:
    """Reads the bodies of requests; one for the service, which bounds what all hold together.

    Attributes
    ----------
    held_bytes
        Of bodies that are being read or worked on.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held_bytes = 0
        self._most_bytes = _LARGEST_BODIES * limits.body_bytes
        self._arriving: set[_Arrival] = set()

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Give the images of a request, at least one; their bytes count as held until it ends.

        Raises
        ------
        TooLarge
            More bytes or images than the limits allow.
        InvalidInput
            No image at all.
        Busy
            All requests together hold as many bytes as the service does, and of those that arrive
            this one comes slowest.
        HTTPException
            400: a malformed form; 408: too slow; 415: an encoding, or a multipart that is no form.
        ClientDisconnect
            The client left midway.
        """
        body = _form_or_raw(request, self.limits)
        arrival = _Arrival(self.limits.body_seconds)
        self._arriving.add(arrival)
        try:
            async for piece in arrival.pieces(request):
                self.held_bytes += len(piece)
                arrival.held_bytes += len(piece)
                if arrival.held_bytes > self.limits.body_bytes:
                    raise _too_long(self.limits)
                self._make_room()
                if arrival.dropped:
                    raise _no_room()
                body.write(piece)
            self._arriving.discard(arrival)
            yield body.finish()
        finally:
            self._arriving.discard(arrival)
            self.held_bytes -= arrival.held_bytes

    def _make_room(self) -> None:
        """Drop what comes slowest: else a few that hardly come would lock out all others."""
        while self.held_bytes > self._most_bytes:
            slowest = min(self._arriving, key=_Arrival.bytes_per_s)
            self._arriving.discard(slowest)
            self.held_bytes -= slowest.held_bytes
            slowest.drop()


class UntilGone:
    """Within it, a client that leaves ends the work on its request, as `ClientDisconnect`.

    Only for a request whose body was read. It is first looked after 50 ms, so that what is known
    costs nothing more.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watch: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_AFTER_S, self._look)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if not self._gone:
            return
        if kind is None:  # it was done just then: the cancellation is still to come
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as cancelled:
                kind, error = asyncio.CancelledError, cancelled
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    def _look(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


class _Arrival:
    """One body on its way, which must keep a pace.

    Parameters
    ----------
    window_s
        In each of these, as many bytes must come as `_LEAST_BYTES_PER_S` gives.
    """

    def __init__(self, window_s: float) -> None:
        self.held_bytes = 0
        self.dropped = False
        self._window_s = window_s
        self._loop = asyncio.get_running_loop()
        self._began = self._window_began = self._loop.time()
        self._in_window = self._in_window_before = 0
        self._waiting: asyncio.Timeout | None = None

    def bytes_per_s(self) -> float:
        """Return how fast it came in this window and the one before."""
        since = max(self._began, self._window_began - self._window_s)
        return (self._in_window_before + self._in_window) / max(self._loop.time() - since, 0.001)

    def drop(self) -> None:
        """Let `pieces` raise Busy; what is held is the caller's to give back."""
        self.dropped, self.held_bytes = True, 0
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0.0)

    async def pieces(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        more = True
        while more:
            self._keep_pace()
            message = None
            try:
                async with asyncio.timeout_at(self._window_began + self._window_s) as self._waiting:
                    message = await request.receive()
            except TimeoutError:
                pass
            finally:
                self._waiting = None
            if self.dropped:
                raise _no_room()
            if message is None:
                continue
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                self._in_window += len(piece)
                yield piece

    def _keep_pace(self) -> None:
        now = self._loop.time()
        if now < self._window_began + self._window_s:
            return
        least = int(_LEAST_BYTES_PER_S * self._window_s)
        if self._in_window < least:
            raise HTTPException(
                408,
                f"of the body, {self._in_window:,} bytes came in {self._window_s:g} s: "
                f"expected at least {least:,}",
                {"Connection": "close"},
            )
        self._window_began = now
        self._in_window_before, self._in_window = self._in_window, 0


def _form_or_raw(request: Request, limits: Limits) -> _Form | _Raw:
    headers = request.headers
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(
            415,
            "the body has a Content-Encoding: send it as it is",
            {"Accept-Encoding": "identity"},
        )
    said = headers.get("content-length", "")
    # Only to refuse before the upload; the bytes are counted all the same.
    if said.isascii() and said.isdigit() and int(said[:20]) > limits.body_bytes:
        raise _too_long(limits)
    media_type, options = parse_options_header(headers.get("content-type", "").encode("latin-1"))
    if media_type == _FORM.encode():
        return _Form(options.get(b"boundary", b""), limits)
    if media_type.startswith(b"multipart/"):
        raise HTTPException(415, f"of multipart bodies only {_FORM} is read")
    return _Raw()


def _too_long(limits: Limits) -> TooLarge:
    return TooLarge(
        f"the body has more than {limits.body_bytes:,} bytes",
        next_step="send fewer images in a request",
    )


def _no_room() -> Busy:
    return Busy("the service holds as many uploads as it has memory for")


class _Raw:
    """A body that is one image."""

    def __init__(self) -> None:
        self._first = b""
        # No list of pieces: one of two bytes takes forty there.
        self._content = bytearray()

    def write(self, piece: bytes) -> None:
        if not self._first:
            self._first = piece  # mostly the whole
            return
        self._content += piece if self._content else self._first + piece

    def finish(self) -> list[Upload]:
        if not self._first:
            raise InvalidInput(
                "the body is empty: expected the bytes of an image", next_step=f"or send {_FORM}"
            )
        return [Upload(None, bytes(self._content) or self._first)]


class _Form:
    """A form as RFC 7578 has it: parts with a file name are images, others are not looked at."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        if not boundary:
            raise HTTPException(400, f"{_FORM} without a boundary")
        self._images: list[Upload] = []
        self._limits = limits
        self._others = 0
        self._ended = False
        self._head = (bytearray(), bytearray())
        self._disposition = b""
        self._content: bytearray | None = None
        self._name: str | None = None
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._head_end,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._all,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def write(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed(error) from error

    def finish(self) -> list[Upload]:
        if not self._ended:
            raise HTTPException(400, f"the {_FORM} body ends before its last boundary")
        if not self._images:
            raise InvalidInput(
                f"the {_FORM} body has no file part",
                next_step="give parts a file name: curl -F image=@photo.jpg",
            )
        return self._images

    def _begin(self) -> None:
        self._disposition = b""
        self._head_bytes = 0

    def _header_field(self, piece: bytes, start: int, end: int) -> None:
        self._add_head(self._head[0], piece[start:end])

    def _header_value(self, piece: bytes, start: int, end: int) -> None:
        self._add_head(self._head[1], piece[start:end])

    def _add_head(self, text: bytearray, piece: bytes) -> None:
        self._head_bytes += len(piece)
        if self._head_bytes > _PART_HEAD_BYTES:
            raise HTTPException(400, f"a part has more than {_PART_HEAD_BYTES} bytes of headers")
        text += piece

    def _header_end(self) -> None:
        field, value = self._head
        if field.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._head = (bytearray(), bytearray())

    def _head_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        found = options.get(b"filename")
        if found is None:
            self._count_other()
            self._content = None
            return
        self._name = found.decode("utf-8", "replace")[:_NAME_CHARACTERS]
        self._content = bytearray()

    def _data(self, piece: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content += memoryview(piece)[start:end]

    def _end(self) -> None:
        if self._content is None:
            return
        content = bytes(self._content)
        self._content = None
        if not self._name and not content:
            self._count_other()  # what a browser sends for a field in which no file was chosen
            return
        if len(self._images) == self._limits.images:
            raise TooLarge(
                f"the request has more than {self._limits.images} images",
                next_step="send fewer images in a request",
            )
        self._images.append(Upload(self._name, content))

    def _count_other(self) -> None:
        self._others += 1
        if self._others > _FIELDS:
            raise TooLarge(f"the form has more than {_FIELDS} fields beside its files")

    def _all(self) -> None:
        self._ended = True


def _malformed(error: FormParserError) -> HTTPException:
    return HTTPException(400, f"malformed {_FORM}: {error}")
