"""SIGKILL at any moment: nothing half-written is seen, and the end has the undisturbed bytes."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue, lock_path
from featurestore.locks import is_held
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder

KILLS = 12
PROGRAM = textwrap.dedent(
    """
    import sys
    import featurestore as fs
    from featurestore.embedding import embed, plan
    from featurestore.testing.embedding import TinyChoice

    plan.plan_embedding.__kwdefaults__["unit_rows"] = 16  # many units from few images
    print("ready", flush=True)
    result = fs.embed(
        sys.argv[1], fs.EmbedSettings(store=sys.argv[3], views=int(sys.argv[5]) or None),
        cache=sys.argv[2],
        choose=lambda settings: TinyChoice(settings, pause_s=float(sys.argv[4])),
    )
    print(result.computed + result.views_computed, flush=True)
    """
)


def start(folder, cache, store, pause_s, views=0):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(cache), store, str(pause_s), str(views)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    return child


def stored(cache, suffix):
    (store,) = [path for path in cache.glob(f"*/*{suffix}") if not path.name.startswith(".")]
    if store.is_file():
        with fs.open("photos", cache=cache) as features:
            found = {split: features[split].load()[0].tobytes() for split in features.splits}
            train = features["train"]
            return found | {view: train.load_view(view)[0].tobytes() for view in range(train.views)}
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path != store / "zarr.json"  # its attributes hold the time
    }


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("store", "suffix", "views"), [("zarr", ".zarr", 0), ("hdf5", ".h5", 0), ("zarr", ".zarr", 2)]
)
def test_killed_and_resumed_ends_as_if_undisturbed(tmp_path, store, suffix, views):
    folder = tmp_path / "photos"
    write_image_folder(folder, splits={"train": 60, "validation": 10, "test": 10})
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    child = start(folder, calm, store, 0.0, views)
    assert child.stdout.readline() == f"{160 + views * 120}\n"
    child.wait()
    draw = random.Random(7)
    started = time.monotonic()
    kills = 0
    while kills < KILLS:
        child = start(folder, stormy, store, 0.03, views)
        try:
            child.wait(draw.uniform(0.0, 0.35))
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
            for record in Catalogue(stormy).records():  # visible means whole
                with fs.open(record.fingerprint, cache=stormy) as features:
                    assert [len(features[s].load()[0]) for s in features.splits] == [120, 20, 20]
                    assert features["train"].views == views
        else:
            break  # it was done before it could be killed
    assert kills >= 3, f"only {kills} kills in {time.monotonic() - started:.1f} s"
    child = start(folder, stormy, store, 0.0, views)
    child.wait()
    assert stored(stormy, suffix) == stored(calm, suffix)
    assert not [path for path in stormy.rglob("*") if ".incomplete" in path.name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_living_writer_is_named_and_a_dead_ones_lock_is_dead(tmp_path):
    folder, cache = tmp_path / "photos", tmp_path / "cache"
    write_image_folder(folder)
    child = start(folder, cache, "zarr", 30.0)
    settings = fs.EmbedSettings()
    name = f"photos/{TinyChoice(settings).recipe(None, dataset='photos', records=()).name}"
    deadline = time.monotonic() + 20
    while not is_held(lock_path(cache, name)):
        assert time.monotonic() < deadline, "the child never took its lock"
        time.sleep(0.02)
    time.sleep(0.1)
    with pytest.raises(fs.Conflict, match=f"process {child.pid} on "):
        fs.embed(folder, settings, cache=cache, choose=TinyChoice)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert fs.embed(folder, settings, cache=cache, choose=TinyChoice).computed == 32


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_wait_goes_on_when_the_other_writer_ends(tmp_path):
    folder, cache = tmp_path / "photos", tmp_path / "cache"
    write_image_folder(folder)
    first = start(folder, cache, "zarr", 0.3)
    settings = fs.EmbedSettings(wait=True)
    time.sleep(0.3)
    result = fs.embed(folder, settings, cache=cache, choose=TinyChoice)
    assert first.stdout.readline() == "32\n"
    assert (result.computed, result.reused) == (0, 32)
    first.wait()
