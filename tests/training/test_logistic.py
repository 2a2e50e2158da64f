"""The logistic head: the conformance suite, and what is its own."""

import re
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.testing.heads import HeadConformance, MemoryRows, blobs, varied
from featurestore.training import penalty_path
from featurestore.training.contract import DEFAULT_MEMORY_BYTES, FitOptions, NotConverged
from featurestore.training.heads import create_head
from featurestore.training.logistic_solver import share
from featurestore.training.penalty_path import C_GRID, draw_folds
from featurestore.training.settings import LogisticSettings
from featurestore.training.sklearn_model import FlatRows
from featurestore.training.views import ViewRows

DEFAULTS = {}
TUNED = {"tune": True, "folds": 3, "standardise": True, "class_weight": "balanced"}


class TestLogistic(HeadConformance):
    head = "logistic"
    fields = DEFAULTS


def fit(train, n_classes=2, *, seed=0, memory_bytes=DEFAULT_MEMORY_BYTES, **fields):
    head = create_head(LogisticSettings(**fields))
    options = FitOptions(n_classes=n_classes, seed=seed, memory_bytes=memory_bytes)
    return head.fit(train, None, options=options)


class TestTunedLogistic(HeadConformance):
    head = "logistic"
    fields = TUNED


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("shape", [(2, 2, 8), (2, 2, 40)], ids=["N>D", "N<D"])
def test_model_is_the_optimum_on_the_features_as_they_are(n_classes, class_weight, shape):
    train = uneven(90, n_classes, shape)
    head = fit(train, n_classes, class_weight=class_weight)
    X = train.features.reshape(len(train), -1).astype("float64")
    direct = LogisticRegression(
        C=head.model_.C,
        class_weight=None if class_weight == "none" else class_weight,
        solver="newton-cholesky",  # L-BFGS at 1e-10 is off by 1e-4
        tol=1e-13,
    ).fit(X, train.labels)
    assert relative(head.model_.coef_, direct.coef_) < 2e-5
    np.testing.assert_allclose(head.model_.intercept_, direct.intercept_, atol=1e-3)
    np.testing.assert_allclose(
        head.predict_proba(train.features), direct.predict_proba(X), atol=1e-4
    )


@pytest.mark.parametrize("shape", [(2, 2, 8), (2, 2, 40)], ids=["N>D", "N<D"])
def test_standardised_model_is_scikit_learns_pipeline(shape):
    train = uneven(90, 2, shape)
    X = train.features.reshape(len(train), -1).astype("float64")
    X[:, 3] = 0.1  # constant
    X[:, 4] *= 100
    rows = MemoryRows(X.astype("float32"), train.labels)
    head = fit(rows, standardise=True, c=30.0)
    X = rows.features.astype("float64")
    varying = X.std(axis=0) > 0
    assert varying.sum() < X.shape[1]
    direct = make_pipeline(
        StandardScaler(), LogisticRegression(C=30.0 / varying.sum(), tol=1e-10, max_iter=100_000)
    ).fit(X, train.labels)
    np.testing.assert_allclose(
        head.predict_proba(rows.features), direct.predict_proba(X), atol=1e-4
    )
    assert pytest.approx(30.0 / varying.sum()) == head.model_.C


def uneven(count, n_classes, shape):
    """Rows of which the first class has four times as many as each of the others."""
    whole = blobs(count * 2, n_classes=n_classes, feature_shape=shape, distance=0.5)
    kept = (whole.labels == 0) | (np.arange(len(whole)) % (4 * n_classes) < n_classes)
    return MemoryRows(whole.features[kept], whole.labels[kept])


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


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


def scaled(rows):
    X = rows.features.reshape(len(rows), -1).astype("float64")
    X -= X.mean(axis=0)
    return X / np.sqrt((X**2).sum() / len(X))


