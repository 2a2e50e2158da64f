"""Two machines: processes that share nothing but a port, each with its folders.

One has photographs and embeds them, the other trains on what it has pulled, and goes on when the
first one is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import write_image_folder
from featurestore.testing.served_process import Tiny, served_process

TOKEN = "a-token-that-both-sides-know"
SPLITS = {"train": 40, "validation": 10, "test": 20}
FS = [sys.executable, "-c", "from featurestore_cli.main import main; main()"]


class Machine:
    """A folder in which commands run, with the cache that they find there by themselves."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder

    @property
    def cache(self):
        return self.folder / "cache"

    def fs(self, *arguments, code=0, token=None):
        """Run one command; return what it prints, as JSON, or the text of its error."""
        environment = {name: value for name, value in os.environ.items() if name[:3] != "FS_"}
        if token is not None:
            environment["FS_TOKEN"] = token
        done = subprocess.run(
            [*FS, *map(str, arguments), "--json"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def probabilities(self, run, split):
        path = self.cache / "runs" / run["run"] / f"probabilities-{split}.npz"
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name].tobytes() for name in found.files}


@pytest.fixture
def machines(tmp_path):
    """The box, with photographs, and the laptop."""
    box, laptop = Machine(tmp_path / "box"), Machine(tmp_path / "laptop")
    write_image_folder(box.folder / "photos", splits=SPLITS)
    return box, laptop


def same_run(box, laptop, name, *head):
    """Train on both; return the laptop's run, which has the box's numbers to the bit."""
    there = box.fs("train", name, "--head", *head)
    here = laptop.fs("train", name, "--head", *head)
    for field in ("feature_set", "fingerprint", "settings", "metrics", "chosen"):
        assert here[field] == there[field]
    for split in SPLITS:
        assert laptop.probabilities(here, split) == box.probabilities(there, split)
    return here


def everything_works_offline(laptop, name, trained):
    """What the laptop has is as it was embedded, and can be compared, looked at and used."""
    assert laptop.fs("verify", name)["rows"] == 140
    shown = laptop.fs("show", name)
    assert shown["fingerprint"] == trained["fingerprint"]
    other = laptop.fs("train", name, "--head", "nearest-centroid")
    compared = laptop.fs("compare", trained["run"], other["run"])
    assert len(compared["contenders"]) == 2
    laptop.fs("audit", name, "--no-near")
    scored = laptop.fs("evaluate", trained["run"])
    assert scored["metrics"]["accuracy"] == trained["metrics"]["test"]["accuracy"]
    assert scored["reproduction"]["reproduced"]


def test_what_one_has_embedded_the_other_trains_on_without_it(machines, tmp_path):
    box, laptop = machines
    TinyEmbedder(box.folder / "photos", box.cache)()
    with served_process(box.cache, tiny=Tiny(), token=TOKEN) as served:
        for wrong in (None, "another-token-than-theirs"):
            said = laptop.fs("pull", served.url, "photos", code=3, token=wrong)
            assert "FS_TOKEN" in said and TOKEN not in said
        assert not laptop.cache.exists() or not list(laptop.cache.glob("photos/*"))
        pulled = laptop.fs("pull", served.url, "photos", token=TOKEN)
    name = pulled["feature_set"]
    trained = same_run(box, laptop, name, "logistic")
    box.folder.rename(tmp_path / "gone")  # no path of the other machine is of any use
    everything_works_offline(laptop, name, trained)


@pytest.mark.slow
def test_a_dense_head_on_a_real_network_is_the_same_on_both(machines, tmp_path):
    box, laptop = machines
    network = ("--layer", "block1_pool", "--size", "32", "--weights", "random:0")
    made = box.fs("embed", "photos", *network, "--store", "hdf5")
    name = made["feature_set"]
    with served_process(box.cache, tiny=None) as served:
        pulled = laptop.fs("pull", served.url, name)
    assert pulled["fingerprint"] == made["fingerprint"]
    trained = same_run(box, laptop, name, "dense", "--epochs", "3")
    box.folder.rename(tmp_path / "gone")
    everything_works_offline(laptop, name, trained)
