"""The durable layer replaces files whole, and its faults strike where they are told to."""

import errno
import os

import pytest

from featurestore.stores import durable
from featurestore.testing.faults import count_operations, fail_operation, watch_disk


def test_file_is_replaced_after_it_is_synced(tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    with watch_disk() as log:
        durable.replace_file(path, b"new ", b"contents")
    assert path.read_bytes() == b"new contents"
    assert log.operations[:4] == ["write", "write", "sync", "rename"]
    assert os.listdir(tmp_path) == ["record.json"]


def test_failing_at_any_moment_keeps_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "record.json"
    total = count_operations(lambda: durable.replace_file(path, b"old"))
    for k in range(total):
        durable.replace_file(path, b"old")
        with fail_operation(k) as log, pytest.raises(OSError) as caught:
            durable.replace_file(path, b"new")
        assert log.failed
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() in (b"old", b"new")
        assert os.listdir(tmp_path) == ["record.json"]


def test_added_file_replaces_none(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.symlink_to(tmp_path / "nowhere")
    for link_fails in (True, False):
        with fail_operation(0 if link_fails else 1), pytest.raises(FileExistsError):
            durable.add(source, target)
    assert source.exists() and target.is_symlink()
    target.unlink()
    with fail_operation(1), pytest.raises(OSError, match="injected at sync"):
        durable.add(source, target)
    target.unlink()
    for failing in (0, 9):  # where no second name can be given, and where it can
        source.write_bytes(b"new")
        with fail_operation(failing):
            durable.add(source, target)
        assert (target.read_bytes(), os.listdir(tmp_path)) == (b"new", ["target"])
        target.unlink()


def test_directory_is_put_in_place_and_removed(tmp_path):
    source = tmp_path / "building"
    durable.make_directory(source)
    durable.write_new_file(source / "a", b"1")
    durable.sync_tree(source)
    durable.replace(source, tmp_path / "final")
    assert (tmp_path / "final" / "a").read_bytes() == b"1"
    durable.remove(tmp_path / "final")
    durable.remove(tmp_path / "final")
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued():
    class Slow:
        taken = b""

        def write(self, data):
            self.taken += bytes(data[:3])
            return min(3, len(data))

    sink = Slow()
    durable.write(sink, memoryview(b"0123456789"))
    assert sink.taken == b"0123456789"


def test_file_that_takes_nothing_is_an_error():
    class Full:
        def write(self, data):
            return 0

    with pytest.raises(OSError, match="no bytes"):
        durable.write(Full(), b"x")


def test_temporary_names_differ_and_are_recognised(tmp_path):
    names = {durable.temporary_path(tmp_path / "x.h5") for _ in range(50)}
    assert len(names) == 50
    assert all(name.name.startswith(durable.TEMPORARY_PREFIX) for name in names)
    assert {name.suffix for name in names} == {".h5"}


def test_passing_fault_strikes_once(tmp_path):
    with fail_operation(0, errno.EIO, lasting=False):
        with pytest.raises(OSError, match="injected"):
            durable.write_new_file(tmp_path / "a", b"0123")
        durable.write_new_file(tmp_path / "b", b"0123")
    assert (tmp_path / "a").read_bytes() == b"01"
    assert (tmp_path / "b").read_bytes() == b"0123"


def test_full_disk_stays_full(tmp_path):
    with fail_operation(0):
        for name in "ab":
            with pytest.raises(OSError, match="injected"):
                durable.write_new_file(tmp_path / name, b"0123")
    durable.write_new_file(tmp_path / "c", b"0123")


def test_disk_that_never_fails_says_so(tmp_path):
    with fail_operation(99) as log:
        durable.write_new_file(tmp_path / "a", b"0123")
    assert not log.failed