def scikit_learns_choice(rows, *, seed, folds=5, **parameters):
    held_out = draw_folds(rows.labels, folds=folds, seed=seed)
    model = LogisticRegressionCV(
        Cs=C_GRID,
        cv=[(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out],
        scoring="neg_log_loss",
        tol=1e-9,
        max_iter=100_000,
        **parameters,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that will change
        return model.fit(scaled(rows), rows.labels)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("shape", [(2, 2, 8), (2, 2, 40)], ids=["N>D", "N<D"])
def test_tuned_c_is_scikit_learns_on_the_same_folds(n_classes, class_weight, shape):
    train = uneven(90, n_classes, shape)
    head = fit(train, n_classes, tune=True, class_weight=class_weight, seed=4)
    theirs = scikit_learns_choice(
        train, seed=4, class_weight=None if class_weight == "none" else class_weight
    )
    losses = -np.reshape(next(iter(theirs.scores_.values())), (5, -1)).mean(axis=0)
    assert head.chosen_["grid"] == list(C_GRID)
    np.testing.assert_allclose(head.chosen_["log_loss"], losses, rtol=2e-3)
    assert head.chosen_["c"] == C_GRID[losses.argmin()] == np.ravel(theirs.C_)[0]
    same = fit(train, n_classes, c=head.chosen_["c"], class_weight=class_weight)
    np.testing.assert_array_equal(same.model_.coef_, head.model_.coef_)
    assert same.chosen_ == {}


def test_cross_validated_accuracy_is_of_the_held_out_rows():
    train = blobs(60, n_classes=2, distance=0.3)
    head = fit(train, tune=True, folds=3, seed=1)
    X, y = scaled(train), train.labels
    expected = [
        np.mean(
            [
                LogisticRegression(C=c, tol=1e-8, max_iter=10_000)
                .fit(X[~held], y[~held])
                .score(X[held], y[held])
                for held in draw_folds(y, folds=3, seed=1)
            ]
        )
        for c in C_GRID
    ]
    np.testing.assert_allclose(head.chosen_["accuracy"], expected, atol=1e-12)
    assert len(set(expected)) > 3


def test_tuning_reads_the_training_rows_alone():
    class Unreadable(MemoryRows):
        def load(self):
            raise AssertionError("the validation split was read")

    train = blobs(60, n_classes=2, distance=0.5)
    head = create_head(LogisticSettings(tune=True))
    validation = Unreadable(train.features, train.labels)
    head.fit(train, validation, options=FitOptions(n_classes=2))
    assert head.chosen_ == fit(train, tune=True).chosen_


def test_folds_are_drawn_by_the_seed():
    train = blobs(60, n_classes=2, distance=0.3)
    chosen = [fit(train, tune=True, seed=seed).chosen_ for seed in (1, 1, 2**40)]
    assert chosen[0] == chosen[1]
    assert chosen[0]["log_loss"] != chosen[2]["log_loss"]
    assert LogisticSettings(tune=True).uses_seed and not LogisticSettings().uses_seed


@given(counts=st.lists(st.integers(3, 30), min_size=2, max_size=4), seed=st.integers(0, 2**64))
def test_folds_hold_out_every_row_once_and_every_class_in_proportion(counts, seed):
    y = np.repeat(np.arange(len(counts)), counts)
    held_out = draw_folds(y, folds=3, seed=seed)
    np.testing.assert_array_equal(np.sum(held_out, axis=0), 1)
    for held in held_out:
        found = np.bincount(y[held], minlength=len(counts))
        assert all(abs(n - count / 3) < 1 for n, count in zip(found, counts, strict=True))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("shape", [(2, 2, 8), (2, 2, 200)], ids=["N>D", "N<D"])
def test_with_views_it_is_the_optimum_of_weighted_rows(n_classes, class_weight, shape):
    train = varied(uneven(90, n_classes, shape), views=2)
    head = fit(ViewRows(train, views=2, seed=0), n_classes, class_weight=class_weight)
    X = np.concatenate([train.features, *train.versions]).reshape(3 * len(train), -1)
    X, y = X.astype("float64"), np.tile(train.labels, 3)
    assert head.model_.C * X.var(axis=0).sum() == pytest.approx(100)
    direct = LogisticRegression(
        C=head.model_.C,
        class_weight=None if class_weight == "none" else class_weight,
        solver="newton-cholesky",
        tol=1e-13,
    ).fit(X, y, sample_weight=np.full(len(y), 1 / 3))
    assert relative(head.model_.coef_, direct.coef_) < 2e-5


def test_tuning_with_views_holds_out_images_and_judges_them_alone():
    train = varied(blobs(60, n_classes=2, distance=0.3), views=2, spread=30.0)
    head = fit(ViewRows(train, views=2, seed=1), tune=True, folds=3, seed=1)
    rows = np.concatenate([train.features, *train.versions])
    X, y = scaled(MemoryRows(rows, np.tile(train.labels, 3))), train.labels
    expected = []
    for c in C_GRID:
        losses = []
        for held in draw_folds(y, folds=3, seed=1):
            kept = np.tile(~held, 3)
            weights = np.full(kept.sum(), 1 / 3)
            model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000)
            model.fit(X[kept], np.tile(y, 3)[kept], sample_weight=weights)
            losses.append(log_loss(y[held], model.predict_proba(X[:60][held])))
        expected.append(np.mean(losses))
    np.testing.assert_allclose(head.chosen_["log_loss"], expected, rtol=2e-3)


def test_views_count_against_the_memory():
    rows = varied(blobs(500, n_classes=2, feature_shape=(400,)), views=6)
    within = LogisticSettings()
    needed = create_head(within).needed_bytes(500, 400, n_classes=2)
    fit(rows, memory_bytes=needed)
    message = r"(?s)500 training rows with 6 views each, of 400 values.*fewer --views"
    with pytest.raises(InvalidInput, match=message):
        fit(ViewRows(rows, views=6, seed=0), memory_bytes=needed)


def few_of_the_last_class(count):
    rows = blobs(60, n_classes=3, distance=0.5)
    kept = (rows.labels < 2) | (np.cumsum(rows.labels == 2) <= count)
    return MemoryRows(rows.features[kept], rows.labels[kept])


def test_rare_class_means_fewer_folds_and_a_note():
    head = fit(few_of_the_last_class(3), 3, tune=True)
    assert head.chosen_["folds"] == 3
    assert "3 folds instead of 5: class number 2 has 3 training rows" in head.notes_[0]


def test_class_of_one_row_cannot_be_tuned_on():
    train = few_of_the_last_class(1)
    with pytest.raises(InvalidInput, match=r"found 1 of class number 2"):
        fit(train, 3, tune=True)
    assert fit(train, 3).notes_ == ()


def test_choice_at_the_edge_is_noted():
    train = blobs(60, n_classes=2, distance=0.5)
    shuffled = MemoryRows(train.features, np.random.default_rng(0).permutation(train.labels))
    head = fit(shuffled, tune=True)
    assert head.chosen_["c"] == C_GRID[0]
    assert "the smallest of the values tried; a smaller one may do better" in head.notes_[0]


def test_of_equal_losses_the_strongest_penalty_wins():
    # Each row twice, once under each label: nothing can be learned, and every loss is ln 2.
    features = np.repeat(blobs(40, n_classes=2).features, 2, axis=0)
    X = scaled(MemoryRows(features, np.arange(80) % 2))
    whole = [np.arange(80) // 2 % 4 == k for k in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(penalty_path, "draw_folds", lambda y, *, folds, seed: whole)
        choice = penalty_path.choose_c(
            share(X),
            FlatRows(X, np.arange(80) % 2),
            settings=LogisticSettings(tune=True, folds=4),
            seed=0,
        )
    np.testing.assert_allclose(choice.log_loss, np.log(2), rtol=1e-12)
    assert choice.c == C_GRID[0]


def test_unconverged_tuning_is_noted():
    with (
        pytest.warns(NotConverged, match=r"in \d+ of 50 fits of the cross-validation"),
        pytest.warns(NotConverged, match="in 5 iterations"),
    ):
        head = fit(blobs(90, n_classes=2, distance=0.5), tune=True, max_iter=5)
    assert len([note for note in head.notes_ if "did not converge" in note]) == 2


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("shape", [(40, 400), (400, 40)], ids=["N<D", "N>D"])
def test_memory_is_within_what_is_stated_and_refused_below(tune, shape):
    count, columns = shape
    rows = blobs(count * 5, n_classes=3, feature_shape=(columns * 5,))
    head = create_head(LogisticSettings(tune=tune))

    def fit_within(memory_bytes):
        head.fit(rows, None, options=FitOptions(n_classes=3, memory_bytes=memory_bytes))

    with pytest.raises(InvalidInput, match=r"GiB of memory, .* GiB allowed") as refused:
        fit_within(1000)
    needed = int(re.search(r"--memory (\d+)MiB", str(refused.value))[1]) * 2**20
    assert "--head sgd" in str(refused.value)
    with pytest.raises(InvalidInput):
        fit_within(needed - 2**20)
    tracemalloc.start()
    fit_within(needed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= needed + 2**20


def test_memory_is_counted_before_rows_are_read():
    class Unread(MemoryRows):
        def read(self, start, stop):
            raise AssertionError("read")

        load = read

    rows = blobs(60, n_classes=2)
    with pytest.raises(InvalidInput, match="head logistic: 60 training rows of 32 values"):
        fit(Unread(rows.features, rows.labels), memory_bytes=1000)


@pytest.mark.parametrize(
    "fields", [{"folds": 1}, {"class_weight": "even"}, {"tune": "yes"}, {"standardise": 1}]
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(InvalidInput, match=f"head logistic, {next(iter(fields))}"):
        LogisticSettings(**fields)


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
