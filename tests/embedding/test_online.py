"""The online cache: bounded, whole after a kill, never trusted when damaged."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from featurestore.online import _PAGE_BYTES, ONLINE, OnlineCache, Refusal

RECIPE, OTHER = "a" * 64, "b" * 64
SHAPE = (4, 4, 16)


def digest(number):
    return number.to_bytes(32, "big")


def features(number, dtype="float16", shape=SHAPE):
    """Incompressible, so that sizes can be counted."""
    bits = np.random.default_rng(number).integers(0, 2**14, shape)
    return bits.astype(np.uint16).view(np.float16).astype(dtype)


def keep(cache, *numbers, recipe=RECIPE, shape=SHAPE):
    cache.put(recipe, {digest(each): features(each, shape=shape) for each in numbers})


def held(cache, numbers, recipe=RECIPE):
    found = cache.get(recipe, [digest(each) for each in numbers])
    return [each for each in numbers if digest(each) in found]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / ONLINE


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_come_back_to_the_bit_in_another_process(path, dtype):
    expected = {digest(n): features(n, dtype) for n in range(5)}
    expected[digest(9)] = features(9, dtype, shape=(7,))
    with OnlineCache(path) as cache:
        cache.put(RECIPE, expected)
    with OnlineCache(path) as cache:
        found = cache.get(RECIPE, [*expected, digest(77)])
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found[key], value)


def test_a_reason_comes_back_too(path):
    with OnlineCache(path) as cache:
        cache.put(RECIPE, {digest(1): Refusal("empty file, 犬")})
        assert cache.get(RECIPE, [digest(1)]) == {digest(1): Refusal("empty file, 犬")}


def test_recipes_do_not_mix(path):
    with OnlineCache(path) as cache:
        keep(cache, 1)
        assert held(cache, [1], recipe=OTHER) == []
        keep(cache, 1, 2, recipe=OTHER)
        assert held(cache, [1, 2]) == [1]


def test_reading_creates_nothing(path):
    with OnlineCache(path) as cache:
        assert cache.get(RECIPE, [digest(1)]) == {}
        assert cache.count() == 0
    assert not path.parent.exists()


def test_more_digests_than_one_query_takes(path):
    with OnlineCache(path) as cache:
        keep(cache, *range(1200), shape=(2,))
        assert held(cache, range(1300)) == list(range(1200))
        assert cache.count() == 1200


def test_a_row_that_is_there_is_not_written_again(path):
    with OnlineCache(path) as cache:
        keep(cache, 1)
        cache.put(RECIPE, {digest(1): features(2)})
        np.testing.assert_array_equal(cache.get(RECIPE, [digest(1)])[digest(1)], features(1))
        assert cache.count() == 1


def test_the_file_stays_within_its_bound(path):
    limit = 2**20
    with OnlineCache(path, max_bytes=limit) as cache:
        for number in range(0, 600, 20):
            keep(cache, *range(number, number + 20), shape=(8, 8, 32))  # 4 KiB each
            assert path.stat().st_size <= limit
        kept = held(cache, range(600))
        assert kept == list(range(600 - len(kept), 600))
        assert len(kept) > 80  # of 256 at most: pages are counted generously


def test_what_was_used_last_stays(path):
    clock = Clock()
    rows = (8, 8, 32)  # a page each
    with OnlineCache(path, max_bytes=100 * _PAGE_BYTES, clock=clock) as cache:
        for number in range(60):
            keep(cache, number, shape=rows)
            clock.now += 100
        assert held(cache, [0, 30]) == [0, 30]
        clock.now += 100
        keep(cache, *range(100, 140), shape=rows)
        assert held(cache, [0, 30]) == [0, 30]
        rest = held(cache, range(1, 60))
        assert 30 in rest and len(rest) < 40
        assert [n for n in rest if n != 30] == list(range(60 - len(rest) + 1, 60))


def test_a_hit_within_a_minute_writes_nothing(path):
    clock = Clock()
    with OnlineCache(path, clock=clock) as cache:
        keep(cache, 1)
        watcher = sqlite3.connect(path)
        (version,) = watcher.execute("PRAGMA data_version").fetchone()
        clock.now += 59
        assert held(cache, [1]) == [1]
        assert watcher.execute("PRAGMA data_version").fetchone() == (version,)
        clock.now += 2
        assert held(cache, [1]) == [1]
        assert watcher.execute("PRAGMA data_version").fetchone() != (version,)
        watcher.close()


def test_a_row_larger_than_the_bound_is_not_kept(path):
    with OnlineCache(path, max_bytes=64 * 1024) as cache:
        keep(cache, 1, shape=(64 * 1024,))
        keep(cache, 2)
        assert held(cache, [1, 2]) == [2]


def test_a_smaller_bound_shrinks_the_file(path):
    with OnlineCache(path) as cache:
        keep(cache, *range(400), shape=(8, 8, 32))
    assert path.stat().st_size > 2**20
    with OnlineCache(path, max_bytes=2**19) as cache:
        keep(cache, 1000)
        assert held(cache, [1000]) == [1000]
    assert path.stat().st_size <= 2**19


@pytest.mark.parametrize("column", ["value", "seal"])
def test_a_row_with_a_flipped_bit_is_absent_and_may_be_written_again(path, column):
    with OnlineCache(path) as cache:
        keep(cache, 1, 2)
    with sqlite3.connect(path) as raw:
        row_id, content = raw.execute(f"SELECT id, {column} FROM contents").fetchone()
        flipped = bytes([content[0] ^ 1]) + content[1:]
        raw.execute(f"UPDATE contents SET {column} = ? WHERE id = ?", (flipped, row_id))
    raw.close()
    with OnlineCache(path) as cache:
        assert held(cache, [1, 2]) == [2]
        keep(cache, 1)
        assert held(cache, [1, 2]) == [1, 2]


def test_a_row_moved_to_another_digest_is_absent(path):
    with OnlineCache(path) as cache:
        keep(cache, 1)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE entries SET digest = ?", (digest(2),))
    raw.close()
    with OnlineCache(path) as cache:
        assert held(cache, [1, 2]) == []


@pytest.mark.parametrize("damage", ["text", "header", "schema", "cut", "empty", "newer"])
def test_a_damaged_file_is_begun_anew_and_said_so(path, damage):
    with OnlineCache(path) as cache:
        keep(cache, *range(50))
    whole = path.read_bytes()
    if damage == "newer":
        with sqlite3.connect(path) as raw:
            raw.execute("PRAGMA user_version = 2")
        raw.close()
    else:
        path.write_bytes(
            {
                "text": b"this is no database at all\n" * 400,
                "header": bytes(64) + whole[64:],
                "schema": whole[:100] + bytes(3000) + whole[3100:],
                "cut": whole[: len(whole) // 2],
                "empty": b"",
            }[damage]
        )
    said = []
    with OnlineCache(path, say=said.append) as cache:
        assert set(held(cache, range(50))) <= set(range(50))
        keep(cache, *range(50, 60))
        assert held(cache, range(50, 60)) == list(range(50, 60))
        keep(cache, *range(50))
        assert held(cache, range(60)) == list(range(60))
    assert len(said) == (damage != "empty")
    assert all("begun anew" in message for message in said)


def test_random_damage_gives_no_wrong_features(path, tmp_path):
    with OnlineCache(path) as cache:
        keep(cache, *range(60))
    whole = path.read_bytes()
    random_source = random.Random(3)
    for trial in range(60):
        content = bytearray(whole)
        for _ in range(random_source.choice([1, 5, 50])):
            content[random_source.randrange(len(content))] ^= 1 << random_source.randrange(8)
        other = tmp_path / str(trial) / ONLINE
        other.parent.mkdir()
        other.write_bytes(content)
        with OnlineCache(other) as cache:
            for _ in range(2):  # a spoilt index may hide a row for good, but gives no wrong one
                found = cache.get(RECIPE, [digest(n) for n in range(60)])
                for key, value in found.items():
                    expected = features(int.from_bytes(key, "big"))
                    np.testing.assert_array_equal(value, expected)
                keep(cache, *range(60))
            assert len(found) > 40


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_online import keep
from featurestore.online import OnlineCache
with OnlineCache(Path(sys.argv[1]), max_bytes=2**20) as cache:
    for number in range(10**6):
        keep(cache, number, number + 10**6, shape=(8, 8, 32))
        if not number:
            print("ready", flush=True)
"""


