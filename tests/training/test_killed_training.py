"""A training killed at any moment goes on, and ends as an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from streaming_sets import embed_photographs

from featurestore.training.checkpoints import find_unfinished
from featurestore.training.runs import read_runs

_TRAIN = """
import sys
from pathlib import Path
from streaming_sets import tiny_network
import featurestore as fs
from featurestore.augmentation import Augmentation
from featurestore.training.end_to_end import end_to_end_settings, train_end_to_end
from featurestore.training.streamed import StreamOptions
from featurestore.training.train import TrainOptions
source, cache = map(Path, sys.argv[1:])
fields = {"units": 8, "dropout": 0.2, "epochs": 40, "batch_size": 8, "learning_rate": 1e-3}
with fs.open("photos", cache=source) as features:
    train_end_to_end(
        features,
        end_to_end_settings(fields),
        cache=cache,
        options=TrainOptions(seed=2, progress=lambda done, *_: print(done, flush=True)),
        streaming=StreamOptions(augmentation=Augmentation(), network=tiny_network),
    )
"""


def start(source, cache):
    return subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(source), str(cache)],
        stdout=subprocess.PIPE,
        cwd=os.path.dirname(__file__),
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_at_random_moments_it_ends_as_an_undisturbed_one(tmp_path):
    embed_photographs(tmp_path).close()
    assert start(tmp_path / "cache", tmp_path / "whole").wait() == 0
    drawn = random.Random(1)
    killed = 0
    for _ in range(3):
        process = start(tmp_path / "cache", tmp_path / "killed")
        before = max((each.epoch for each in find_unfinished(tmp_path / "killed")), default=0)
        for line in process.stdout:
            if int(line) > before:
                break
        time.sleep(drawn.uniform(0, 0.3))
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed
    while not read_runs(tmp_path / "killed").runs:
        assert start(tmp_path / "cache", tmp_path / "killed").wait() == 0
    (expected,) = read_runs(tmp_path / "whole").runs
    for found in read_runs(tmp_path / "killed").runs:
        assert found.history == expected.history
        assert found.metrics == expected.metrics
        weights = (run.load_head().model_.get_weights() for run in (found, expected))
        assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
