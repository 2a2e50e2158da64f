"""The dense head on rows that do not fit: the same head, in bounded memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from featurestore.errors import InvalidInput
from featurestore.features import Split
from featurestore.stores import create_store, open_store
from featurestore.testing.heads import blobs
from featurestore.testing.store_rows import SplitRows, layout_of, write_splits
from featurestore.training import pools
from featurestore.training.contract import FitOptions
from featurestore.training.heads import create_head
from featurestore.training.settings import DenseSettings

SHAPE = (2, 2, 8)
ROW_BYTES = 64
TRAIN, VALIDATION = 2500, 1100


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def splits(request, tmp_path_factory):
    """Return (train, validation) of one store."""
    written = {}
    for seed, (name, count) in enumerate({"train": TRAIN, "validation": VALIDATION}.items()):
        rows = blobs(count, n_classes=3, seed=seed, distance=0.5, feature_shape=SHAPE)
        order = np.argsort(rows.labels, kind="stable")  # classes lie apart, as in a manifest
        written[name] = SplitRows(
            features=rows.features[order],
            labels=rows.labels[order],
            sample_ids=tuple(f"{name}/{row}" for row in range(count)),
            sha256=np.zeros((count, 32), np.uint8),
        )
    path = tmp_path_factory.mktemp("store") / request.param
    writer = create_store(request.param, path, layout_of(written))
    write_splits(writer, written)
    writer.close()
    store = open_store(path)
    yield [Split(name, store.split(name), ("a", "b", "c")) for name in written]
    store.close()


def fit(splits, *, memory_bytes, **fields):
    settings = {"units": 16, "epochs": 4, "learning_rate": 1e-3, "dropout": 0.2, **fields}
    options = FitOptions(n_classes=3, seed=7, memory_bytes=memory_bytes)
    return create_head(DenseSettings(**settings)).fit(*splits, options=options)


@pytest.mark.parametrize(
    "memory_rows", [TRAIN, 1792 + VALIDATION, 1792, 896], ids=["train", "both", "ahead", "least"]
)
def test_a_fit_from_disk_is_the_fit_in_memory(splits, memory_rows, monkeypatch):
    # Pools of about 833 rows, each with a last batch of 33 or so.
    monkeypatch.setattr(pools, "_POOL_BYTES", 0)
    options = {"batch_size": 50, "class_weight": "balanced", "patience": 2}
    held = fit(splits, memory_bytes=2**30, **options)
    read = fit(splits, memory_bytes=memory_rows * ROW_BYTES, **options)
    assert read.history_ == held.history_
    assert read.chosen_ == held.chosen_
    for ours, theirs in zip(read.model_.get_weights(), held.model_.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert held.history_["validation_accuracy"][-1] > 0.6


def test_less_memory_than_a_pool_is_refused_before_rows_are_loaded(splits, monkeypatch):
    monkeypatch.setattr(pools, "_POOL_BYTES", 0)
    monkeypatch.setattr(Split, "load", lambda self: pytest.fail("rows were loaded"))
    with pytest.raises(InvalidInput, match=r"head dense: expected memory for 896 rows at once"):
        fit(splits, memory_bytes=895 * ROW_BYTES)


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_is_bounded_by_the_budget():
    # 40,000 rows of 8,192 float16 values are 625 MiB; three pools of 208 MiB each. The peak beyond
    # that of a fit to 512 rows, which has TensorFlow and the weights, is the budget's and the
    # pieces': a pool is assembled beside one span of it, and a piece is copied to a tensor.
    small = _peak_mebibytes(512, 250)
    grown = {budget: _peak_mebibytes(40_000, budget) - small for budget in (250, 450, 1000)}
    assert grown[250] < 250 + 60
    assert grown[450] < 450 + 60
    assert grown[1000] > 600, "rows in memory would show"


def _peak_mebibytes(rows, budget):
    script = textwrap.dedent(
        f"""
        import re
        import numpy as np
        from featurestore.training.contract import FitOptions
        from featurestore.training.heads import create_head
        from featurestore.training.settings import DenseSettings

        class Generated:
            feature_shape = (8192,)
            labels = np.arange({rows}) % 2

            def __len__(self):
                return {rows}

            def read(self, start, stop):
                block = np.random.default_rng(start).random((64, 8192), np.float32)
                return np.resize(np.float16(block), (stop - start, 8192))

            def load(self):
                return self.read(0, {rows}), self.labels

        head = create_head(DenseSettings(units=8, epochs=2, batch_size=200))
        options = FitOptions(n_classes=2, memory_bytes={budget} * 2**20)
        head.fit(Generated(), None, options=options)
        with open("/proc/self/status") as status:
            print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
        """
    )
    # Not getrusage: its peak outlives exec, and would be that of the process of these tests.
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE)
    return int(done.stdout) / 1024
