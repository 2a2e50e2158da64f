"""The named heads of scikit-learn: the conformance suite, and what is each one's own."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from featurestore.errors import InvalidInput
from featurestore.testing.heads import HeadConformance, MemoryRows, blobs, varied
from featurestore.training.contract import FitOptions, NotConverged
from featurestore.training.heads import build_settings, create_head
from featurestore.training.views import ViewRows

DEFAULTS = {}
BALANCED_SVM = {"class_weight": "balanced", "folds": 3}
DISTANCE_KNN = {"metric": "euclidean", "weights": "distance", "neighbors": 7}
FEW_TREES = {"trees": 30}
SHALLOW_TREES = {"trees": 30, "max_depth": 2, "class_weight": "balanced"}
FEW_STEPS = {"trees": 20, "max_features": 1.0}

ALL = ["linear-svm", "knn", "random-forest", "gradient-boosting", "nearest-centroid"]
WEIGHTED = ["linear-svm", "random-forest", "gradient-boosting"]


class TestLinearSvm(HeadConformance):
    head = "linear-svm"
    fields = DEFAULTS
    copies_tolerance = 5e-3  # liblinear stops at 1e-4 of its first gradient


class TestBalancedLinearSvm(HeadConformance):
    head = "linear-svm"
    fields = BALANCED_SVM
    copies_tolerance = 5e-3


class TestKnn(HeadConformance):
    head = "knn"
    fields = DEFAULTS


class TestEuclideanKnn(HeadConformance):
    head = "knn"
    fields = DISTANCE_KNN


class TestRandomForest(HeadConformance):
    head = "random-forest"
    fields = FEW_TREES
    copies_tolerance = 0.4  # 30 trees, each of other draws


class TestShallowRandomForest(HeadConformance):
    head = "random-forest"
    fields = SHALLOW_TREES
    copies_tolerance = 0.3


class TestGradientBoosting(HeadConformance):
    head = "gradient-boosting"
    fields = FEW_STEPS


class TestNearestCentroid(HeadConformance):
    head = "nearest-centroid"
    fields = DEFAULTS
    copies_tolerance = 0.02  # the deviation within classes is over rows less classes


def fit(head, train, n_classes=2, seed=0, **fields):
    created = create_head(build_settings(head, fields))
    return created.fit(train, None, options=FitOptions(n_classes=n_classes, seed=seed))


def flat(rows):
    return rows.features.reshape(len(rows), -1).astype("float64")


def some_of_each(rows, counts):
    """The first rows of each class, in the order they stand."""
    kept = np.sort(
        np.concatenate([np.flatnonzero(rows.labels == k)[:n] for k, n in enumerate(counts)])
    )
    return MemoryRows(rows.features[kept], rows.labels[kept])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("mostly_zero", [True, False])
def test_svm_is_that_of_the_features_as_they_are(n_classes, mostly_zero):
    train = blobs(90, n_classes=n_classes, distance=0.5)
    if not mostly_zero:
        train.features[:] += 300
    else:
        train.features[:, 0] = 0
    head = fit("linear-svm", train, n_classes, c=1.0)
    (calibrated,) = head.model_.calibrated_classifiers_
    X = flat(train)
    centred = X if mostly_zero else X - X.mean(axis=0)
    variance = X.var(axis=0).sum()
    assert calibrated.estimator.C * variance == pytest.approx(1.0)
    scaled = LinearSVC(C=1.0, random_state=0).fit(centred / np.sqrt(variance), train.labels)
    np.testing.assert_allclose(
        calibrated.estimator.decision_function(X),
        scaled.decision_function(centred / np.sqrt(variance)),
        atol=5e-3,  # liblinear stops at 1e-4 of its first gradient
    )


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_svm_with_views_is_calibrated_on_images_held_out_with_their_views(class_weight):
    rows = varied(some_of_each(blobs(120, n_classes=2, distance=0.4), (60, 30)), views=2)
    head = fit("linear-svm", ViewRows(rows, views=2, seed=0), seed=4, class_weight=class_weight)
    versions = [flat(rows), *rows.versions.reshape(2, len(rows), -1).astype("float64")]
    scale = np.sqrt(np.concatenate(versions).var(axis=0).sum())
    versions = [X / scale for X in versions]
    y, scores = rows.labels, np.empty(len(rows))
    counted = compute_sample_weight(None if class_weight == "none" else class_weight, y)
    folds = StratifiedKFold(5, shuffle=True, random_state=4)
    for kept, held in folds.split(y[:, None], y):
        svm = LinearSVC(C=3.0, random_state=4, max_iter=5000)
        X = np.concatenate([X[kept] for X in versions])
        svm.fit(X, np.tile(y[kept], 3), sample_weight=np.tile(counted[kept], 3) / 3)
        scores[held] = svm.decision_function(versions[0][held])
    sigmoid = CalibratedClassifierCV(FrozenEstimator(Scores().fit(y))).fit(
        scores[:, None], y, sample_weight=counted
    )
    (expected,) = sigmoid.calibrated_classifiers_[0].calibrators
    (found,) = head.model_.calibrated_classifiers_[0].calibrators
    np.testing.assert_allclose([found.a_, found.b_], [expected.a_, expected.b_], rtol=0.02)


class Scores(ClassifierMixin, BaseEstimator):
    """Gives the scores that it is given."""

    def fit(self, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return X[:, 0]

    predict = decision_function  # scikit-learn asks that there be one


def test_svm_bears_features_far_from_zero():
    near = blobs(300, n_classes=2, distance=0.4, dtype="float32")
    far = MemoryRows(near.features + 1000, near.labels)
    heads = fit("linear-svm", near), fit("linear-svm", far)
    assert heads[1].notes_ == ()
    predicted = [
        head.predict_proba(rows.features).argmax(axis=1)
        for head, rows in zip(heads, (near, far), strict=True)
    ]
    assert np.mean(predicted[0] == predicted[1]) > 0.97


def test_svm_folds_are_drawn_by_the_seed():
    train = blobs(90, n_classes=2, distance=0.5)
    first, second = (fit("linear-svm", train, seed=seed) for seed in (0, 1))
    assert np.abs(first.predict_proba(train.features) - second.predict_proba(train.features)).max()


def test_svm_takes_fewer_folds_where_a_class_is_small():
    train = some_of_each(blobs(80, n_classes=2), (40, 3))
    head = fit("linear-svm", train)
    assert head.notes_ == (
        "head linear-svm: 3 folds instead of 5: class number 1 has 3 training rows",
    )
    fresh = blobs(100, n_classes=2, seed=9)
    assert np.mean(head.predict_proba(fresh.features).argmax(axis=1) == fresh.labels) > 0.8


def test_svm_refuses_a_class_of_one_row():
    with pytest.raises(InvalidInput, match=r"found 1 of class number 1"):
        fit("linear-svm", some_of_each(blobs(80, n_classes=2), (40, 1)))


def test_svm_refuses_equal_rows():
    rows = MemoryRows(np.full((8, 3), 2.0, np.float32), np.array([0, 1] * 4))
    with pytest.raises(InvalidInput, match="same features"):
        fit("linear-svm", rows)


def test_unconverged_svm_is_noted_and_warned_of():
    with pytest.warns(NotConverged, match="did not converge"):
        head = fit("linear-svm", blobs(90, n_classes=2, distance=0.3), c=1e4, max_iter=2)
    assert len(head.notes_) == 1


@pytest.mark.parametrize("head", WEIGHTED)
def test_balanced_weights_raise_the_recall_of_a_rare_class(head):
    train = some_of_each(blobs(1000, n_classes=2, distance=0.25), (400, 25))
    fresh = blobs(600, n_classes=2, distance=0.25, seed=9)
    few = {"max_depth": 3, "trees": 50} if head != "linear-svm" else {}
    recall = {}
    for class_weight in ("none", "balanced"):
        fitted = fit(head, train, class_weight=class_weight, **few)
        predicted = fitted.predict_proba(fresh.features).argmax(axis=1)
        recall[class_weight] = np.mean(predicted[fresh.labels == 1])
    assert recall["balanced"] > recall["none"] + 0.1


def test_nearest_rows_are_those_of_the_metric():
    # By angle (1, 0) lies with (9, 1), by distance with (0, 1).
    train = MemoryRows(np.array([[9.0, 1.0], [0.0, 1.0]], np.float16), np.array([0, 1]))
    point = np.array([[1.0, 0.0]], np.float16)
    shares = {
        metric: fit("knn", train, neighbors=1, metric=metric).predict_proba(point).tolist()
        for metric in ("cosine", "euclidean")
    }
    assert shares == {"cosine": [[1.0, 0.0]], "euclidean": [[0.0, 1.0]]}


def test_fewer_rows_than_neighbours_all_vote():
    head = fit("knn", some_of_each(blobs(20, n_classes=2), (1, 2)))
    assert head.notes_ == ("head knn: 3 neighbours instead of 5: there are 3 training rows",)
    point = np.zeros((1, 2, 2, 8), np.float16)
    np.testing.assert_allclose(head.predict_proba(point), [[1 / 3, 2 / 3]], rtol=1e-6)


def test_class_smaller_than_the_vote_is_noted():
    head = fit("knn", some_of_each(blobs(40, n_classes=2), (20, 2)))
    assert "class number 1 has 2 training rows" in head.notes_[0]


def test_forest_depends_on_its_seed_and_no_core():
    train = blobs(90, n_classes=3, distance=0.5)
    first, again, other = (
        fit("random-forest", train, 3, seed=seed, **SHALLOW_TREES).predict_proba(train.features)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_with_views_settings_count_images():
    rows = ViewRows(varied(blobs(90, n_classes=3, distance=0.5), views=2), views=2, seed=0)
    assert fit("knn", rows, 3, neighbors=4).model_.n_neighbors == 12
    boosted = fit("gradient-boosting", rows, 3, trees=2).model_
    leaves = [
        node["count"]
        for step in boosted._predictors
        for tree in step
        for node in tree.nodes
        if node["is_leaf"]
    ]
    assert min(leaves) >= 60


def test_columns_that_are_always_zero_are_no_news():
    train = blobs(60, n_classes=2)
    train.features[..., 0] = 0
    assert fit("nearest-centroid", train).notes_ == ()


def test_as_many_classes_as_rows_have_no_centroid():
    with pytest.raises(InvalidInput, match="2 rows of 2 classes"):
        fit("nearest-centroid", blobs(2, n_classes=2))


@pytest.mark.parametrize("head", ALL)
def test_memory_is_counted_before_rows_are_read(head):
    class Unread(MemoryRows):
        def read(self, start, stop):
            raise AssertionError("rows were read")

        load = read

    rows = blobs(200, n_classes=2)
    created = create_head(build_settings(head, {}))
    with pytest.raises(InvalidInput, match=f"head {head}: 200 training rows of 32 values need"):
        created.fit(
            Unread(rows.features, rows.labels),
            None,
            options=FitOptions(n_classes=2, memory_bytes=1000),
        )


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ("linear-svm", {"c": 0}),
        ("linear-svm", {"folds": 1}),
        ("linear-svm", {"class_weight": "most"}),
        ("knn", {"neighbors": 0}),
        ("knn", {"metric": "angle"}),
        ("knn", {"weights": "heavy"}),
        ("random-forest", {"trees": 0}),
        ("random-forest", {"max_depth": 0}),
        ("gradient-boosting", {"max_bins": 256}),
        ("gradient-boosting", {"max_features": 0}),
        ("gradient-boosting", {"max_leaves": 1}),
    ],
)
def test_settings_out_of_range_are_named(head, fields):
    (field,) = fields
    with pytest.raises(InvalidInput, match=f"head {head}, {field}: expected"):
        build_settings(head, fields)


PEAK = """
import json, sys
import numpy as np
import sklearn.ensemble, sklearn.svm
from featurestore.testing.heads import MemoryRows
from featurestore.training.contract import FitOptions
from featurestore.training.heads import build_settings, create_head
from featurestore.training.views import ViewRows



