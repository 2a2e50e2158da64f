"""SIGKILL of the pull or of the service at any moment: it ends with the service's bytes."""

import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from scripted_server import between
from served import SPLITS, files_of, same_set

from featurestore.catalogue import Catalogue
from featurestore.remote.connection import Connection
from featurestore.remote.pacing import Pacing, Unreachable
from featurestore.remote.pull import PullSettings, Quiet, pull_set
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.faults import count_operations
from featurestore.testing.images import write_image_folder
from featurestore.testing.serving import serve
from featurestore.verify import verify_set

KILLS = 10
PULL = textwrap.dedent(
    """
    import sys
    from featurestore.remote.connection import Connection
    from featurestore.remote.pull import PullSettings, pull_set

    url, name, store_format, cache = sys.argv[1:]
    pull_set(Connection(url), name, PullSettings(store_format=store_format, jobs=2), cache=cache)
    """
)
SERVE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from featurestore.service.contract import ServiceSettings
    from featurestore.service.run_server import Address, run_server

    run_server(
        ServiceSettings(cache=Path(sys.argv[1])),
        Address(port=int(sys.argv[2])),
        ready=lambda url: print("ready", flush=True),
    )
    """
)
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_image_folder(root / "photos", splits=SPLITS)
    embed = TinyEmbedder(root / "photos", root / "cache")
    embed(store="hdf5")
    embed()
    embed(views=2)
    return root / "cache"


@pytest.mark.parametrize(("store", "views"), [("zarr", 2), ("hdf5", 0)])
def test_killed_and_begun_again_it_ends_with_the_services_bytes(served, tmp_path, store, views):
    there = next(
        r for r in Catalogue(served).records() if (r.store_format, r.views) == (store, views)
    )
    laptop, draw, kills = tmp_path / "laptop", random.Random(7), 0
    left, reached = 0, threading.Event()

    def count(asked, answer):
        nonlocal left
        left -= 1
        if left <= 0:
            reached.set()
        time.sleep(0.005)
        if store == "hdf5" and len(answer.body) > 8000 and kills < KILLS:  # one file, in pieces
            answer.headers["Content-Length"] = str(len(answer.body))
            answer.cut = 8000
        return answer

    with serve(ServiceSettings(cache=served)) as url, between(url, count) as server:
        arguments = [sys.executable, "-c", PULL, server.url, there.name, store, str(laptop)]
        while kills < KILLS and not Catalogue(laptop).records():
            left = draw.randrange(4, 10) if store == "zarr" else 4  # three before the first file
            reached.clear()
            child = subprocess.Popen(arguments)
            while child.poll() is None and not reached.wait(0.01):
                pass
            time.sleep(draw.uniform(0.0, 0.04))
            killed = child.poll() is None
            child.kill()
            assert child.wait() == (-signal.SIGKILL if killed else 0)
            kills += killed
            for here in Catalogue(laptop).records():  # visible means whole
                assert same_set(here, there)
        assert kills >= 2
        kills = KILLS
        result = pull_set(
            Connection(server.url), there.name, PullSettings(store_format=store), cache=laptop
        )
    assert result.reused_files > 0 or store == "hdf5"  # a short file that comes at once, or not
    (here,) = Catalogue(laptop).records()
    assert same_set(here, there) and verify_set(here).rows == 280
    rest = [path for path in laptop.rglob("*") if path.name.startswith((".incomplete", ".tmp"))]
    assert rest == []
    assert not list((laptop / ".staging").iterdir())


DIE = textwrap.dedent(
    """
    import sys
    from featurestore.remote.connection import Connection
    from featurestore.remote.pull import PullSettings, pull_set
    from featurestore.testing.faults import die_at_operation

    url, name, cache, k = sys.argv[1:]
    with die_at_operation(int(k)):
        pull_set(Connection(url), name, PullSettings(jobs=1), cache=cache)
    """
)


def test_killed_at_steps_of_the_commit_nothing_half_is_seen(served, tmp_path):
    there = next(r for r in Catalogue(served).records() if not r.views and r.store_format == "zarr")
    with serve(ServiceSettings(cache=served)) as url:

        def pull(cache):
            return pull_set(Connection(url), there.name, PullSettings(jobs=1), cache=cache)

        total = count_operations(lambda: pull(tmp_path / "calm"))
        for k in range(total - 9, total, 2):  # the store's rename, the list's and the record's
            laptop = tmp_path / f"laptop-{k}"
            arguments = [sys.executable, "-c", DIE, url, there.name, str(laptop), str(k)]
            assert subprocess.run(arguments).returncode == -signal.SIGKILL
            for here in Catalogue(laptop).records():
                assert same_set(here, there)
            assert pull(laptop).moved_bytes == 0  # all had come
            (here,) = Catalogue(laptop).records()
            assert same_set(here, there)
            assert not list((laptop / ".staging").iterdir())


class _Serving:
    """`fs serve` in a process of its own on one port, killed and started again."""

    def __init__(self, cache) -> None:
        self.cache = cache
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = [sys.executable, "-c", SERVE, str(self.cache), str(self.port)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class _After(Quiet):
    """Does something once, when so many bytes have come."""

    def __init__(self, count, action) -> None:
        self.left, self.action, self.lock = count, action, threading.Lock()

    def moved(self, count: int) -> None:
        with self.lock:
            self.left -= count
            action, self.action = (self.action, None) if self.left <= 0 else (None, self.action)
        if action is not None:
            action()


@pytest.fixture
def service(served):
    serving = _Serving(served)
    serving.start()
    yield serving
    serving.kill()


def test_a_service_killed_and_started_again_midway_is_waited_for(service, served, tmp_path):
    there = next(r for r in Catalogue(served).records() if r.views)
    restarted = threading.Thread(target=service.start)

    def kill():
        service.kill()
        restarted.start()

    result = pull_set(
        Connection(service.url),
        there.name,
        cache=tmp_path / "laptop",
        progress=_After(there.stored_bytes // 3, kill),
    )
    restarted.join()
    assert result.moved_bytes <= there.stored_bytes
    (here,) = Catalogue(tmp_path / "laptop").records()
    assert same_set(here, there) and verify_set(here).views == 400


def test_a_service_that_stays_away_is_an_error_and_what_came_is_kept(service, served, tmp_path):
    there = next(r for r in Catalogue(served).records() if r.views)
    with pytest.raises(Unreachable, match="does not answer"):
        pull_set(
            Connection(service.url, pacing=Pacing(patience_s=0.5)),
            there.name,
            cache=tmp_path / "laptop",
            progress=_After(there.stored_bytes // 3, service.kill),
        )
    assert Catalogue(tmp_path / "laptop").records() == []
    service.start()
    result = pull_set(Connection(service.url), there.name, cache=tmp_path / "laptop")
    assert result.reused_bytes >= there.stored_bytes // 4
    (here,) = Catalogue(tmp_path / "laptop").records()
    assert files_of(here) == files_of(there)
