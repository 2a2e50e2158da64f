"""Linear classifiers as a matrix: equal to scikit-learn's own probabilities, or not offered."""

import re

import numpy as np
import pytest
from scipy.special import expit, softmax
from shipped import fitted
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from featurestore.shipping.linear_form import CLASSES, linear_form
from featurestore.testing.heads import blobs
from featurestore.training.sklearn_any import _classifiers

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:self.within_class_std_dev_:UserWarning"
)

LINEAR = {
    "logistic": LogisticRegression(C=0.01),
    "liblinear": LogisticRegression(C=0.01, solver="liblinear"),
    "sgd": SGDClassifier(loss="log_loss", alpha=1.0, random_state=0),
    "discriminant": LinearDiscriminantAnalysis(),
    "svm": CalibratedClassifierCV(LinearSVC(C=0.01), ensemble=False, cv=3),
    "calibrated-sgd": CalibratedClassifierCV(SGDClassifier(random_state=0), ensemble=False, cv=3),
    **{
        f"calibrated-{name}": CalibratedClassifierCV(scores, ensemble=False, cv=3)
        for name, scores in {
            "discriminant": LinearDiscriminantAnalysis(),
            "logistic-cv": LogisticRegressionCV(Cs=[0.01], cv=3),
            "perceptron": Perceptron(random_state=0),
            "ridge": RidgeClassifier(),
            "ridge-centred": RidgeClassifier(fit_intercept=False),
            "ridge-cv": RidgeClassifierCV(),
        }.items()
    },
    "calibrated-pipeline": CalibratedClassifierCV(
        make_pipeline(StandardScaler(), LinearSVC(C=0.01)), ensemble=False, cv=3
    ),
    "nearest-centroid": NearestCentroid(priors="empirical"),
    "shrunken-centroid": NearestCentroid(shrink_threshold=0.5),
    "standardised": make_pipeline(StandardScaler(), LogisticRegression(C=0.01)),
    "centred": make_pipeline(StandardScaler(with_std=False), LogisticRegression(C=0.01)),
    "scaled": make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=0.01)),
    "ranged": make_pipeline(MinMaxScaler((-1, 2)), MaxAbsScaler(), LogisticRegression()),
    "passed": make_pipeline("passthrough", LogisticRegression(C=0.01)),
}
OTHERS = {
    "forest": RandomForestClassifier(n_estimators=3, random_state=0),
    "neighbours": KNeighborsClassifier(),
    "bayes": GaussianNB(),
    "huber": SGDClassifier(loss="modified_huber", random_state=0),
    "ensemble": CalibratedClassifierCV(LinearSVC(C=0.01), ensemble=True, cv=3),
    "isotonic": CalibratedClassifierCV(LinearSVC(C=0.01), ensemble=False, cv=3, method="isotonic"),
    "temperature": CalibratedClassifierCV(
        LogisticRegression(), ensemble=False, cv=3, method="temperature"
    ),
    "curved": CalibratedClassifierCV(SVC(), ensemble=False, cv=3),
    "normalised": make_pipeline(Normalizer(), LogisticRegression()),
    "clipped": make_pipeline(MinMaxScaler(clip=True), LogisticRegression()),
}


NAMED = re.findall(r"[A-Z]\w+", CLASSES)
OFFERED = [path for path in _classifiers() if path.rpartition(".")[2] in NAMED]


def rows(n_classes, seed=0):
    made = blobs(90, n_classes=n_classes, feature_shape=(12,), seed=seed, distance=0.8)
    return made.features.astype(np.float64), made.labels


def probabilities(form, X):
    scores = X @ form.weights + form.bias
    if form.link == "softmax":
        return softmax(scores, axis=1)
    second = expit(scores)
    if form.link == "sigmoid":
        return np.concatenate([1 - second, second], axis=1)
    return second / second.sum(axis=1, keepdims=True)


CASES = [(name, k) for name in LINEAR for k in (2, 3) if (name, k) != ("liblinear", 3)]  # refused


@pytest.mark.parametrize(("name", "n_classes"), CASES)
def test_form_gives_the_estimators_probabilities(name, n_classes):
    X, y = rows(n_classes)
    model = LINEAR[name].fit(X, y)
    fresh, _ = rows(n_classes, seed=5)
    expected = model.predict_proba(fresh)
    assert expected.std(axis=0).min() > 0.02  # not all alike: a wrong form would show
    np.testing.assert_allclose(probabilities(linear_form(model), fresh), expected, atol=1e-9)


def test_columns_without_variance_within_classes_are_not_divided():
    X, y = rows(3)
    X[:, 0] = y
    model = NearestCentroid().fit(X, y)
    np.testing.assert_allclose(
        probabilities(linear_form(model), X), model.predict_proba(X), atol=1e-9
    )


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_linear_has_no_form(name):
    assert linear_form(OTHERS[name].fit(*rows(3))) is None


def test_the_classes_that_a_refusal_names_are_scikit_learns():
    assert len(NAMED) == 10
    # scikit-learn 1.10 drops it
    missing = set(NAMED) - {path.rpartition(".")[2] for path in OFFERED}
    assert missing <= {"PassiveAggressiveClassifier"}


@pytest.mark.filterwarnings("ignore::featurestore.training.contract.NotConverged")
@pytest.mark.parametrize("path", OFFERED)
def test_every_class_that_a_refusal_names_has_a_form_as_a_head(path):
    head = fitted(path, rows(3)[0].astype(np.float32), n_classes=3)
    form = linear_form(head.model_)
    fresh = rows(3, seed=5)[0].astype(np.float32)
    np.testing.assert_allclose(probabilities(form, fresh), head.predict_proba(fresh), atol=1e-6)


def test_subclass_may_predict_otherwise():
    class Flipped(LogisticRegression):
        def predict_proba(self, X):
            return super().predict_proba(X)[:, ::-1]

    assert linear_form(Flipped().fit(*rows(2))) is None


def test_subclass_may_score_otherwise():
    class Cubed(RidgeClassifier):
        def decision_function(self, X):
            return super().decision_function(X) ** 3

    model = CalibratedClassifierCV(Cubed(), ensemble=False, cv=3).fit(*rows(2))
    assert linear_form(model) is None
