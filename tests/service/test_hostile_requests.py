"""Whatever bytes a client sends, it is answered below 500 or cut off, and others are served."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from featurestore.service.contract import ServiceSettings
from featurestore.testing.serving import serve

HOST = b"Host: here\r\n"
POST = b"POST /v1/embed?recipe=vgg16 HTTP/1.1\r\n" + HOST
REQUESTS = {
    "http-1.0": b"GET /v1/runs HTTP/1.0\r\n\r\n",
    "http-0.9": b"GET /v1/runs\r\n\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-9.9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "no UTF-8 in the path": b"GET /v1/feature-sets/%ff%fe%00x HTTP/1.1\r\n" + HOST + b"\r\n",
    "half a percent": b"GET /v1/runs/%f HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in the path": b"GET /v1/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "surrogate": b"GET /v1/runs/%ed%a0%80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no UTF-8 in the query": b"GET /v1/runs?limit=%ff&offset=%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in headers": b"GET /v1/runs HTTP/1.1\r\n"
    + HOST
    + b"Accept: \xff\r\nX-Request-Id: \xff\r\nCookie: \xff=\xff;;=;\r\nAuthorization: \xff\r\n\r\n",
    "no host": b"GET /v1/runs HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/runs HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "no host's name": b"GET /v1/none HTTP/1.1\r\nHost: [\r\n\r\n",
    "proxied": b"GET http://elsewhere/v1/none HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect": b"CONNECT elsewhere:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "unknown method": b"BREW /v1/runs HTTP/1.1\r\n" + HOST + b"\r\n",
    "odd method": b"PROPFIND /v1/runs HTTP/1.1\r\n" + HOST + b"\r\n",
    "trace": b"TRACE /v1/runs HTTP/1.1\r\n" + HOST + b"\r\n",
    "websocket": b"GET /v1/runs HTTP/1.1\r\n"
    + HOST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "h2c": b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "length of letters": POST + b"Content-Length: abc\r\n\r\n",
    "length below zero": POST + b"Content-Length: -5\r\n\r\n",
    "length beyond numbers": POST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "length beyond limits": POST + b"Content-Length: 999999999999\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "chunks within chunks": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "short body": POST + b"Content-Length: 50\r\n\r\nabc",
    "no body": POST + b"\r\n",
    "expectation": POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "no boundary": POST + b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\nabc",
    "odd boundary": POST
    + b"Content-Type: multipart/form-data; boundary=\xff\r\nContent-Length: 3\r\n\r\nabc",
    "long URL": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 500 + b"\r\n",
    "line break in the path": b"GET /v1/%0d%0aSet-Cookie:%20x=y HTTP/1.1\r\n" + HOST + b"\r\n",
    "bare line feeds": b"GET /v1/runs HTTP/1.1\nHost: here\n\n",
    "zero byte": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "odd range": b"GET /v1/runs HTTP/1.1\r\n" + HOST + b"Range: bytes=9999999999999999999-\r\n\r\n",
    "no form": b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\ntoken=\xff%f",
    "all bytes": bytes(range(256)) * 10,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serve(ServiceSettings(cache=tmp_path_factory.mktemp("cache"))) as url:
        yield urlsplit(url).port


def send(port: int, content: bytes) -> bytes:
    """Return the answer's first bytes; the connection's sending end is then closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(content)
        connection.settimeout(0.5)  # for a body that never comes whole
        try:
            return connection.recv(65536)
        except (TimeoutError, ConnectionResetError):
            return b""


@pytest.mark.parametrize("name", REQUESTS)
def test_it_is_answered_below_500_or_not_at_all(port, name):
    answer = send(port, REQUESTS[name])
    if answer:
        status = int(answer.split()[1])
        assert 100 <= status < 500, answer
    assert b"Set-Cookie: x" not in answer.partition(b"\r\n\r\n")[0]
    assert b"Traceback" not in answer
    after = send(port, b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    assert after.startswith(b"HTTP/1.1 200 ")
