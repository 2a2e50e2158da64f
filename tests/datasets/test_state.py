"""The state file: a memo that may be lost, shared, corrupt or full, and never lies."""

import errno
import hashlib
import multiprocessing
import os
import sqlite3
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import state as state_module
from featurestore.errors import Conflict
from featurestore.state import FileStat, HashedFile, StateFile, hash_file

STAT = FileStat(size=5, mtime_ns=1_000_000_000, inode=7)
NOW = 1000.0


def hashed(path, stat=STAT, byte=1):
    return HashedFile(path, stat, bytes([byte]) * 32)


@pytest.fixture
def state(tmp_path):
    with StateFile(tmp_path / "cache" / "state.sqlite", clock=lambda: NOW) as opened:
        yield opened


def test_what_was_remembered_is_found_across_openings(state):
    state.remember([hashed("/a"), hashed("/b", byte=2)], hashed_since=NOW)
    state.close()
    assert state.find({"/a": STAT, "/b": STAT, "/c": STAT}) == {
        "/a": b"\x01" * 32,
        "/b": b"\x02" * 32,
    }


@pytest.mark.parametrize(
    "other",
    [
        FileStat(6, STAT.mtime_ns, STAT.inode),
        FileStat(5, STAT.mtime_ns + 1, STAT.inode),
        FileStat(5, STAT.mtime_ns, 8),
    ],
)
def test_any_other_stat_finds_nothing(state, other):
    state.remember([hashed("/a")], hashed_since=NOW)
    assert state.find({"/a": other}) == {}
    state.remember([hashed("/a", other, byte=3)], hashed_since=NOW)
    assert state.find({"/a": other}) == {"/a": b"\x03" * 32}
    assert state.find({"/a": STAT}) == {}


@pytest.mark.parametrize(
    ("age_s", "kept"), [(2.5, True), (2.0, True), (1.5, False), (0.0, False), (-60.0, False)]
)
def test_racy_files_are_not_remembered(state, age_s, kept):
    stat = FileStat(5, int((NOW - age_s) * 1e9), 7)
    state.remember([hashed("/a", stat)], hashed_since=NOW)
    assert bool(state.find({"/a": stat})) is kept


def test_notes(state):
    assert state.note("weights/x") is None
    state.set_note("weights/x", {"sha256": "é", "size": [1, 2]})
    state.set_note("weights/y", None)
    state.close()
    assert state.note("weights/x") == {"sha256": "é", "size": [1, 2]}
    state.set_note("weights/x", 3)
    assert state.note("weights/x") == 3


@pytest.mark.skipif(sys.platform == "win32", reason="file names there are Unicode")
def test_paths_that_are_not_utf8(state):
    path = os.fsdecode(b"/data/\xff/1.jpg")
    state.remember([hashed(path)], hashed_since=NOW)
    assert list(state.find({path: STAT})) == [path]


def test_four_thousand_rows_take_little_time(state):
    stats = {f"/some/folder/of/images/train/cats/cat.{n}.jpg": STAT for n in range(4000)}
    state.remember([hashed(path) for path in stats], hashed_since=NOW)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        assert len(state.find(stats)) == 4000
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.2  # 0.02 on the machine it was written on


