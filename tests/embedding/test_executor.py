"""The executor contract, on the local executor: whole units, in order, whatever the images are."""

import hashlib

import numpy as np
import pytest

from featurestore.errors import InvalidInput, UnstorableFeatures
from featurestore.executors import local
from featurestore.executors.contract import DecodeSettings, Unit
from featurestore.executors.local import LocalExecutor
from featurestore.images import decode_image
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.images import encode, photograph

DECODE = DecodeSettings(size=TinyNetwork.size, interpolation="bilinear")


class Shards:
    """Staging in memory."""

    def __init__(self):
        self.puts = []

    def put(self, *, digests, features, quarantined):
        self.puts.append((digests, features, dict(quarantined)))


def unit_of(folder, contents):
    folder.mkdir()
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.jpg"
        path.write_bytes(content)
        paths.append(path)
    digests = [np.frombuffer(hashlib.sha256(content).digest(), np.uint8) for content in contents]
    return Unit(np.stack(digests), tuple(paths), tuple(path.name for path in paths))


def pictures(first, count):
    return [encode(photograph(n % 2, index=n)) for n in range(first, first + count)]


def run(units, network=None, workers=2):
    shards = Shards()
    outcomes = list(
        LocalExecutor(workers=workers).run(
            units, network=network or TinyNetwork(), decode=DECODE, staging=shards
        )
    )
    return outcomes, shards.puts


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_every_unit_is_one_shard_of_its_own_rows(tmp_path, batch_size):
    contents = [pictures(0, 8), pictures(8, 5), pictures(13, 1), pictures(14, 24)]
    units = [unit_of(tmp_path / str(at), content) for at, content in enumerate(contents)]
    outcomes, puts = run(units, TinyNetwork(batch_size=batch_size))
    assert [outcome.computed for outcome in outcomes] == [8, 5, 1, 24]
    for unit, content, (digests, features, quarantined) in zip(units, contents, puts, strict=True):
        np.testing.assert_array_equal(digests, unit.digests)
        images = np.stack(
            [decode_image(c, size=DECODE.size, interpolation="bilinear") for c in content]
        )
        np.testing.assert_array_equal(features, TinyNetwork().embed(images))
        assert quarantined == {}


def test_unreadable_images_leave_their_places_to_the_next(tmp_path):
    good = pictures(0, 9)
    contents = [b"", *good[:7], b"text", good[7], b"more text"]
    spoilt = [b"x", b"y"]
    units = [
        unit_of(tmp_path / "mixed", contents),
        unit_of(tmp_path / "spoilt", spoilt),
        unit_of(tmp_path / "good", good[8:]),
    ]
    outcomes, puts = run(units)
    assert [outcome.computed for outcome in outcomes] == [8, 0, 1]
    assert [len(outcome.quarantined) for outcome in outcomes] == [3, 2, 0]
    np.testing.assert_array_equal(puts[0][0], units[0].digests[[1, 2, 3, 4, 5, 6, 7, 9]])
    assert set(puts[1][2]) == {digest.tobytes().hex() for digest in units[1].digests}


def test_bytes_that_are_not_the_planned_ones_are_told_and_not_computed(tmp_path):
    unit = unit_of(tmp_path / "unit", pictures(0, 4))
    unit.paths[1].write_bytes(encode(photograph(3, index=3)))
    unit.paths[2].unlink()
    network = TinyNetwork()
    (outcome,), puts = run([unit], network)
    assert set(outcome.changed) == {"1.jpg", "2.jpg"}
    assert network.images == len(puts[0][0]) == 2


def test_a_value_that_cannot_be_stored_names_its_image(tmp_path):
    class Overflowing(TinyNetwork):
        def embed(self, batch):
            if self.images == 4:
                raise UnstorableFeatures("a value is beyond float16", rows=(1,))
            return super().embed(batch)

    unit = unit_of(tmp_path / "unit", [b"broken", *pictures(0, 8)])
    with pytest.raises(InvalidInput, match=r"image 6\.jpg: a value is beyond float16"):
        run([unit], Overflowing(batch_size=4))


def test_decoding_runs_only_a_bounded_window_ahead(tmp_path, monkeypatch):
    decoded = 0
    decode = local.decode_image

    def counted(content, **settings):
        nonlocal decoded
        decoded += 1
        return decode(content, **settings)

    monkeypatch.setattr(local, "decode_image", counted)
    ahead = []
    network = TinyNetwork(batch_size=8, pause_s=0.02, before=lambda n: ahead.append(decoded - n))
    units = [unit_of(tmp_path / str(at), pictures(100 * at, 64)) for at in range(4)]
    run(units, network)
    assert max(ahead) <= 2 * 8 + 8 * 4
