"""`fs pull` and `fs serve` killed, and the set replaced and collected, in any order.

Each of these alone is tested in test_pull_killed.py and test_pull.py; here commands are processes,
and what happens is drawn.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from served import files_of

from featurestore.catalogue import STAGING, Catalogue
from featurestore.collect import find_garbage, remove_garbage
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.testing.served_process import start_served
from featurestore.verify import verify_set

FS = [sys.executable, "-c", "from featurestore_cli.main import main; main()"]
PATIENCE_S = 120.0
NOT_FOUND = 4
pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")


class Box:
    """A served cache whose set is embedded anew, and a service that dies.

    Attributes
    ----------
    versions
        The bytes of each version of the set that there ever was, by fingerprint.
    """

    def __init__(self, root) -> None:
        self.photos, self.cache = root / "photos", root / "cache"
        write_image_folder(self.photos, splits={"train": 120, "validation": 20, "test": 20})
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.versions = {}
        self._embed = TinyEmbedder(self.photos, self.cache)
        self.replace()
        self.served = start_served(self.cache, port=self.port)

    def replace(self) -> None:
        """Embed a dataset that has changed, and collect the version before."""
        number = len(self.versions)
        path = self.photos / "train" / "cats" / f"new.{number}.jpg"
        path.write_bytes(encode(photograph(0, index=8000 + number)))
        self._embed(views=6)
        record = self.record
        self.versions[record.fingerprint] = files_of(record)
        remove_garbage(self.cache, find_garbage(self.cache))

    def start(self) -> None:
        """Let the service that was killed come back on its port."""
        self.served = start_served(self.cache, port=self.port)

    @property
    def record(self):
        return Catalogue(self.cache).find("photos")


@pytest.fixture
def box(tmp_path):
    (tmp_path / "box").mkdir()
    box = Box(tmp_path / "box")
    yield box
    box.served.kill()


def start_pull(box, laptop):
    url = f"http://127.0.0.1:{box.port}"
    return subprocess.Popen(
        [*FS, "pull", url, "photos", "--jobs", "1", "--cache", str(laptop)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def staged(laptop) -> int:
    return sum(1 for path in (laptop / STAGING).rglob("*") if path.is_file())


def wait_for_files(pull, laptop, more) -> None:
    """Return when so many more files have come, or the pull has ended."""
    before, deadline = staged(laptop), time.monotonic() + PATIENCE_S
    while pull.poll() is None and staged(laptop) < before + more:
        assert time.monotonic() < deadline, "the pull does not go on"
        time.sleep(0.002)


def what_is_visible_is_whole(box, laptop) -> None:
    for record in Catalogue(laptop).records():
        assert files_of(record) == box.versions[record.fingerprint]
        verify_set(record)


def test_whatever_is_killed_and_replaced_a_version_comes_whole_or_not_at_all(box, tmp_path):
    laptop, draw = tmp_path / "laptop", random.Random(3)
    rounds = ["kill", "kill", "restart", "replace", "kill", "replace", "restart", "kill", "replace"]
    codes = []
    for happens in rounds:
        pull = start_pull(box, laptop)
        wait_for_files(pull, laptop, draw.randrange(1, 12))
        pull.send_signal(signal.SIGSTOP)  # else it would be done before the other is
        if happens == "kill":
            pull.kill()
        elif happens == "restart":
            box.served.kill()
        else:
            box.replace()
        pull.send_signal(signal.SIGCONT)
        if happens == "restart":
            box.start()
        _, said = pull.communicate(timeout=PATIENCE_S)
        codes.append((happens, pull.returncode))
        assert "Traceback" not in said
        # Killed before or after it was done; done; or told that the set is another one now.
        assert pull.returncode in {"kill": (-9, 0), "replace": (0, NOT_FOUND)}.get(happens, (0,))
        what_is_visible_is_whole(box, laptop)
    assert ("kill", -9) in codes
    pull = start_pull(box, laptop)
    assert pull.wait(PATIENCE_S) == 0
    pull.stderr.close()
    what_is_visible_is_whole(box, laptop)
    here, there = Catalogue(laptop).find("photos"), box.record
    assert here.fingerprint == there.fingerprint and files_of(here) == files_of(there)
    rest = [path for path in laptop.rglob("*") if path.name.startswith((".incomplete", ".tmp"))]
    assert rest == []
