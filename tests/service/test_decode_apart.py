"""Whatever decoding an image does to its process, the service and the other images go on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from featurestore.images import UnreadableImage, decode_image
from featurestore.online import Refusal
from featurestore.service.decode_apart import DecodeLimits, DecodePool, DecodeTask, Lost, Oversized
from featurestore.testing.images import broken_images, encode, photograph

SIZE = (16, 24)


def task(content):
    return DecodeTask(content, SIZE, "bilinear")


@pytest.fixture
def pool():
    pools = []

    def make(workers=1, **options):
        pools.append(DecodePool(workers, **options))
        return pools[-1]

    yield make
    for each in pools:
        each.close()


def hostile(pool, *, workers=1, **limits):
    return pool(workers, limits=DecodeLimits(**limits), decoder="hostile_decoder:decode")


def decode(pool, *contents):
    return [future.result(30) for future in [pool.decode(task(each)) for each in contents]]


def is_good(found, content):
    return isinstance(found, np.ndarray) and (found == len(content) % 256).all()


def test_pixels_are_those_of_this_process(pool):
    contents = [encode(photograph(0, index=index)) for index in range(20)]
    for content, found in zip(contents, decode(pool(2), *contents), strict=True):
        np.testing.assert_array_equal(
            found, decode_image(content, size=SIZE, interpolation="bilinear")
        )


def test_an_unreadable_image_has_the_reason_of_this_process(pool):
    reasons = {}
    for name, content in broken_images().items():
        if not name.startswith("bomb"):
            with pytest.raises(UnreadableImage) as caught:
                decode_image(content, size=SIZE, interpolation="bilinear")
            reasons[name] = caught.value.reason
    found = decode(pool(2), *(broken_images()[name] for name in reasons))
    assert found == [Refusal(reason) for reason in reasons.values()]


def test_too_many_pixels_are_told_apart_by_the_header(pool):
    small, large = encode(photograph(0, size=(10, 10))), encode(photograph(0, size=(11, 10)))
    bomb = broken_images()["bomb.png"]
    first, second, third = decode(pool(limits=DecodeLimits(pixels=100)), small, large, bomb)
    assert isinstance(first, np.ndarray)
    assert second == Oversized("10x11 pixels exceed the limit of 100 pixels")
    assert third == Oversized("200000x200000 pixels exceed the limit of 100 pixels")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (b"segfault", "the process that decoded it ended by signal 11"),
        (b"exit", "the process that decoded it ended with code 0"),
        (b"memory", "decoding it takes more memory than one image may have"),
    ],
)
def test_what_ends_a_process_costs_its_image_alone(pool, what, reason):
    decoding = hostile(pool, workers=2, memory_bytes=2 * 2**30)
    contents = [b"one", b"two two", what, b"three", what, b"four four", b"five"]
    found = decode(decoding, *contents)
    for content, each in zip(contents, found, strict=True):
        assert each == Lost(reason) if content == what else is_good(each, content)


def test_an_image_that_hangs_is_given_up(pool):
    decoding = hostile(pool, workers=2, seconds=0.5)
    begun = time.monotonic()
    found = decode(decoding, b"hang", *[b"good"] * 20)
    assert found[0] == Lost("decoding it took longer than 0.5 s")
    assert all(is_good(each, b"good") for each in found[1:])
    assert time.monotonic() - begun < 10
    assert is_good(*decode(decoding, b"again"), b"again")


def test_the_limit_is_of_one_image_and_not_of_many(pool):
    decoding = hostile(pool, seconds=0.6)
    assert all(is_good(each, b"slow") for each in decode(decoding, *[b"slow"] * 4))


def test_what_a_codec_prints_is_no_answer(pool):
    contents = [b"print", b"after it"]
    for content, found in zip(contents, decode(hostile(pool), *contents), strict=True):
        assert is_good(found, content)


def test_refusals_need_no_new_process(pool):
    decoding = hostile(pool)
    decode(decoding, b"good")
    before = decoding.processes()
    assert decode(decoding, b"pixels", b"unreadable") == [
        Oversized("9x9 pixels exceed the limit"),
        Refusal("damaged"),
    ]
    assert decoding.processes() == before


def test_no_process_is_left(pool):
    decoding = DecodePool(2, limits=DecodeLimits(seconds=0.5), decoder="hostile_decoder:decode")
    seen = set()
    for what in (b"good", b"segfault", b"hang", b"exit", b"good"):
        decode(decoding, what, b"good")
        seen |= set(decoding.processes())
    decoding.close()
    assert len(seen) > 2
    assert decoding.processes() == []
    assert not [pid for pid in seen if Path(f"/proc/{pid}").exists()]


def test_the_token_is_not_in_the_environment_of_a_codec(pool, monkeypatch):
    monkeypatch.setenv("FS_TOKEN", "very secret")
    decoding = hostile(pool)
    decode(decoding, b"good")
    environ = Path(f"/proc/{decoding.processes()[0]}/environ")
    if not environ.exists():
        pytest.skip("needs /proc")
    assert b"very secret" not in environ.read_bytes()


def test_signals_that_stop_a_service_leave_it_its_decoders(pool):
    decoding = hostile(pool)
    decode(decoding, b"good")
    before = decoding.processes()
    slow = decoding.decode(task(b"slow"))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(before[0], number)
    assert os.getpgid(before[0]) != os.getpgid(0)
    assert is_good(slow.result(30), b"slow")
    assert decoding.processes() == before


def test_a_decoder_that_does_not_start_says_so(pool):
    decoding = pool(decoder="no_such_module:decode")
    with pytest.raises(RuntimeError, match="before it was ready"):
        decode(decoding, b"good")


def test_processes_end_with_a_service_that_was_killed():
    code = """
        import os, signal, sys
        from featurestore.service.decode_apart import DecodePool, DecodeTask
        pool = DecodePool(1, decoder="hostile_decoder:decode")
        pool.decode(DecodeTask(b"good", (16, 16), "bilinear")).result()
        print(*pool.processes(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    (pid,) = map(int, killed.stdout.split())
    until = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may be there to ask for an orphan's code
