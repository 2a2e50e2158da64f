"""The executor contract as a test suite: whole units, whatever the images are.

Subclass it in a test module and give the `executor` fixture.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from featurestore.augmentation import Augmentation, augment
from featurestore.errors import InvalidInput, UnstorableFeatures
from featurestore.executors.contract import DecodeSettings, Executor, Unit, UnitOutcome
from featurestore.images import decode_image
from featurestore.recipe import Views
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.images import encode, photograph

VIEWS = Views(augmentation=Augmentation(), seed=5, count=40)
DECODE = DecodeSettings(size=TinyNetwork.size, interpolation="bilinear", views=VIEWS)


class MemoryStaging:
    """Staging in memory: `puts` holds (digests, features, quarantined), in order."""

    def __init__(self) -> None:
        self.puts: list[tuple[np.ndarray, np.ndarray, dict[str, str]]] = []

    def put(
        self, *, digests: np.ndarray, features: np.ndarray, quarantined: Mapping[str, str]
    ) -> Path:
        """See `StagesShards`."""
        self.puts.append((digests, features, dict(quarantined)))
        return Path(str(len(self.puts)))


def pictures(first: int, count: int) -> list[bytes]:
    """Return the bytes of `count` different photographs."""
    return [encode(photograph(n % 2, index=n)) for n in range(first, first + count)]


def write_unit(folder: Path, contents: Sequence[bytes]) -> Unit:
    """Write files that make a unit; sample ids are their names ``0.jpg``, ``1.jpg``, …"""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    digests = [np.frombuffer(hashlib.sha256(content).digest(), np.uint8) for content in contents]
    return Unit(np.stack(digests), tuple(paths), tuple(path.name for path in paths))


def run_units(
    executor: Executor, units: Sequence[Unit], network: TinyNetwork | None = None
) -> tuple[list[UnitOutcome], MemoryStaging]:
    """Run units to the end on a tiny network."""
    staging = MemoryStaging()
    outcomes = executor.run(units, network=network or TinyNetwork(), decode=DECODE, staging=staging)
    return list(outcomes), staging


class ExecutorConformance:
    """What every executor does."""

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """Give the executor under test."""
        raise NotImplementedError

    @pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
    def test_every_unit_is_one_shard_of_its_own_rows(
        self, executor: Executor, tmp_path: Path, batch_size: int
    ) -> None:
        """Batches may cross units; shards may not."""
        contents = [pictures(0, 8), pictures(8, 5), pictures(13, 1), pictures(14, 24)]
        units = [write_unit(tmp_path / str(at), files) for at, files in enumerate(contents)]
        outcomes, staging = run_units(executor, units, TinyNetwork(batch_size=batch_size))
        assert [outcome.computed for outcome in outcomes] == [8, 5, 1, 24]
        for unit, files, (digests, features, quarantined) in zip(
            units, contents, staging.puts, strict=True
        ):
            np.testing.assert_array_equal(digests, unit.digests)
            images = [
                decode_image(file, size=DECODE.size, interpolation="bilinear") for file in files
            ]
            np.testing.assert_array_equal(features, TinyNetwork().embed(np.stack(images)))
            assert quarantined == {}

    def test_unreadable_images_leave_their_places_to_the_next(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Even a unit without a readable image is staged, so that it is not tried again."""
        good = pictures(0, 9)
        units = [
            write_unit(tmp_path / "mixed", [b"", *good[:7], b"text", good[7], b"more text"]),
            write_unit(tmp_path / "spoilt", [b"x", b"y"]),
            write_unit(tmp_path / "good", good[8:]),
        ]
        outcomes, staging = run_units(executor, units)
        assert [outcome.computed for outcome in outcomes] == [8, 0, 1]
        assert [len(outcome.quarantined) for outcome in outcomes] == [3, 2, 0]
        np.testing.assert_array_equal(
            staging.puts[0][0], units[0].digests[[1, 2, 3, 4, 5, 6, 7, 9]]
        )
        assert set(staging.puts[1][2]) == {digest.tobytes().hex() for digest in units[1].digests}

    def test_versions_of_an_image_are_rows_beside_each_other(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Each has the features and the key of its version, whatever batch it came in."""
        contents = [*pictures(0, 3), b"broken", *pictures(3, 2)]
        versions = ((None, 0, 1), (2,), tuple(range(40)), (None, 0), (1, None), (0,))
        unit = dataclasses.replace(write_unit(tmp_path / "unit", contents), versions=versions)
        (outcome,), staging = run_units(executor, [unit])
        assert (outcome.computed, outcome.views) == (2, 45)
        ((digests, features, quarantined),) = staging.puts
        assert list(quarantined) == [unit.digests[3].tobytes().hex()]
        rows = [row for row in unit.rows() if row[0] != 3]
        for at, (image, version) in enumerate(rows):
            sha256 = unit.digests[image]
            pixels = decode_image(contents[image], size=DECODE.size, interpolation="bilinear")
            key = sha256
            if version is not None:
                pixels = augment(
                    pixels, VIEWS.augmentation, seed=5, sha256=sha256.tobytes(), view=version
                )
                key = VIEWS.digests(sha256[np.newaxis], version)[0]
            np.testing.assert_array_equal(digests[at], key)
            np.testing.assert_array_equal(features[at], TinyNetwork().embed(pixels[np.newaxis])[0])
        assert len(digests) == len(rows) == 47

    def test_bytes_that_are_not_the_planned_ones_are_told_and_not_computed(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """A changed file and a vanished one."""
        unit = write_unit(tmp_path / "unit", pictures(0, 4))
        unit.paths[1].write_bytes(encode(photograph(3, index=3)))
        unit.paths[2].unlink()
        (outcome,), staging = run_units(executor, [unit])
        assert set(outcome.changed) == {"1.jpg", "2.jpg"}
        assert outcome.computed == len(staging.puts[0][0]) == 2

    def test_a_value_that_cannot_be_stored_names_its_image(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """The network knows a row of a batch; the user knows file names."""
        unit = write_unit(tmp_path / "unit", [b"broken", *pictures(0, 8)])
        with pytest.raises(InvalidInput, match=r"image 6\.jpg: a value is beyond float16"):
            run_units(executor, [unit], _Overflowing(batch_size=4))


class _Overflowing(TinyNetwork):
    def embed(self, batch: np.ndarray) -> np.ndarray:
        if self.images == 4:
            raise UnstorableFeatures("a value is beyond float16", rows=(1,))
        return super().embed(batch)
