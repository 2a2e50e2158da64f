"""A stream gives the pixels asked for, in that order, however many threads it has."""

import hashlib
import threading
import time

import numpy as np
import pytest

from featurestore import pixels
from featurestore.augmentation import Augmentation, augment
from featurestore.errors import InvalidInput
from featurestore.images import UnreadableImage, decode_image
from featurestore.pixels import THREAD_PREFIX, PixelStream
from featurestore.source_images import SourceImageMissing
from featurestore.testing.images import encode, photograph

SIZE = (20, 30)
IMAGE_BYTES = 20 * 30 * 3
COUNT = 50


class Files:
    """Image files in memory, and what has been read of them."""

    def __init__(self, count=COUNT):
        self.contents = [
            encode(photograph(number % 3, index=number, size=(24, 40))) for number in range(count)
        ]
        self.read_rows = []
        self.delay_s = lambda row: 0.0

    @property
    def sha256(self):
        digests = [hashlib.sha256(content).digest() for content in self.contents]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)

    def read(self, row):
        time.sleep(self.delay_s(row))
        self.read_rows.append(row)
        return self.contents[row]

    def stream(self, *, workers=2, memory_bytes=0):
        return PixelStream(
            self.read,
            self.sha256,
            size=SIZE,
            interpolation="bilinear",
            workers=workers,
            memory_bytes=memory_bytes,
        )

    def decoded(self, row):
        return decode_image(self.contents[row], size=SIZE, interpolation="bilinear")


@pytest.fixture
def files():
    return Files()


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]


