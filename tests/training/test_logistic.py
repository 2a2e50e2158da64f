"""The logistic head: the conformance suite, and what is its own."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.testing.heads import HeadConformance, MemoryRows, blobs
from featurestore.training.contract import FitOptions, NotConverged
from featurestore.training.heads import create_head
from featurestore.training.settings import LogisticSettings

DEFAULTS = {}


class TestLogistic(HeadConformance):
    head = "logistic"
    fields = DEFAULTS


def fit(train, n_classes=2, **fields):
    head = create_head(LogisticSettings(**fields))
    return head.fit(train, None, options=FitOptions(n_classes=n_classes))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_model_is_the_optimum_on_the_features_as_they_are(n_classes):
    train = blobs(90, n_classes=n_classes, distance=0.5)
    head = fit(train, n_classes)
    X = train.features.reshape(90, -1).astype("float64")
    direct = LogisticRegression(C=head.model_.C, tol=1e-9, max_iter=100_000).fit(X, train.labels)
    np.testing.assert_allclose(head.model_.coef_, direct.coef_, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        head.predict_proba(train.features), direct.predict_proba(X), atol=1e-3
    )


def test_c_is_divided_by_the_total_variance():
    train = blobs(90, n_classes=2)
    head = fit(train, c=7.0)
    variance = train.features.reshape(90, -1).astype("float64").var(axis=0).sum()
    assert head.model_.C * variance == pytest.approx(7.0)


@settings(max_examples=15, deadline=None)
@given(scale=st.sampled_from([1e-3, 0.1, 50.0]), offset=st.sampled_from([0.0, -3.0, 100.0]))
def test_c_means_the_same_at_any_scale_and_offset(scale, offset):
    train = blobs(60, n_classes=2, dtype="float32", distance=0.5)
    moved = MemoryRows(
        (train.features.astype("float64") * scale + offset).astype("float32"), train.labels
    )
    ours = fit(train).predict_proba(train.features)
    theirs = fit(moved).predict_proba(moved.features)
    np.testing.assert_allclose(theirs, ours, atol=5e-3)


def test_default_c_suits_other_features_too():
    # Pixels of scikit-learn's digits: nothing like VGG16's features in scale, number or sparsity.
    # 0.977 is the best of C = 1, 10, 30, 100, 300, 1000 and 10000; 1 gives 0.960.
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    rows = MemoryRows(digits.images[order].astype("float16"), digits.target[order].astype("int64"))
    head = fit(MemoryRows(rows.features[:1200], rows.labels[:1200]), 10)
    predicted = head.predict_proba(rows.features[1200:]).argmax(axis=1)
    assert np.mean(predicted == rows.labels[1200:]) > 0.967


def test_unconverged_fit_is_noted_and_warned_of():
    with pytest.warns(NotConverged, match="did not converge"):
        head = fit(blobs(90, n_classes=2, distance=0.5), max_iter=2)
    assert len(head.notes_) == 1
    assert "did not converge" in head.notes_[0]


def test_converged_fit_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(blobs(90, n_classes=2, distance=0.5)).notes_ == ()


def test_constant_features_are_refused():
    rows = MemoryRows(np.full((4, 3), 2.0, np.float32), np.array([0, 1, 0, 1]))
    with pytest.raises(InvalidInput, match="same features"):
        fit(rows)


def test_another_estimator_is_refused(tmp_path):
    path = tmp_path / "model.skops"
    skops.io.dump(Ridge().fit(np.eye(4), [0, 1, 0, 1]), path)
    with pytest.raises(IntegrityError, match="found Ridge"):
        create_head(LogisticSettings()).load(path, feature_shape=(4,), n_classes=2)


class Hostile(LogisticRegression):
    """An estimator of a type that nobody vouches for."""


def test_types_outside_scikit_learn_are_refused(tmp_path):
    path = tmp_path / "model.skops"
    skops.io.dump(Hostile().fit(np.eye(4), [0, 1, 0, 1]), path)
    with pytest.raises(IntegrityError, match=r"not trusted.*Hostile"):
        create_head(LogisticSettings()).load(path, feature_shape=(4,), n_classes=2)


def test_tensorflow_is_not_loaded():
    code = (
        "import sys\n"
        "from featurestore.training.contract import FitOptions\n"
        "from featurestore.training.heads import create_head\n"
        "from featurestore.training.settings import LogisticSettings\n"
        "assert 'sklearn' not in sys.modules\n"
        "from featurestore.testing.heads import blobs\n"
        "head = create_head(LogisticSettings())\n"
        "head.fit(blobs(20, n_classes=2), None, options=FitOptions(n_classes=2))\n"
        "print([name for name in sys.modules if name in ('tensorflow', 'keras')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
