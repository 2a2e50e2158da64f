"""Clients that are slow, silent, many or greedy do not stop others."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from featurestore.service.connections import Patience, PatientServer
from featurestore.service.contract import Busy, Limits
from featurestore.service.limits import Limited
from featurestore.service.run_server import allow_connections, server_config

LARGE = b"x" * 32 * 2**20  # more than the system's buffers of a connection hold
SHORT = Patience(head_s=0.4, read_s=0.4, head_bytes=4096, connections=100)
HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"


async def small(request) -> Response:
    return PlainTextResponse("small")


async def large(request) -> Response:
    return Response(LARGE)


async def early(request) -> Response:
    """Answers before the body is here."""
    return PlainTextResponse("no", 413)


async def whole(request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@contextmanager
def serving(patience: Patience):
    """Serve the routes above on a free port; yields it."""
    app = Starlette(
        routes=[
            Route("/", small),
            Route("/large", large),
            Route("/early", early, methods=["POST"]),
            Route("/whole", whole, methods=["POST"]),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = PatientServer(server_config(app, patience), patience)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port():
    with serving(SHORT) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def until_closed(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes; fails if it does not within ten seconds."""
    came = []
    with suppress(ConnectionResetError):
        while piece := connection.recv(2**20):
            came.append(piece)
    return b"".join(came)


def ask(port: int) -> bytes:
    with connect(port) as connection:
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        return until_closed(connection)


def test_a_connection_that_never_asks_is_closed(port):
    with connect(port) as connection:
        assert until_closed(connection) == b""


def test_a_head_that_comes_byte_by_byte_is_told_so(port):
    with connect(port) as connection:
        began = time.monotonic()
        try:
            for byte in HEAD * 3:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            pass
        assert time.monotonic() - began < 5
        assert until_closed(connection).startswith(b"HTTP/1.1 408 ")


def test_a_head_without_end_is_cut(port):
    with connect(port) as connection:
        connection.sendall(HEAD + b"X: " + b"x" * 5000)
        assert until_closed(connection).startswith(b"HTTP/1.1 431 ")


def test_keep_alive_outlives_the_time_for_a_head(port):
    with connect(port) as connection:
        for _ in range(3):
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.5)


def test_a_body_may_take_longer_than_a_head(port):
    with connect(port) as connection:
        connection.sendall(b"POST /whole HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n")
        for byte in b"abcd":
            time.sleep(0.2)
            connection.sendall(bytes([byte]))
        assert connection.recv(65536).endswith(b"\r\n4")


@pytest.mark.parametrize("cut", [None, 7])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_of_a_request_that_offers_another_protocol_is_no_request(port, cut, chunked):
    """As `curl --http2 --data-binary` sends it; the offer is declined."""
    body = b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n"
    sized = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    in_chunks = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    sent = b"POST /whole HTTP/1.1\r\nHost: here\r\n" + offer + (in_chunks if chunked else sized)
    sent = sent * 2 + HEAD + b"Connection: close\r\n\r\n"
    with connect(port) as connection:
        for start in range(0, len(sent), cut or len(sent)):
            connection.sendall(sent[start : start + (cut or len(sent))])
        came = until_closed(connection)
    assert came.count(b"HTTP/1.1 200 OK") == came.count(b"HTTP/1.1") == 3
    assert came.count(b"\r\n\r\n%d" % len(body)) == 2
    assert came.endswith(b"small")


def test_who_goes_on_sending_what_was_refused_is_cut_off(port):
    with connect(port) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: here\r\nContent-Length: 999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 5:
                connection.sendall(b"x")
                time.sleep(0.05)


def test_who_reads_nothing_is_cut_off(port):
    with connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        time.sleep(1.5)
        assert len(until_closed(connection)) < len(LARGE)


def test_who_reads_slowly_gets_all(port):
    with connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        came = 0
        began = time.monotonic()
        while piece := connection.recv(2**20):
            came += len(piece)
            time.sleep(0.05)
        assert came > len(LARGE)
        assert time.monotonic() - began > 2 * SHORT.read_s


