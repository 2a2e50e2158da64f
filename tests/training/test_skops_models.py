"""Model files: what they bring back, and what a hostile one is refused."""

import functools
import json
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from featurestore.errors import IntegrityError
from featurestore.testing.heads import blobs
from featurestore.training.contract import FitOptions
from featurestore.training.heads import build_settings, create_head
from featurestore.training.skops_models import load_model, save_model

ROWS = blobs(60, n_classes=3)
X, Y = ROWS.features.reshape(60, -1).astype("float64"), ROWS.labels


def load(path, estimator, n_features=32, n_classes=3):
    return load_model(path, estimator=estimator, n_features=n_features, n_classes=n_classes)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        DecisionTreeClassifier(),
        RandomForestClassifier(5),
        GradientBoostingClassifier(n_estimators=3),
        HistGradientBoostingClassifier(max_iter=3),
        BaggingClassifier(n_estimators=3, max_features=0.5),
    ],
    ids=lambda model: type(model).__name__,
)
def test_round_trip(model, tmp_path):
    save_model(model.fit(X, Y), tmp_path / "model.skops")
    loaded = load(tmp_path / "model.skops", type(model))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize(
    ("estimator", "n_features", "n_classes"),
    [(KNeighborsClassifier, 32, 3), (LogisticRegression, 31, 3), (LogisticRegression, 32, 4)],
)
def test_another_model_is_refused(estimator, n_features, n_classes, tmp_path):
    save_model(LogisticRegression().fit(X, Y), tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match=r"expected a fitted .*found LogisticRegression of 32"):
        load(tmp_path / "model.skops", estimator, n_features, n_classes)


def test_other_labels_than_positions_are_refused(tmp_path):
    save_model(LogisticRegression().fit(X, Y * 2), tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="expected a fitted"):
        load(tmp_path / "model.skops", LogisticRegression)


def test_numbers_that_do_not_fit_together_are_refused(tmp_path):
    model = LogisticRegression().fit(X, Y)
    model.coef_ = model.coef_[:, :7]
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="do not fit together"):
        load(tmp_path / "model.skops", LogisticRegression)


def naming(module, name, loader, tmp_path, content=None):
    """A file whose first attribute is whatever is named."""
    path = tmp_path / "model.skops"
    save_model(LogisticRegression().fit(X, Y), path)
    with zipfile.ZipFile(path) as archive:
        members = {item: archive.read(item) for item in archive.namelist()}
    schema = json.loads(members["schema.json"])
    attributes = schema["content"]["content"]
    attributes["C"] = {"__class__": name, "__module__": module, "__loader__": loader}
    if content is not None:
        attributes["C"]["content"] = content
    with zipfile.ZipFile(path, "w") as archive:
        for item, data in (members | {"schema.json": json.dumps(schema)}).items():
            archive.writestr(item, data)
    return path


@pytest.mark.parametrize(
    ("module", "name", "loader"),
    [
        ("os", "system", "FunctionNode"),
        ("numpy.lib._datasource", "DataSource", "ObjectNode"),  # removes a directory when it goes
        ("numpy.f2py.__main__", "main", "FunctionNode"),  # acts when it is imported
        ("numpy", "load", "FunctionNode"),
        ("numpy.testing", "rundocs", "FunctionNode"),
        ("sklearn.datasets", "load_files", "FunctionNode"),
        ("sklearn.utils.parallel.joblib", "load", "FunctionNode"),
        ("sklearn.neighbors._kd_tree", "KDTree", "ObjectNode"),
        ("scipy.io", "loadmat", "FunctionNode"),
        ("sklearn.conftest", "Thing", "TypeNode"),
        ("builtins", "eval", "FunctionNode"),
        ("functools", "partial", "PartialNode"),
    ],
)
def test_types_that_are_not_listed_are_refused(module, name, loader, tmp_path):
    partial = None
    if loader == "PartialNode":
        empty = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
        partial = dict.fromkeys(("func", "args", "kwds", "namespace"), empty | {"content": "null"})
    path = naming(module, name, loader, tmp_path, partial)
    with pytest.raises(IntegrityError, match=f"not trusted: {module}.{name}"):
        load(path, LogisticRegression)


