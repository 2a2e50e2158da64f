"""The local executor: the contract's suite, and its bounded window."""

import pytest

from featurestore.executors import local
from featurestore.executors.local import LocalExecutor
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.executors import ExecutorConformance, pictures, run_units, write_unit


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
