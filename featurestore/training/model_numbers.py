"""Numbers of scikit-learn's fitted models that compiled code follows without looking.

A model file may hold any numbers. Most go through NumPy, which checks its bounds. These do not:
node and column indices of trees, the trees of gradient boosting, the labels of neighbours, and what
libsvm calls a model. Out of bounds they read or write memory that is not theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import BaggingClassifier, GradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.neighbors._base import NeighborsBase
from sklearn.svm import SVC, NuSVC
from sklearn.svm._base import BaseLibSVM
from sklearn.tree import DecisionTreeRegressor


def check_numbers(model: Any) -> None:
    """Check every part of a model whose numbers compiled code follows.

    Raises
    ------
    ValueError
        Numbers do not fit together. A part that lacks some raises what Python makes of it.
    """
    _check(model, None, seen=set())


def _check(part: Any, width: int | None, *, seen: set[int]) -> None:
    """Check every part at or below `part`.

    `width` is the number of columns that the enclosing estimator has checked its rows to have.
    """
    if id(part) in seen:
        return
    seen.add(id(part))
    kind = type(part).__name__
    if kind == "Tree":
        _check_tree(part, width)
    elif kind == "TreePredictor":
        _check_predictor(part, width)
    elif isinstance(part, dict):
        for value in part.values():
            _check(value, width, seen=seen)
    elif isinstance(part, list | tuple) or (isinstance(part, np.ndarray) and part.dtype == object):
        for value in np.ravel(part) if isinstance(part, np.ndarray) else part:
            _check(value, width, seen=seen)
    elif isinstance(part, BaseEstimator) or type(part).__module__.startswith("sklearn."):
        own = getattr(part, "n_features_in_", width)
        if width is not None and own != width:
            raise ValueError(f"a {kind} of {own} features in a model of {width}")
        # Bagging hands each estimator some of the columns, and the estimator checks their number.
        inner = None if isinstance(part, BaggingClassifier) else own
        for value in vars(part).values() if hasattr(part, "__dict__") else ():
            _check(value, inner, seen=seen)
        # What is fitted has these; a calibrated model keeps an unfitted copy of its estimator too.
        if isinstance(part, NeighborsBase) and hasattr(part, "_fit_X"):
            _check_neighbors(part)
        elif isinstance(part, BaseLibSVM) and hasattr(part, "support_vectors_"):
            _check_svm(part)
        elif isinstance(part, GradientBoostingClassifier) and hasattr(part, "estimators_"):
            _check_boosting(part)


def _check_neighbors(model: Any) -> None:
    """Labels index the classes, and rows have the columns of the model.

    Source: scikit-learn's `ArgKminClassMode` and `RadiusNeighborsClassMode`, which write where the
    labels say, and answer for more neighbours than rows with rows that are not near.
    """
    rows = model._fit_X
    if (
        model._fit_method != "brute"
        or not isinstance(rows, np.ndarray)
        or rows.shape[1:] != (model.n_features_in_,)
        or model.n_samples_fit_ != len(rows)
    ):
        raise ValueError("neighbours that are not found by brute force among rows of its features")
    if isinstance(model, KNeighborsClassifier) and model.n_neighbors > len(rows):
        raise ValueError(f"{model.n_neighbors} neighbours among {len(rows)} rows")
    if isinstance(model, KNeighborsClassifier | RadiusNeighborsClassifier):
        labels = model._y
        if (
            not np.issubdtype(labels.dtype, np.integer)
            or labels.shape != rows.shape[:1]
            or labels.min(initial=0) < 0
            or labels.max(initial=0) >= len(model.classes_)
        ):
            raise ValueError(f"neighbours without one of {len(model.classes_)} labels each")


def _check_svm(model: Any) -> None:
    """Arrays have the sizes that libsvm takes for granted, of one count of support vectors.

    Source: docstring of scikit-learn's `sklearn.svm._libsvm.decision_function`.
    """
    classes, count = len(model.classes_), len(model.support_vectors_)
    pairs = classes * (classes - 1) // 2
    if (
        type(model) not in (SVC, NuSVC)
        or "_impl" in vars(model)
        or model._sparse
        or model.kernel not in ("linear", "poly", "rbf", "sigmoid")
        or model.support_vectors_.shape != (count, model.n_features_in_)
        or model.support_.shape != (count,)
        or model._n_support.shape != (classes,)
        or model._n_support.min() < 0
        or model._n_support.sum(dtype=np.int64) != count
        or model._dual_coef_.shape != (classes - 1, count)
        or model._intercept_.shape != (pairs,)
        or any(found.shape not in ((0,), (pairs,)) for found in (model._probA, model._probB))
    ):
        raise ValueError("a support vector machine whose arrays are of different sizes")


def _check_boosting(model: Any) -> None:
    """Each step has as many trees as the first guess has columns; each tree gives one number.

    Source: scikit-learn's `predict_stages`, which adds the trees' numbers to that guess.
    """
    trees, classes = model.estimators_, len(model.classes_)
    outputs = 1 if classes == 2 else classes
    if trees.shape != (len(trees), outputs) or not len(trees):
        raise ValueError(f"gradient boosting of {trees.shape} trees for {classes} classes")
    if model.init_ != "zero" and type(model.init_) is not DummyClassifier:
        raise ValueError("gradient boosting that starts from another model")
    for tree in trees.ravel():
        if type(tree) is not DecisionTreeRegressor or tree.tree_.value.shape != (
            tree.tree_.node_count,
            1,
            1,
        ):
            raise ValueError("gradient boosting with trees of another kind")
    if model._raw_predict_init(np.zeros((1, model.n_features_in_))).shape != (1, outputs):
        raise ValueError("gradient boosting whose first guess has another number of columns")


def _check_tree(tree: Any, width: int | None) -> None:
    """Branches lead on within the tree, and ask for columns that rows have.

    Source: scikit-learn's `Tree` (children_left, children_right, feature; -1 ends a branch).
    """
    if tree.n_features != width or not tree.node_count:
        raise ValueError(f"a tree of {tree.node_count} nodes on {tree.n_features} features")
    left, right = tree.children_left, tree.children_right
    node = np.arange(tree.node_count)
    leaf = left == -1
    inside = (left > node) & (left < len(node)) & (right > node) & (right < len(node))
    column = (tree.feature >= 0) & (tree.feature < tree.n_features)
    if not np.all(leaf | (inside & column)):
        raise ValueError("a tree with nodes or features that it does not have")


def _check_predictor(predictor: Any, width: int | None) -> None:
    """As `_check_tree`. Source: scikit-learn's `TreePredictor` (left, right, feature_idx)."""
    nodes = predictor.nodes
    node = np.arange(len(nodes))
    left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
    inside = (left > node) & (left < len(node)) & (right > node) & (right < len(node))
    column = (nodes["feature_idx"] >= 0) & (nodes["feature_idx"] < (width or 0))
    split = inside & column & (nodes["is_categorical"] == 0)
    if not len(nodes) or not np.all((nodes["is_leaf"] != 0) | split):
        raise ValueError("a tree with nodes or features that it does not have")