def test_who_reads_very_slowly_is_waited_for(port):
    """What the system holds for the client is read all that time, but not refilled from ours."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 2**10)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 3 * SHORT.read_s:
            assert connection.recv(8 * 2**10)
            time.sleep(0.06)
        after = len(until_closed(connection))
    assert after > len(LARGE) // 2


def test_the_end_does_not_wait_for_who_reads_nothing(caplog):
    with ExitStack() as stack:
        with serving(Patience(grace_s=0.2)) as port:
            connection = stack.enter_context(connect(port))
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            assert connection.recv(10)
            began = time.monotonic()
        assert time.monotonic() - began < 5
    assert "1 connections were not done" in caplog.text


def test_a_few_requests_may_come_at_once_but_not_hundreds(port):
    with connect(port) as connection:
        connection.sendall((HEAD + b"\r\n") * 10)
        came = b""
        while came.count(b"small") < 10:
            came += connection.recv(65536)
    with connect(port) as connection:
        connection.sendall((HEAD + b"\r\n") * 500)
        assert b"HTTP/1.1 400 " in until_closed(connection)


def test_the_connection_that_is_idle_longest_makes_room():
    patience = Patience(head_s=30, connections=10)
    with serving(patience) as port, ExitStack() as stack:
        idle = [stack.enter_context(connect(port)) for _ in range(10)]
        for connection in idle:
            connection.sendall(HEAD + b"\r\n")
            assert b"small" in connection.recv(65536)
        idle[0].sendall(HEAD + b"\r\n")  # now the second one is idle longest
        assert b"small" in idle[0].recv(65536)
        assert b"small" in ask(port)
        assert until_closed(idle[1]) == b""
        idle[0].sendall(HEAD + b"\r\n")
        assert b"small" in idle[0].recv(65536)


def test_a_thousand_idle_connections_and_slow_heads_do_not_stop_others():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 4096:
        pytest.skip(f"{before[1]} open files are too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), before[1]))
    try:
        with serving(Patience(head_s=60)) as port, ExitStack() as stack:
            for number in range(1000):
                connection = stack.enter_context(connect(port))
                if number % 2:
                    connection.sendall(HEAD)
            began = time.monotonic()
            for _ in range(20):
                assert b"small" in ask(port)
            assert time.monotonic() - began < 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (1024, 2**20, 2 * 4096 + 512, 4096),
        (1024, 1024, 1024, 256),
        (256, 256, 256, 64),
        (2**20, 2**20, 2**20, 4096),
    ],
)
def test_each_connection_may_be_sent_a_file(monkeypatch, soft, hard, raised, connections):
    resource = pytest.importorskip("resource")
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.append(both))
    assert allow_connections() == connections
    assert limits[-1] == (raised, hard)


class Computing:
    """An application whose requests read their body and work until `go` is set."""

    def __init__(self, requests: int) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.app = Limited(self._compute, limits=Limits(requests=requests))

    async def _compute(self, scope, receive, send) -> None:
        try:
            while (await receive())["more_body"]:
                pass
        except Busy:
            await PlainTextResponse("busy", 429)(scope, receive, send)
            return
        self.begun += 1
        await self.go.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async def post(self, *, pieces=(b"",), wait: asyncio.Event | None = None) -> tuple[int, dict]:
        """Send one request, its last piece once `wait` is set; return status and headers."""
        left = list(pieces)
        answer = {}

        async def receive():
            if len(left) == 1 and wait is not None:
                await wait.wait()
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message):
            answer.update(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": []}
        await self.app(scope, receive, send)
        return answer.get("status"), dict(answer.get("headers", []))


def test_more_requests_than_places_are_told_to_come_again():
    async def story() -> None:
        computing = Computing(2)
        first = [asyncio.create_task(computing.post()) for _ in range(2)]
        await asyncio.sleep(0.01)
        status, headers = await computing.post()
        assert status == 429
        assert int(headers[b"retry-after"]) >= 1
        computing.go.set()
        assert [status for status, _ in await asyncio.gather(*first)] == [200, 200]
        assert (await computing.post())[0] == 200

    asyncio.run(story())


def test_who_is_still_sending_holds_no_place():
    async def story() -> None:
        computing = Computing(1)
        late = asyncio.Event()
        slow = asyncio.create_task(computing.post(pieces=(b"a", b"b"), wait=late))
        await asyncio.sleep(0.01)
        quick = asyncio.create_task(computing.post())
        await asyncio.sleep(0.01)
        assert computing.begun == 1
        late.set()  # now the body is whole, and the place is taken
        assert (await slow)[0] == 429
        computing.go.set()
        assert (await quick)[0] == 200
        assert computing.begun == 1

    asyncio.run(story())


def test_who_reads_slowly_holds_no_place():
    async def story() -> None:
        computing = Computing(1)
        computing.go.set()
        sending, read = asyncio.Event(), asyncio.Event()

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sending.set()
            await read.wait()

        scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": []}
        slow = asyncio.create_task(computing.app(scope, receive, send))
        await sending.wait()
        assert (await computing.post())[0] == 200
        read.set()
        await slow
        assert (await computing.post())[0] == 200
        assert computing.app._places._free == 1

    asyncio.run(story())


@pytest.mark.parametrize("how", ["raises", "cancelled"])
def test_a_request_that_fails_gives_its_place_back(how):
    async def story() -> None:
        async def fails(scope, receive, send) -> None:
            await receive()
            if how == "cancelled":
                await asyncio.sleep(60)
            raise RuntimeError("a bug")

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            raise AssertionError(message)

        app = Limited(fails, limits=Limits(requests=1))
        scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": []}
        for _ in range(3):
            task = asyncio.create_task(app(scope, receive, send))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises((RuntimeError, asyncio.CancelledError)):
                await task

    asyncio.run(story())


def test_reading_needs_no_place():
    async def story() -> None:
        computing = Computing(1)
        busy = asyncio.create_task(computing.post())
        await asyncio.sleep(0.01)
        reached = []

        async def reads(scope, receive, send) -> None:
            reached.append(scope["path"])

        computing.app._app = reads
        for method, path in (("GET", "/v1/embed"), ("POST", "/login")):
            await computing.app({"type": "http", "method": method, "path": path}, None, None)
        assert reached == ["/v1/embed", "/login"]
        computing.go.set()
        await busy

    asyncio.run(story())