CORRUPTIONS = {
    "not a database": lambda content: b"these are not the bytes you are looking for" * 50,
    "torn": lambda content: content[: len(content) // 2 + 100],
    "zeros inside": lambda content: content[:4096] + bytes(len(content) - 4096),
    "zeros in the first page": lambda content: content[:100] + bytes(3996) + content[4096:],
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corrupt_file_is_set_aside_and_begun_anew(state, kind):
    files = [hashed(f"/images/{n:05d}.jpg") for n in range(2000)]
    state.remember(files, hashed_since=NOW)
    state.close()
    state.path.write_bytes(CORRUPTIONS[kind](state.path.read_bytes()))
    broken = state.path.read_bytes()
    stats = {file.path: STAT for file in files}
    assert state.find(stats) in ({}, {file.path: file.sha256 for file in files})
    state.remember([hashed("/new")], hashed_since=NOW)
    assert state.find({"/new": STAT}) == {"/new": b"\x01" * 32}
    asides = list(state.path.parent.glob("*.corrupt-*"))
    assert [aside.read_bytes() for aside in asides] == [broken]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_flipped_bits_never_give_a_wrong_answer(tmp_path_factory, data):
    files = [hashed(f"/images/{n}.jpg", byte=n) for n in range(40)]
    with StateFile(tmp_path_factory.mktemp("flip") / "state.sqlite", clock=lambda: NOW) as state:
        state.remember(files, hashed_since=NOW)
        state.set_note("weights", "a" * 64)
        state.close()
        content = bytearray(state.path.read_bytes())
        held = [at for at, byte in enumerate(content) if byte]
        for at in data.draw(st.lists(st.sampled_from(held), min_size=1, max_size=40)):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        state.path.write_bytes(content)
        found = state.find({file.path: STAT for file in files})
        assert found.items() <= {file.path: file.sha256 for file in files}.items()
        assert state.note("weights") in (None, "a" * 64)
        state.remember(files, hashed_since=NOW)


def test_second_corruption_keeps_the_first_one_s_file(state):
    for _ in range(2):
        state.close()
        state.path.parent.mkdir(exist_ok=True)
        state.path.write_bytes(b"not a database, for certain" * 100)
        assert state.note("x") is None
    names = sorted(path.name for path in state.path.parent.glob("*.corrupt-*"))
    assert names == ["state.sqlite.corrupt-1", "state.sqlite.corrupt-2"]


def test_file_of_another_schema_is_set_aside(state):
    state.path.parent.mkdir()
    other = sqlite3.connect(state.path)
    other.executescript("CREATE TABLE digests (something TEXT); PRAGMA user_version = 99;")
    other.close()
    state.remember([hashed("/a")], hashed_since=NOW)
    assert state.find({"/a": STAT})
    assert len(list(state.path.parent.glob("*.corrupt-*"))) == 1


def test_place_that_cannot_be_written_is_the_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        StateFile(tmp_path / "file" / "state.sqlite").note("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        StateFile(tmp_path / "folder").note("x")


def test_full_disk_is_the_oserror_and_nothing_half_written(state):
    state.remember([hashed("/a")], hashed_since=NOW)
    (pages,) = state._connection.execute("PRAGMA page_count").fetchone()
    state._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError) as caught:
        state.remember([hashed(f"/{n}" * 20) for n in range(1000)], hashed_since=NOW)
    assert caught.value.errno == errno.ENOSPC
    assert state.find({f"/{n}" * 20: STAT for n in range(1000)}) == {}
    assert state.find({"/a": STAT})


def test_holder_that_never_lets_go_is_a_conflict(state, monkeypatch):
    monkeypatch.setattr(state_module, "_TIMEOUT_S", 0.1)
    state.set_note("x", 1)
    state.close()
    holder = sqlite3.connect(state.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Conflict, match="another process has held it"):
        state.note("x")
    holder.execute("COMMIT")
    assert state.note("x") == 1
    holder.close()


def test_opening_that_had_to_give_up_begins_again(state, monkeypatch):
    monkeypatch.setattr(state_module, "_TIMEOUT_S", 0.1)
    state.path.parent.mkdir()
    holder = sqlite3.connect(state.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Conflict):
        state.set_note("x", 1)
    holder.execute("ROLLBACK")
    state.set_note("x", 1)
    assert state.note("x") == 1
    assert not list(state.path.parent.glob("*.corrupt-*"))
    holder.close()


def write_many(path, writer):
    with StateFile(path) as state:
        for round_ in range(20):
            state.remember([hashed(f"/{writer}/{round_}/{n}") for n in range(20)], hashed_since=NOW)
            state.set_note(f"{writer}/{round_}", writer)


def test_two_processes_at_once(tmp_path):
    path = tmp_path / "state.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, writer)) for writer in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    with StateFile(path) as state:
        stats = {
            f"/{writer}/{round_}/{n}": STAT
            for writer in range(2)
            for round_ in range(20)
            for n in range(20)
        }
        assert len(state.find(stats)) == 800
        assert state.note("1/19") == 1
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_hash_of_a_quiet_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    found = hash_file(str(path))
    assert found.sha256 == hashlib.sha256(b"abc").digest()
    assert found.stat == FileStat.of(str(path))


class Restless:
    """Stands in for hashing: changes the file while it is read, a number of times."""

    def __init__(self, path, changes):
        self.path, self.left = path, changes
        self.original = hashlib.file_digest

    def __call__(self, stream, name):
        digest = self.original(stream, name)
        if self.left:
            self.left -= 1
            with open(self.path, "ab") as writer:
                writer.write(b"+")
        return digest


@pytest.mark.parametrize("changes", [1, 2])
def test_file_that_changes_while_read_is_read_again(tmp_path, monkeypatch, changes):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    monkeypatch.setattr(hashlib, "file_digest", Restless(path, changes))
    assert hash_file(str(path)).sha256 == hashlib.sha256(b"abc" + b"+" * changes).digest()


def test_file_that_never_rests_is_a_conflict_that_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    monkeypatch.setattr(hashlib, "file_digest", Restless(path, 99))
    with pytest.raises(Conflict, match=r"a\.jpg: changed while it was read, 3 times"):
        hash_file(str(path))


def test_file_replaced_while_read_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    stamp = path.stat().st_mtime_ns
    original, replaced = hashlib.file_digest, []

    def replace_once(stream, name):
        digest = original(stream, name)
        if not replaced:
            replaced.append(True)
            (tmp_path / "new").write_bytes(b"xyz")
            os.utime(tmp_path / "new", ns=(stamp, stamp))
            os.replace(tmp_path / "new", path)
        return digest

    monkeypatch.setattr(hashlib, "file_digest", replace_once)
    if sys.platform == "win32":
        pytest.skip("an open file cannot be replaced there")
    assert hash_file(str(path)).sha256 == hashlib.sha256(b"xyz").digest()


def test_only_regular_files_have_a_stat(tmp_path):
    with pytest.raises(IsADirectoryError):
        FileStat.of(str(tmp_path))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            hash_file(str(tmp_path / "pipe"))
