"""Staged shards are whole or absent, cheap to list, and never give back a wrong byte."""

import errno
import hashlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from featurestore.errors import IntegrityError
from featurestore.stores.staging import Staging
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.store_rows import file_bytes

REASONS = {"ab" * 32: "empty file", "cd" * 32: "bombe à décompression"}


def unit(rows=5, shape=(2, 3), dtype="float16", seed=0):
    random = np.random.default_rng(seed)
    return {
        "digests": random.integers(0, 256, (rows, 32), dtype=np.uint8),
        "features": random.standard_normal((rows, *shape)).astype(dtype),
        "quarantined": REASONS if seed == 0 else {},
    }


@pytest.fixture
def staging(tmp_path):
    return Staging(tmp_path / "cache" / ".staging" / "photos--0123")


@pytest.mark.parametrize("shape", [(7,), (2, 3), (4, 4, 8)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", [0, 1, 256])
def test_unit_comes_back(staging, rows, shape, dtype):
    put = unit(rows, shape, dtype)
    path = staging.put(**put)
    (shard,) = staging.shards()
    assert shard.path == path
    np.testing.assert_array_equal(shard.digests, put["digests"])
    assert shard.quarantined == REASONS
    read = shard.read()
    assert (read.dtype, read.shape) == (np.dtype(dtype), (rows, *shape))
    assert read.tobytes() == put["features"].tobytes()


def test_unit_that_runs_twice_is_one_file_of_the_same_bytes(staging):
    staging.put(**unit())
    before = file_bytes(staging.path)
    staging.put(**unit())
    assert file_bytes(staging.path) == before
    assert len(before) == 1


def test_units_of_other_images_are_other_files(staging):
    staging.put(**unit(seed=1))
    staging.put(**unit(seed=2))
    nothing_readable = {
        "digests": np.zeros((0, 32), np.uint8),
        "features": np.zeros((0, 2, 3), np.float16),
    }
    staging.put(**nothing_readable, quarantined={"ab" * 32: "empty"})
    staging.put(**nothing_readable, quarantined={"cd" * 32: "empty"})
    assert len(staging.shards()) == 4


def test_no_directory_is_no_shards(staging):
    assert staging.shards() == []
    staging.clear()


def test_digests_must_match_the_features(staging):
    put = unit()
    with pytest.raises(ValueError, match="5 rows"):
        staging.put(**{**put, "digests": put["digests"][:-1]})


def test_torn_shard_is_no_shard(staging):
    """Cut anywhere, or longer by a byte: not listed, and deleted by the lock's holder."""
    whole = unit()
    path = staging.put(**whole)
    content = path.read_bytes()
    for size in [*range(0, len(content), 7), len(content) - 1, len(content) + 1]:
        path.write_bytes(content[:size].ljust(size, b"\0"))
        assert staging.shards(remove_leftovers=False) == []
        assert path.exists()
        assert staging.shards() == []
        assert not path.exists()
    staging.put(**whole)
    assert len(staging.shards()) == 1


def test_flipped_bit_is_never_a_row(staging):
    """In the listing it makes the shard absent, in the features an error that says what to do."""
    path = staging.put(**unit())
    content = path.read_bytes()
    outcomes = set()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        shards = staging.shards(remove_leftovers=False)
        if not shards:
            outcomes.add("absent")
            continue
        with pytest.raises(IntegrityError, match="delete"):
            shards[0].read()
        outcomes.add("error")
    assert outcomes == {"absent", "error"}


def test_leftovers_go_and_foreign_files_stay(staging):
    staging.put(**unit())
    leftover = staging.path / ".tmp-123-abcd-x.shard"
    leftover.write_bytes(b"half")
    foreign = staging.path / "notes.txt"
    foreign.write_text("mine")
    assert len(staging.shards(remove_leftovers=False)) == 1
    assert leftover.exists()
    assert len(staging.shards()) == 1
    assert not leftover.exists()
    staging.clear()
    assert list(staging.path.iterdir()) == [foreign]
    foreign.unlink()
    staging.clear()
    assert not staging.path.exists()


def test_listing_reads_no_features(staging, monkeypatch):
    """A thousand shards are listed at the cost of their digests."""
    path = staging.put(**unit(rows=100, shape=(64, 64)))
    hashed = []
    sha256 = hashlib.sha256

    def count(data=b""):
        hashed.append(len(data))
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", count)
    (shard,) = staging.shards()
    assert sum(hashed) < 4000 < path.stat().st_size
    assert shard.rows == 100


def test_failing_disk_leaves_the_old_shard_or_none(staging):
    first, second = unit(seed=1), unit(seed=2)
    staging.put(**first)
    total = count_operations(lambda: staging.put(**second))
    assert total > 5
    staging.clear()
    staging.put(**first)
    for k in range(total):
        with fail_operation(k, errno.EDQUOT), pytest.raises(OSError) as caught:
            staging.put(**second)
        assert caught.value.errno == errno.EDQUOT
        for shard in staging.shards():
            shard.read()
        assert not [name for name in os.listdir(staging.path) if name.startswith(".tmp")]
    staging.put(**second)
    assert len(staging.shards()) == 2


def test_killed_writer_leaves_whole_shards_only(staging):
    """Die at each operation in turn: what is listed afterwards reads, what is not goes."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from featurestore.stores.staging import Staging
        from featurestore.testing.faults import die_at_operation
        with die_at_operation(int(sys.argv[2])):
            Staging(Path(sys.argv[1])).put(
                digests=np.zeros((3, 32), np.uint8),
                features=np.ones((3, 4), np.float16),
                quarantined={},
            )
        """
    )
    for k in range(20):
        done = subprocess.run([sys.executable, "-c", program, str(staging.path), str(k)])
        for shard in staging.shards():
            np.testing.assert_array_equal(shard.read(), np.ones((3, 4)))
        if done.returncode == 0:
            break
        staging.clear()
    assert 5 < k < 19
    assert len(staging.shards()) == 1