def peak():  # in KiB; ru_maxrss would begin at that of the process which runs the tests
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


rows, columns = 3000, 4096
name, fields = sys.argv[1], json.loads(sys.argv[2])


class Drawn(MemoryRows):
    feature_shape = (columns,)

    def read(self, start, stop):
        noise = np.random.default_rng(start).normal(size=(stop - start, columns))
        return (noise + self.labels[start:stop, None] / 10).astype(np.float16)


train = Drawn(np.empty((0, columns)), np.arange(rows) % 2)
head = create_head(build_settings(name, fields))
train.read(0, 512)
before = peak()
head.fit(train, None, options=FitOptions(n_classes=2, memory_bytes=10**12))
grown = (peak() - before) * 1024
print(grown, head.needed_bytes(rows, columns, n_classes=2))
"""


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ("linear-svm", '{"max_iter": 20}'),
        ("knn", "{}"),
        ("random-forest", '{"trees": 20}'),
        ("gradient-boosting", '{"trees": 3}'),
        ("gradient-boosting", '{"trees": 3, "max_bins": 255, "max_leaves": 31}'),
        ("nearest-centroid", "{}"),
    ],
)
def test_stated_memory_is_enough_and_not_far_too_much(head, fields):
    arguments = [sys.executable, "-W", "ignore", "-c", PEAK, head, fields]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    grown, stated = map(int, done.stdout.split())
    # Pages that lay free before, and the allocator's, are not the fit's.
    assert grown < stated + 16 * 2**20
    assert stated < 3 * grown