def test_hostile_class_runs_nothing(tmp_path):
    """Of a real hostile object the file is refused before any of its code could run."""
    model = LogisticRegression().fit(X, Y)
    model.extra = FunctionTransformer(functools.partial(print, "hostile"))
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="not trusted"):
        load(tmp_path / "model.skops", LogisticRegression)


def with_tree(tree, **columns):
    """The same tree with other numbers in its nodes."""
    state = tree.__getstate__()
    nodes = state["nodes"].copy()
    for name, value in columns.items():
        nodes[name][0] = value
    tree.__setstate__(state | {"nodes": nodes})


@pytest.mark.parametrize(
    "damage",
    [
        {"left_child": 10_000},
        {"right_child": -7},
        {"left_child": 0},  # a loop without end
        {"feature": 32},
        {"feature": -2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [DecisionTreeClassifier, RandomForestClassifier])
def test_trees_that_leave_their_nodes_are_refused(kind, damage, tmp_path):
    model = kind(random_state=0).fit(X, Y)
    inner = model if kind is DecisionTreeClassifier else model.estimators_[3]
    with_tree(inner.tree_, **damage)
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="do not fit together: a tree"):
        load(tmp_path / "model.skops", kind)


def test_tree_of_a_wider_model_is_refused(tmp_path):
    model = RandomForestClassifier(3, random_state=0).fit(X, Y)
    wide = RandomForestClassifier(3, random_state=0).fit(np.hstack([X, X]), Y)
    model.estimators_[1] = wide.estimators_[1]
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="64 features in a model of 32"):
        load(tmp_path / "model.skops", RandomForestClassifier)


@pytest.mark.parametrize(
    "damage",
    [{"left": 9999}, {"right": 0}, {"feature_idx": 32}, {"feature_idx": -1}, {"is_categorical": 1}],
    ids=str,
)
def test_boosted_trees_that_leave_their_nodes_are_refused(damage, tmp_path):
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=5).fit(X, Y)
    nodes = model._predictors[1][2].nodes
    assert not nodes["is_leaf"][0]
    for name, value in damage.items():
        nodes[name][0] = value
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="do not fit together: a tree"):
        load(tmp_path / "model.skops", HistGradientBoostingClassifier)


@pytest.mark.parametrize("labels", [Y + 1, Y - 1, Y[:-1]], ids=["above", "below", "too few"])
def test_neighbours_without_a_class_are_refused(labels, tmp_path):
    head = create_head(build_settings("knn", {})).fit(ROWS, None, options=FitOptions(n_classes=3))
    head.model_._y = labels
    head.save(tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="neighbours without one of 3 labels"):
        create_head(build_settings("knn", {})).load(
            tmp_path / "model.skops", feature_shape=(2, 2, 8), n_classes=3
        )


NEIGHBOURS = {
    "nearest": KNeighborsClassifier(algorithm="brute", metric="manhattan"),
    "within a radius": RadiusNeighborsClassifier(1e4, algorithm="brute", metric="manhattan"),
}


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "within bagging"])
@pytest.mark.parametrize("kind", NEIGHBOURS)
@pytest.mark.parametrize(
    "damage",
    [
        {"_y": np.full(60, 10**9)},
        {"_y": Y[:-1]},
        {"_y": Y.astype("float64")},
        {"_fit_X": X[:, :5].copy()},
        {"n_samples_fit_": 10**9},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_neighbours_that_compiled_code_would_follow_are_refused(kind, damage, nested, tmp_path):
    # Predicting with the first of them ends the process: nothing may predict before the check.
    model = inner = clone(NEIGHBOURS[kind]).fit(X, Y)
    if nested:
        model = BaggingClassifier(clone(inner), n_estimators=2, bootstrap=False).fit(X, Y)
        inner = model.estimators_[1]
    vars(inner).update(damage)
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="do not fit together: neighbours"):
        load(tmp_path / "model.skops", type(model))


def test_more_neighbours_than_rows_are_refused(tmp_path):
    model = clone(NEIGHBOURS["nearest"]).fit(X, Y).set_params(n_neighbors=61)
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="61 neighbours among 60 rows"):
        load(tmp_path / "model.skops", KNeighborsClassifier)