def together(batches):
    return np.concatenate(list(batches))


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 64])
def test_rows_come_in_the_order_asked_for(files, workers, batch_size):
    rows = np.random.default_rng(0).permutation(COUNT)
    batches = list(files.stream(workers=workers).batches(rows, batch_size=batch_size))
    full, rest = divmod(COUNT, batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * full + [rest] * (rest > 0)
    assert {(batch.dtype, batch.shape[1:]) for batch in batches} == {(np.dtype("u1"), (*SIZE, 3))}
    assert np.array_equal(together(batches), [files.decoded(row) for row in rows])


def test_rows_may_repeat_or_be_none(files):
    rows = np.array([4, 4, 0, 4])
    found = together(files.stream().batches(rows, batch_size=3))
    assert np.array_equal(found, [files.decoded(row) for row in rows])
    assert list(files.stream().batches(np.array([], int), batch_size=3)) == []
    assert threads() == []


def test_slow_images_do_not_lose_their_place(files):
    files.delay_s = lambda row: 0.02 if row % 9 == 0 else 0.0
    found = together(files.stream(workers=4).batches(np.arange(COUNT), batch_size=4))
    assert np.array_equal(found, [files.decoded(row) for row in range(COUNT)])


@pytest.mark.parametrize("memory_bytes", [0, 7 * IMAGE_BYTES, 10**9])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_versions_depend_on_ranges_seed_digest_and_view_alone(files, workers, memory_bytes):
    ranges, rows = Augmentation(fill=9), np.arange(COUNT)[::-1]
    stream = files.stream(workers=workers, memory_bytes=memory_bytes)
    for view in (0, 3, 0):
        expected = [
            augment(
                files.decoded(row), ranges, seed=2, sha256=files.sha256[row].tobytes(), view=view
            )
            for row in rows
        ]
        found = together(stream.batches(rows, batch_size=6, augmentation=ranges, seed=2, view=view))
        assert np.array_equal(found, expected)
    # What is kept is the image and not one of its versions.
    plain = together(stream.batches(rows, batch_size=6))
    assert np.array_equal(plain, [files.decoded(row) for row in rows])


def test_batches_are_arrays_of_their_own(files):
    batches = list(files.stream(memory_bytes=10**9).batches(np.arange(16), batch_size=8))
    first = batches[0].copy()
    batches[1][:] = 0
    assert batches[0].flags.writeable and np.array_equal(batches[0], first)


def test_writing_to_a_batch_leaves_what_is_kept_alone(files):
    stream = files.stream(memory_bytes=10**9)
    for batch in stream.batches(np.arange(16), batch_size=8):
        batch[:] = 0
    again = together(stream.batches(np.arange(16), batch_size=8))
    assert np.array_equal(again, [files.decoded(row) for row in range(16)])


# What is kept


@pytest.mark.parametrize("memory_bytes", [10**9, COUNT * IMAGE_BYTES])
def test_what_fits_is_read_once(files, memory_bytes):
    stream = files.stream(memory_bytes=memory_bytes)
    for view in range(3):
        list(stream.batches(np.arange(COUNT), batch_size=8, augmentation=Augmentation(), view=view))
    assert sorted(files.read_rows) == list(range(COUNT))
    assert stream.kept_bytes == COUNT * IMAGE_BYTES


@pytest.mark.parametrize(
    ("memory_bytes", "kept"),
    [(0, 0), (IMAGE_BYTES - 1, 0), (IMAGE_BYTES, 1), (10 * IMAGE_BYTES + 5, 10)],
)
def test_the_first_are_kept_while_they_fit(files, memory_bytes, kept):
    stream = files.stream(workers=1, memory_bytes=memory_bytes)
    list(stream.batches(np.arange(COUNT), batch_size=8))
    assert stream.kept_bytes == kept * IMAGE_BYTES <= memory_bytes
    files.read_rows.clear()
    list(stream.batches(np.arange(COUNT), batch_size=8))
    assert files.read_rows == list(range(kept, COUNT))
    assert stream.kept_bytes == kept * IMAGE_BYTES


def test_equal_bytes_are_kept_once(files):
    files.contents = files.contents[:5] * 4
    stream = files.stream(memory_bytes=10**9)
    list(stream.batches(np.arange(20), batch_size=8))
    assert stream.kept_bytes == 5 * IMAGE_BYTES


def test_passes_at_once_keep_no_more_than_the_budget(files):
    stream = files.stream(workers=3, memory_bytes=20 * IMAGE_BYTES)
    found = [None] * 4

    def take(number):
        found[number] = together(stream.batches(np.arange(COUNT), batch_size=8))

    takers = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert stream.kept_bytes == 20 * IMAGE_BYTES
    expected = [files.decoded(row) for row in range(COUNT)]
    assert all(np.array_equal(one, expected) for one in found)


# Bounds and threads


@pytest.mark.parametrize(
    ("workers", "batch_size", "ahead"), [(1, 8, 2), (2, 20, 2), (2, 4, 3), (8, 8, 9), (1, 64, 2)]
)
def test_window_is_bounded(workers, batch_size, ahead):
    files = Files(count=16 * batch_size)
    batches = files.stream(workers=workers).batches(
        np.arange(16 * batch_size), batch_size=batch_size
    )
    for taken in range(1, 3):
        next(batches)
        expected = (taken + ahead) * batch_size
        wait_for(lambda expected=expected: len(files.read_rows) >= expected)
        time.sleep(0.1)  # long enough to read more, were there no bound
        assert len(files.read_rows) == expected
    batches.close()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_threads_start_with_the_first_batch_and_end_with_the_last(files):
    batches = files.stream(workers=3).batches(np.arange(COUNT), batch_size=8)
    assert threads() == []
    next(batches)
    assert 1 <= len(threads()) <= 3
    list(batches)
    assert threads() == []


@pytest.mark.parametrize("abandon", ["close", "forget", "raise"])
def test_abandoned_pass_leaves_no_thread(files, abandon):
    files.delay_s = lambda row: 0.001
    batches = files.stream(workers=3).batches(np.arange(COUNT), batch_size=2)
    if abandon == "raise":
        with pytest.raises(ZeroDivisionError):
            for _ in batches:
                raise ZeroDivisionError
    else:
        next(batches)
    if abandon == "close":
        batches.close()
    del batches
    assert threads() == []
    assert len(files.read_rows) < COUNT


# Errors


def test_error_comes_in_its_place_with_the_images_name(files):
    def read(row):
        if row >= 21:
            raise SourceImageMissing(f"cats/{row}.jpg", "the file is gone")
        return files.contents[row]

    stream = PixelStream(
        read, files.sha256, size=SIZE, interpolation="bilinear", workers=4, memory_bytes=0
    )
    batches = stream.batches(np.arange(COUNT), batch_size=10)
    assert np.array_equal(next(batches), [files.decoded(row) for row in range(10)])
    assert np.array_equal(next(batches), [files.decoded(row) for row in range(10, 20)])
    with pytest.raises(SourceImageMissing, match=r"image cats/21\.jpg: the file is gone"):
        next(batches)
    assert threads() == []
    with pytest.raises(StopIteration):
        next(batches)


def test_image_that_cannot_be_decoded_is_named_by_its_digest(files):
    files.contents[3] = files.contents[3][:100]
    named = files.sha256[3].tobytes().hex()[:12]
    with pytest.raises(UnreadableImage, match=rf"SHA-256 {named}: truncated") as caught:
        list(files.stream().batches(np.arange(COUNT), batch_size=10))
    assert "fs embed" in caught.value.next_step
    assert threads() == []


@pytest.mark.parametrize("place", ["decode_image", "augment"])
def test_lack_of_memory_is_an_error_of_the_request(files, monkeypatch, place):
    def no_memory(*arguments, **named):
        raise MemoryError

    monkeypatch.setattr(pixels, place, no_memory)
    with pytest.raises(InvalidInput, match="not enough memory") as caught:
        list(files.stream().batches(np.arange(9), batch_size=9, augmentation=Augmentation()))
    assert "--workers 1" in caught.value.next_step and not isinstance(caught.value, UnreadableImage)
    assert threads() == []


def test_batch_size_is_checked_before_the_first_batch(files):
    with pytest.raises(InvalidInput, match="batch size: expected at least 1, found 0"):
        files.stream().batches(np.arange(3), batch_size=0)
