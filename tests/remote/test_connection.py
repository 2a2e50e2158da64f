"""A connection to servers that break off, refuse, lie and move: retried, never wrong."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
from scripted_server import Clock, Scripted, scripted

from featurestore.errors import (
    Conflict,
    IntegrityError,
    InvalidInput,
    MissingDependency,
    NotFound,
)
from featurestore.remote.connection import Ask, Connection, quoted
from featurestore.remote.pacing import Pacing, Unreachable

CONTENT = random.Random(3).randbytes(3_000_000)
TAG = '"' + "ab" * 32 + '"'


def problem(status, detail="it says why", headers=None, **fields):
    return Scripted(
        status,
        json.dumps({"type": "about:blank", "status": status, "detail": detail} | fields).encode(),
        {"Content-Type": "application/problem+json"} | (headers or {}),
    )


def answer_json(value):
    return Scripted(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def ranged(asked, content=CONTENT, tag=TAG):
    """Answer a range as RFC 9110 has it, or the whole."""
    wanted = asked.headers.get("Range")
    if wanted is None or asked.headers.get("If-Range", tag) != tag:
        return Scripted(200, content, {"ETag": tag})
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last or len(content)), len(content) - 1) + 1
    if start >= len(content):
        return Scripted(416, b"", {"Content-Range": f"bytes */{len(content)}", "ETag": tag})
    where = f"bytes {start}-{stop - 1}/{len(content)}"
    return Scripted(206, content[start:stop], {"Content-Range": where, "ETag": tag})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connect(clock):
    """Return a function that connects to a server, its pauses taking no time."""
    return lambda server, **options: Connection(server.url, pacing=clock.pacing(), **options)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_can_be_answered_later_is_asked_again(connect, clock, status):
    with scripted([problem(status), Scripted(status), answer_json({"a": 1})]) as server:
        assert connect(server).get_json("/v1/x") == {"a": 1}
    assert clock.pauses == [0.25, 0.5]


def test_retry_after_is_honoured(connect, clock):
    with scripted([problem(429, headers={"Retry-After": "7"}), answer_json({})]) as server:
        connect(server).get_json("/v1/x")
    assert clock.pauses == [7.0]


def test_a_retry_after_beyond_all_patience_is_an_error_at_once(connect, clock):
    with (
        scripted([problem(503, "under repair", headers={"Retry-After": "3600"})]) as server,
        pytest.raises(Unreachable, match="under repair"),
    ):
        connect(server).get_json("/v1/x")
    assert clock.pauses == []


def test_patience_ends(connect, clock):
    with (
        scripted(lambda asked: problem(429, "too much to do")) as server,
        pytest.raises(Conflict, match="too much to do"),
    ):
        connect(server).get_json("/v1/x")
    assert 50 < clock.now <= 60
    assert clock.pauses[:6] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0] and max(clock.pauses) == 8.0


def test_pauses_are_drawn_apart(connect):
    clock, drawn = Clock(), iter([0.0, 0.5, 1.0])
    pacing = clock.pacing()
    object.__setattr__(pacing, "jitter", lambda: next(drawn))
    with scripted([Scripted(503)] * 3 + [answer_json({})]) as server:
        Connection(server.url, pacing=pacing).get_json("/v1/x")
    assert clock.pauses == [0.125, 0.375, 1.0]


def test_a_failing_service_is_asked_three_times(connect):
    with scripted(lambda asked: problem(500, "it failed")) as server:
        with pytest.raises(Unreachable, match="it failed"):
            connect(server).get_json("/v1/x")
        assert len(server.asked) == 3


@pytest.mark.parametrize("answer", [Scripted(reset=True), Scripted(200, b"{}", cut=0)])
def test_a_broken_answer_is_asked_for_again(connect, answer):
    answer.headers |= {"Content-Length": "90"}
    with scripted([answer_json({}), answer, answer, answer_json({"a": 2})]) as server:
        connection = connect(server)
        connection.get_json("/v1/first")
        assert connection.get_json("/v1/x") == {"a": 2}


def test_where_nothing_listens_the_error_comes_soon():
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match="refused") as caught:
        Connection(f"http://127.0.0.1:{port}", pacing=clock.pacing()).get_json("/v1/x")
    assert clock.now <= 1.0
    assert "fs serve" in caught.value.next_step
    assert "object at 0x" not in str(caught.value)


def test_a_service_that_starts_anew_is_waited_for(clock):
    first = answer_json({})
    first.headers["Connection"] = "close"
    with scripted([first]) as server:
        connection = Connection(server.url, pacing=clock.pacing())
        connection.get_json("/v1/x")
        port = server.server_address[1]

    def start_again(seconds):
        clock.now += seconds
        clock.pauses.append(seconds)
        if len(clock.pauses) == 4:
            again = socket.create_server(("127.0.0.1", port))

            def serve():
                with again, again.accept()[0] as client:
                    client.recv(65536)
                    client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"b":1}')

            threading.Thread(target=serve, daemon=True).start()

    object.__setattr__(connection._pacing, "sleep", start_again)
    assert connection.get_json("/v1/x") == {"b": 1}
    assert len(clock.pauses) == 4


def test_a_silent_server_ends_in_an_error(clock):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(Unreachable, match="timed out"):
            Connection(url, timeout_s=0.2, pacing=clock.pacing(hasty_s=0.3)).get_json("/v1/x")
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("status", "kind", "step"),
    [
        (401, InvalidInput, "FS_TOKEN"),
        (403, InvalidInput, "FS_TOKEN"),
        (404, NotFound, "do this"),
        (409, Conflict, "do this"),
        (410, NotFound, "do this"),
        (413, InvalidInput, "do this"),
        (422, InvalidInput, "do this"),
        (501, MissingDependency, "do this"),
        (508, Unreachable, "do this"),
    ],
)
def test_problems_are_the_librarys_errors(connect, status, kind, step):
    with scripted([problem(status, next_step="do this")]) as server:
        with pytest.raises(kind, match="it says why") as caught:
            connect(server).get_json("/v1/x")
        assert step in caught.value.next_step
        assert server.url in caught.value.message


def test_a_refusal_without_a_problem_document_is_still_about_the_token(connect):
    with (
        scripted([Scripted(401, b"<html>", {"Content-Type": "text/html"})]) as server,
        pytest.raises(InvalidInput, match="Unauthorized"),
    ):
        connect(server).get_json("/v1/x")


@pytest.mark.parametrize(
    "answer",
    [
        Scripted(200, b"<!doctype html><title>It works!</title>", {"Content-Type": "text/html"}),
        Scripted(200, b"[1, 2]", {"Content-Type": "application/json"}),
        Scripted(200, b"[" * 100_000, {"Content-Type": "application/json"}),
        Scripted(404, b"<h1>not found</h1>", {"Content-Type": "text/html"}),
        Scripted(404, b'{"detail": 7}', {"Content-Type": "application/problem+json"}),
        Scripted(400, b"[" * 100_000, {"Content-Type": "application/problem+json"}),
        Scripted(416),
        Scripted(304),
    ],
)
def test_another_server_is_said_to_be_none(connect, answer):
    with (
        scripted([answer]) as server,
        pytest.raises(InvalidInput, match="is no featurestore service"),
    ):
        connect(server).get_json("/v1/feature-sets")


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host/", "file:///etc", "http://", "http:///x", "", "http://a/?b=c"],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(InvalidInput, match="is no URL of a service"):
        Connection(url)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(InvalidInput) as caught:
        Connection("http://me:secret@host:8000")
    assert "secret" not in str(caught.value) and "FS_TOKEN" in str(caught.value)


def test_the_token_is_sent_and_never_shown(connect):
    with scripted([answer_json({}), problem(403)]) as server:
        connection = connect(server, token="s3cret")
        connection.get_json("/v1/x")
        assert server.asked[0].headers["Authorization"] == "Bearer s3cret"
        with pytest.raises(InvalidInput) as caught:
            connection.get_json("/v1/x")
        assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidInput, match="token"):
        connect(server, token="two\r\nlines")


def test_a_redirect_at_home_is_followed_and_no_other_is(connect):
    with scripted([answer_json({})]) as elsewhere:
        home = Scripted(307, headers={"Location": "/v1/y"})
        away = Scripted(302, headers={"Location": f"{elsewhere.url}/v1/x"})
        with scripted([home, answer_json({"a": 1}), away]) as server:
            connection = connect(server, token="s3cret")
            assert connection.get_json("/v1/x") == {"a": 1}
            assert [asked.path for asked in server.asked] == ["/v1/x", "/v1/y"]
            with pytest.raises(InvalidInput, match="redirects to") as caught:
                connection.get_json("/v1/x")
            assert elsewhere.url in caught.value.message
        assert elsewhere.asked == []


def test_going_round_in_circles_ends(connect):
    with (
        scripted(lambda asked: Scripted(302, headers={"Location": "/v1/x"})) as server,
        pytest.raises(InvalidInput, match="redirects more than"),
    ):
        connect(server).get_json("/v1/x")


def test_a_path_of_any_characters_arrives(connect):
    with scripted([answer_json({})]) as server:
        connect(server).get_json(quoted("v1", "a/b ü?#%", ".."), query={"run": "a&b=c"})
        assert server.asked[0].path == "/v1/a%2Fb%20%C3%BC%3F%23%25/%2E%2E?run=a%26b%3Dc"


def test_a_service_under_a_path_of_a_proxy(clock):
    with scripted([answer_json({})]) as server:
        Connection(f"{server.url}/features/", pacing=clock.pacing()).get_json("/v1/x")
        assert server.asked[0].path == "/features/v1/x"


def test_an_endless_answer_is_cut_short(connect):
    with (
        scripted([Scripted(200, bytes(5_000_000))]) as server,
        pytest.raises(IntegrityError, match="more than 1000 bytes"),
    ):
        connect(server).get_bytes("/v1/x", limit_bytes=1000)


def test_a_post_sends_its_body_again(connect):
    with scripted([Scripted(503), answer_json({"n": 1})]) as server:
        reply = connect(server).ask(
            Ask(path="/v1/embed", method="POST", body=b"bytes", headers={"Content-Type": "a/b"})
        )
        assert reply.headers["content-type"] == "application/json"
        assert [asked.body for asked in server.asked] == [b"bytes", b"bytes"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_goes_on_where_it_broke_off(connect, reset):
    """Broken after random numbers of bytes, it still has every byte once, in order."""
    draw = random.Random(5)

    def broken(asked):
        answer = ranged(asked)
        if len(answer.body) > 200_000:
            answer.headers["Content-Length"] = str(len(answer.body))
            answer.cut, answer.reset = draw.randrange(0, 600_000), reset
        return answer

    with scripted(broken) as server:
        assert b"".join(connect(server).stream("/v1/x")) == CONTENT
        asked = server.asked[1:]
        assert len(asked) >= 4
        assert {each.headers["If-Range"] for each in asked if "Range" in each.headers} == {TAG}


def test_a_stream_begins_and_ends_where_asked(connect):
    with scripted(ranged) as server:
        connection = connect(server)
        assert b"".join(connection.stream("/v1/x", start=2_999_000, etag=TAG)) == CONTENT[-1000:]
        assert b"".join(connection.stream("/v1/x", start=3_000_000, etag=TAG)) == b""
        with pytest.raises(Conflict, match="another file"):
            list(connection.stream("/v1/x", start=3_000_001, etag=TAG))


def test_a_server_without_ranges_serves_a_stream_all_the_same(connect):
    whole = Scripted(200, CONTENT, {"ETag": TAG})
    with scripted([whole]) as server:
        assert b"".join(connect(server).stream("/v1/x", start=7, etag=TAG)) == CONTENT[7:]


def test_a_stream_never_mixes_two_files(connect):
    """Replaced between two pieces: what comes after would be of the other file."""
    first = Scripted(200, CONTENT, {"ETag": TAG, "Content-Length": "3000000"}, cut=500_000)
    other = Scripted(200, CONTENT[::-1], {"ETag": '"other"'})
    with scripted([first, other]) as server, pytest.raises(Conflict, match="another file"):
        list(connect(server).stream("/v1/x"))


def test_a_stream_whose_pieces_begin_elsewhere_is_refused(connect):
    wrong = Scripted(206, b"abc", {"ETag": TAG, "Content-Range": "bytes 0-2/9"})
    with scripted([wrong]) as server, pytest.raises(IntegrityError, match="other bytes"):
        list(connect(server).stream("/v1/x", start=5, etag=TAG))


def test_ranges(connect):
    with scripted(ranged) as server:
        connection = connect(server)
        assert connection.get_range("/v1/x", range(10, 20), etag=TAG) == CONTENT[10:20]
        assert connection.get_range("/v1/x", range(2_999_990, 3_000_010)) == CONTENT[-10:]
        assert connection.get_range("/v1/x", range(4_000_000, 4_000_001)) == b""
        assert connection.get_range("/v1/x", range(5, 5)) == b""
        with pytest.raises(Conflict, match="another file"):
            connection.get_range("/v1/x", range(10, 20), etag='"other"')
    whole = Scripted(200, CONTENT)  # it knows no ranges
    with scripted([whole]) as server:
        assert connect(server).get_range("/v1/x", range(10, 20)) == CONTENT[10:20]


def test_connections_are_kept_alive(connect):
    ports = set()
    with scripted(lambda asked: answer_json({})) as server:
        original = server.verify_request
        server.verify_request = lambda request, address: (
            ports.add(address[1]) or original(request, address)
        )
        connection = connect(server)
        for _ in range(20):
            connection.get_json("/v1/x")
    assert len(ports) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the server has a thread
def test_a_forked_child_makes_connections_of_its_own(connect):
    ports = set()
    with scripted(lambda asked: answer_json({"path": asked.path})) as server:
        original = server.verify_request
        server.verify_request = lambda request, address: (
            ports.add(address[1]) or original(request, address)
        )
        connection = connect(server)
        connection.get_json("/v1/parent")
        child = os.fork()
        if not child:
            found = connection.get_json("/v1/child")
            os._exit(0 if found == {"path": "/v1/child"} else 1)
        assert os.waitpid(child, 0)[1] == 0
        connection.get_json("/v1/parent")
    assert len(ports) == 2


def drip(listening, stop):
    """Answer one request with a byte now and then."""
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while not stop.wait(0.01):
                connection.sendall(b" ")
        except OSError:
            pass


def test_an_answer_that_drips_ends_in_an_error():
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=drip, args=(listening, stop), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        pacing = Pacing(slowest_s=0.1, patience_s=0.1)
        with pytest.raises(Unreachable, match="slower than 65536 bytes in"):
            Connection(url, pacing=pacing, timeout_s=5).get_json("/v1/x")
        stop.set()
        server.join()


def test_a_proxy_is_told_the_user_and_password_of_its_url(clock):
    with scripted([answer_json({}), Scripted(407), answer_json({})]) as server:
        proxy = server.url.replace("http://", "http://me:p%40ss@")
        connection = Connection("http://box:8000", proxy=proxy, pacing=clock.pacing())
        connection.get_json("/v1/x")
        # "me:p@ss" in Base64
        assert server.asked[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
        with pytest.raises(InvalidInput, match=r"proxy .* wants a user and password") as raised:
            connection.get_json("/v1/x")
        assert "http://user:password@" in raised.value.next_step
        plain = server.url.removeprefix("http://")
        Connection("http://box:8000", proxy=plain, pacing=clock.pacing()).get_json("/v1/x")
    assert "proxy-authorization" not in server.asked[2].headers


def test_a_proxy_that_refuses_a_tunnel_is_asked_once(clock):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

        server = threading.Thread(target=refuse, daemon=True)
        server.start()
        proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(InvalidInput, match="proxy"):
            Connection("https://box", proxy=proxy, pacing=clock.pacing()).get_json("/v1/x")
        server.join()
    assert clock.pauses == []


def test_nothing_heavy_is_loaded():
    program = (
        "import sys; import featurestore.remote.connection; "
        "print({'tensorflow', 'fastapi', 'sklearn', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "set()\n", found