def boosted(y):
    return GradientBoostingClassifier(n_estimators=4, random_state=0).fit(X, y)


def with_columns(model, columns):
    model.estimators_ = np.repeat(model.estimators_[:, :1], columns, axis=1)


def with_first_guess(model, columns):
    model.init_.class_prior_ = np.full(columns, 1 / columns)


@pytest.mark.parametrize("columns", [1, 40])
@pytest.mark.parametrize("damage", [with_columns, with_first_guess])
def test_boosting_of_another_number_of_trees_a_step_is_refused(damage, columns, tmp_path):
    model = boosted(Y)
    damage(model, columns)
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="do not fit together: gradient boosting"):
        load(tmp_path / "model.skops", GradientBoostingClassifier)


def test_boosting_of_two_classes_has_one_tree_a_step(tmp_path):
    model = boosted(Y == 0)
    model.classes_ = np.arange(2)
    save_model(model, tmp_path / "model.skops")
    loaded = load(tmp_path / "model.skops", GradientBoostingClassifier, n_classes=2)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    with_columns(model, 2)
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match=r"\(4, 2\) trees for 2 classes"):
        load(tmp_path / "model.skops", GradientBoostingClassifier, n_classes=2)


def test_boosting_with_trees_of_classes_is_refused(tmp_path):
    model = boosted(Y)
    model.estimators_[1, 1] = DecisionTreeClassifier().fit(X, Y)
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="trees of another kind"):
        load(tmp_path / "model.skops", GradientBoostingClassifier)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: {"_dual_coef_": m._dual_coef_[:, :1].copy()},
        lambda m: {"_dual_coef_": m._dual_coef_[:1].copy()},
        lambda m: {"_dual_coef_": m._dual_coef_[:, :1].copy(), "support_": m.support_[:1]},
        lambda m: {"_intercept_": m._intercept_[:1]},
        lambda m: {"_n_support": np.array([-5, 5, m._n_support.sum()], np.int32)},
        lambda m: {"_n_support": np.array([m._n_support.sum()], np.int32)},
        lambda m: {"_probA": np.zeros(1)},
        lambda m: {"support_vectors_": m.support_vectors_[:, :3].copy()},
        lambda m: {"kernel": "precomputed"},
        lambda m: {"_impl": "one_class"},
    ],
)
def test_support_vectors_of_other_sizes_are_refused(damage, tmp_path):
    model = CalibratedClassifierCV(SVC(), ensemble=False, cv=3).fit(X, Y)
    (fitted,) = model.calibrated_classifiers_
    save_model(model, tmp_path / "whole.skops")
    loaded = load(tmp_path / "whole.skops", CalibratedClassifierCV)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    vars(fitted.estimator).update(damage(fitted.estimator))
    save_model(model, tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="do not fit together: a support vector machine"):
        load(tmp_path / "model.skops", CalibratedClassifierCV)


def test_calibrated_model_of_another_class_is_refused(tmp_path):
    path = "sklearn.linear_model.RidgeClassifier"
    head = create_head(build_settings(path, {})).fit(ROWS, None, options=FitOptions(n_classes=3))
    head.save(tmp_path / "model.skops")
    with pytest.raises(IntegrityError, match="expected one calibrated LinearSVC"):
        create_head(build_settings("linear-svm", {})).load(
            tmp_path / "model.skops", feature_shape=(2, 2, 8), n_classes=3
        )
