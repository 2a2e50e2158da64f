"""The local executor: the contract's suite, and its bounded window."""

import dataclasses
import tracemalloc

import pytest

from featurestore import images
from featurestore.errors import InvalidInput
from featurestore.executors import local
from featurestore.executors.local import LocalExecutor
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.executors import (
    DECODE,
    ExecutorConformance,
    MemoryStaging,
    pictures,
    run_units,
    write_unit,
)


@pytest.mark.parametrize("workers", [1, 3], scope="class")
class TestLocalExecutor(ExecutorConformance):
    @pytest.fixture
    def executor(self, workers):
        return LocalExecutor(workers=workers)


def test_units_end_in_the_order_given(tmp_path):
    units = [write_unit(tmp_path / str(at), pictures(10 * at, at + 1)) for at in range(6)]
    outcomes, _ = run_units(LocalExecutor(workers=4), units)
    assert [outcome.computed for outcome in outcomes] == [1, 2, 3, 4, 5, 6]


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
    units = [write_unit(tmp_path / str(at), pictures(100 * at, 64)) for at in range(4)]
    run_units(LocalExecutor(workers=2), units, network)
    # One batch with the network, one drawn ahead, and tasks of 8 images for two batches more.
    assert max(ahead) <= 2 * 8 + 8 * (2 + 1)


def test_running_out_of_memory_stops_and_names_the_image_but_quarantines_nothing(
    tmp_path, monkeypatch
):
    large = pictures(50, 1)[0]
    decode = local.decode_image

    def exhausted(content, **settings):
        if content == large:
            raise MemoryError
        return decode(content, **settings)

    monkeypatch.setattr(local, "decode_image", exhausted)
    units = [write_unit(tmp_path / str(at), pictures(10 * at, 4)) for at in range(4)]
    units.append(write_unit(tmp_path / "last", [*pictures(40, 2), large]))
    staging = MemoryStaging()
    outcomes = LocalExecutor(workers=2).run(
        units, network=TinyNetwork(batch_size=4), decode=DECODE, staging=staging
    )
    with pytest.raises(InvalidInput, match=r"image 2\.jpg: not enough memory") as caught:
        list(outcomes)
    assert "--workers 1" in caught.value.next_step
    assert len(staging.puts) >= 3
    assert not any(quarantined for _, _, quarantined in staging.puts)


def test_a_file_that_is_no_image_is_quarantined_without_being_held_in_memory(tmp_path):
    unit = write_unit(tmp_path / "unit", [b"\x00" * (64 << 20), *pictures(0, 1)])
    tracemalloc.start()
    try:
        (outcome,), _ = run_units(LocalExecutor(workers=1), [unit])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert list(outcome.quarantined.values()) == [
        "not an image (no JPEG, PNG, WebP, GIF, TIFF or BMP signature)"
    ]


def test_an_image_that_became_something_else_is_changed_and_not_quarantined(tmp_path):
    # Quarantine is kept by digest: the good bytes would stay out when they come back.
    unit = write_unit(tmp_path / "unit", pictures(0, 2))
    unit.paths[0].write_bytes(b"no image")
    (outcome,), _ = run_units(LocalExecutor(workers=1), [unit])
    assert (set(outcome.changed), outcome.quarantined) == ({"0.jpg"}, {})


def test_an_image_file_beyond_the_limit_is_quarantined_unread(tmp_path, monkeypatch):
    small, large = sorted(pictures(0, 2), key=len)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(small))
    assert len(small) < len(large)
    (outcome,), _ = run_units(
        LocalExecutor(workers=1), [write_unit(tmp_path / "unit", [small, large])]
    )
    assert outcome.computed == 1
    assert f"limit of {len(small):,} bytes" in next(iter(outcome.quarantined.values()))


def test_an_image_is_decoded_once_for_up_to_32_versions(tmp_path, monkeypatch):
    decoded = []
    decode = local.decode_image

    def counted(content, **settings):
        decoded.append(content)
        return decode(content, **settings)

    monkeypatch.setattr(local, "decode_image", counted)
    contents = pictures(0, 4)
    unit = dataclasses.replace(
        write_unit(tmp_path / "unit", contents),
        versions=((None, 0, 1), tuple(range(32)), (5,), tuple(range(40))),
    )
    (outcome,), _ = run_units(LocalExecutor(workers=2), [unit])
    assert outcome.computed + outcome.views == 76
    assert sorted(map(contents.index, decoded)) == [0, 1, 2, 3, 3]


def test_decoding_ahead_is_bounded_in_versions_and_not_in_images(tmp_path, monkeypatch):
    warped = 0
    warp = local.augment

    def counted(*given, **settings):
        nonlocal warped
        warped += 1
        return warp(*given, **settings)

    monkeypatch.setattr(local, "augment", counted)
    ahead = []
    network = TinyNetwork(batch_size=8, pause_s=0.02, before=lambda n: ahead.append(warped - n))
    units = [
        dataclasses.replace(
            write_unit(tmp_path / str(at), pictures(100 * at, 16)), versions=(tuple(range(6)),) * 16
        )
        for at in range(3)
    ]
    run_units(LocalExecutor(workers=2), units, network)
    # One batch with the network, one drawn ahead, and tasks of 12 rows for two batches more.
    assert max(ahead) <= 2 * 8 + 12 * (2 + 2)