def writer(path):
    arguments = [sys.executable, "-c", WRITER, str(path), os.path.dirname(__file__)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    return child


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_writer_leaves_whole_rows(path):
    for trial in range(5):
        child = writer(path)
        time.sleep(0.05 + 0.1 * trial)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        said = []
        with OnlineCache(path, max_bytes=2**20, say=said.append) as cache:
            found = cache.get(RECIPE, [digest(n + k) for n in range(5000) for k in (0, 10**6)])
            assert found
            for key, value in found.items():
                expected = features(int.from_bytes(key, "big"), shape=(8, 8, 32))
                np.testing.assert_array_equal(value, expected)
        assert said == []
        with sqlite3.connect(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()


def test_processes_write_and_read_at_once(path):
    children = [writer(path) for _ in range(2)]
    try:
        with OnlineCache(path, max_bytes=2**20) as cache:
            for number in range(2000, 2100):
                keep(cache, number)
                (back,) = cache.get(RECIPE, [digest(number)]).values()
                np.testing.assert_array_equal(back, features(number))
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def test_threads_share_one_object(path):
    failures = []

    def work(start):
        try:
            for number in range(start, start + 30):
                keep(cache, number)
                assert held(cache, [number]) == [number]
        except BaseException as error:
            failures.append(error)

    with OnlineCache(path) as cache:
        threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_folder_that_cannot_be_written_is_an_error_and_no_memo(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with OnlineCache(tmp_path / "file" / ONLINE) as cache, pytest.raises(OSError, match="file"):
        keep(cache, 1)
