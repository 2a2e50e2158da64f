"""The mean row and the total variance, near zero and far from it."""

import numpy as np
import pytest

from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryRows, blobs
from featurestore.training.contract import FitOptions
from featurestore.training.heads import build_settings, create_head
from featurestore.training.spread import mean_and_variance

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize(
    "X",
    [
        RNG.normal(size=(40, 6)),
        (RNG.normal(size=(40, 6)) * 1e-3 + 1000).astype("float32").astype("float64"),
        RNG.normal(size=(40, 6)) * 1e-9 + 1e6 * (np.arange(40) == 0)[:, None],  # the first row
        RNG.normal(size=(40, 6)) * 1e-30,
        RNG.normal(size=(40, 6)) * 1e35,
    ],
    ids=["normal", "far from zero", "far first row", "tiny", "huge"],
)
def test_is_what_centred_rows_have(X, size):
    blocks = (X[start : start + size] for start in range(0, len(X), size))
    mean, variance = mean_and_variance(blocks, head="sgd")
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-12, atol=1e-12 * np.abs(X).max())
    assert variance == pytest.approx(np.square(X - X.mean(axis=0)).sum() / len(X), rel=1e-6, abs=0)


@pytest.mark.parametrize("head", ["logistic", "linear-svm", "sgd"])
def test_only_equal_rows_are_refused(head):
    rows = blobs(60, n_classes=2, feature_shape=(6,), dtype="float32")
    options = FitOptions(n_classes=2)
    equal = MemoryRows(np.full_like(rows.features, 0.1), rows.labels)
    with pytest.raises(InvalidInput, match="all 60 training rows have the same features"):
        create_head(build_settings(head, {})).fit(equal, None, options=options)
    far = MemoryRows(rows.features * np.float32(1e-5) + 1000, rows.labels)
    assert np.ptp(far.features) < 0.01
    found = create_head(build_settings(head, {})).fit(far, None, options=options)
    predicted = found.predict_proba(far.features).argmax(axis=1)
    assert np.mean(predicted == rows.labels) > 0.9
