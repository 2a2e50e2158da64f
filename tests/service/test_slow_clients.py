"""Clients that are slow, idle or too many, against `fs serve` as a process: others are answered.

What times out, and when, is tested with short times in test_limits.py.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import numpy as np
import pytest
from committed_stores import commit_rows

from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.fuzzing import good_image
from featurestore.testing.images import write_image_folder
from featurestore.testing.served_process import Memory, Tiny, served_process
from featurestore.testing.store_rows import sparse_rows

PATIENCE_S = 60.0  # a machine may be busy: what is tested is that there is an end
IMPATIENT = Tiny(limits={"head_seconds": 2.0, "body_seconds": 2.0})
EMBED = "/v1/embed?recipe=photos"
LARGE_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with one feature set whose images can be embedded, and one large file."""
    root = tmp_path_factory.mktemp("slow")
    write_image_folder(root / "photos")
    TinyEmbedder(root / "photos", root / "cache")()
    return root / "cache"


def ask(url: str, path: str = "/healthz", body: bytes | None = None):
    """Return status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    try:
        connection.request("GET" if body is None else "POST", path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def others_are_answered(url: str, number: int) -> None:
    for _ in range(5):
        assert ask(url)[0] == 200
    assert ask(url, "/v1/feature-sets")[0] == 200
    status, _, body = ask(url, EMBED, good_image(number))
    assert status == 200
    assert json.loads(body)["results"][0]["origin"] == "computed"


def connect(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S)


def until_closed(connection: socket.socket) -> bytes:
    """Return what the server still sends; fails if it does not close within the patience."""
    came = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            came += piece
    return came


def drip(url: str, content: bytes, *, first: int) -> bytes:
    """Send the first bytes at once and then one a second, and return what comes in the end."""
    with connect(url) as connection:
        connection.sendall(content[:first])
        connection.settimeout(1.0)
        deadline = time.monotonic() + PATIENCE_S
        for at in range(first, len(content)):
            assert time.monotonic() < deadline, "it is still waited for"
            try:
                connection.sendall(content[at : at + 1])
                if came := connection.recv(65536):
                    return came
                return b""
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
    raise AssertionError("the whole request was waited for")


def test_one_byte_a_second_is_given_up_and_others_are_answered(cache):
    head = f"POST {EMBED} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n\r\n".encode()
    with served_process(cache, tiny=IMPATIENT) as served, ThreadPoolExecutor(40) as pool:
        heads = [pool.submit(drip, served.url, head, first=1) for _ in range(20)]
        bodies = [
            pool.submit(drip, served.url, head + bytes(9000), first=len(head)) for _ in range(20)
        ]
        others_are_answered(served.url, 1)
        for each in heads + bodies:
            came = each.result()
            assert came == b"" or came.startswith(b"HTTP/1.1 408 ")
        assert any(each.result() for each in bodies)
        others_are_answered(served.url, 2)


def test_answers_that_nobody_reads_fill_no_memory(cache):
    rows = sparse_rows(LARGE_BYTES // 2048, (1024,))
    random = np.random.default_rng(0).integers(0, 0x7C00, rows.features.shape, np.uint16)
    split = dataclasses.replace(rows, features=random.view(np.float16))
    record = commit_rows(cache, {"train": split}, store_format="hdf5", dataset="large")
    file = f"/v1/feature-sets/{record.name}/store/{record.store.name}"
    request = f"GET {file} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with served_process(cache) as served, ExitStack() as stack:
        others_are_answered(served.url, 3)
        before = sum(served.memory.now().values())
        for _ in range(100):
            stack.enter_context(connect(served.url)).sendall(request)
        others_are_answered(served.url, 4)
        assert ask(served.url, file)[2] == record.store.read_bytes()
        if Memory.is_known():  # 100 answers are 1.6 GiB
            assert served.memory.peak_bytes - before < 200 * 2**20


@contextmanager
def many_files(count: int):
    """Let this process have so many files open, or skip the test."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < count:
        pytest.skip(f"{before[1]} open files are allowed, and {count} needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], count), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_thousand_idle_connections_stop_nobody_and_are_closed(cache):
    with many_files(4096), served_process(cache, tiny=IMPATIENT) as served, ExitStack() as stack:
        others_are_answered(served.url, 5)
        before = sum(served.memory.now().values())
        idle = [stack.enter_context(connect(served.url)) for _ in range(1000)]
        others_are_answered(served.url, 6)
        for connection in idle:
            assert until_closed(connection) == b""
        others_are_answered(served.url, 7)
        if Memory.is_known():
            assert served.memory.peak_bytes - before < 150 * 2**20


@pytest.mark.parametrize(
    "limits", [{"requests": 4}, {"queued_images": 4}], ids=["requests", "queue"]
)
def test_a_flood_is_told_to_come_again_and_then_is_answered(cache, limits):
    tiny = Tiny(limits=limits, pause_s=0.5)
    with served_process(cache, tiny=tiny) as served, ThreadPoolExecutor(48) as pool:
        flood = [
            pool.submit(ask, served.url, EMBED, good_image(100 + number)) for number in range(48)
        ]
        assert ask(served.url)[0] == 200
        answers = [each.result() for each in flood]
        statuses = {status for status, _, _ in answers}
        assert statuses == {200, 429}, [each for each in answers if each[0] not in (200, 429)]
        for status, headers, body in answers:
            if status == 429:
                assert int(headers["retry-after"]) >= 1
                assert json.loads(body)["status"] == 429
        others_are_answered(served.url, 8 if "requests" in limits else 9)
