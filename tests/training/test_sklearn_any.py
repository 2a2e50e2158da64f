"""Any classifier of scikit-learn: which there are, what is refused, and that models come back."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.testing.heads import HeadConformance, MemoryRows, blobs, varied
from featurestore.training.contract import FitOptions
from featurestore.training.heads import build_settings, create_head, setting_names, stored_settings
from featurestore.training.runs import new_run_id
from featurestore.training.sklearn_any import _classifiers
from featurestore.training.sklearn_settings import SklearnSettings
from featurestore.training.views import ViewRows

TREE = "sklearn.tree.DecisionTreeClassifier"
SHALLOW = {"parameters": {"max_depth": 4}}
NO_PARAMETERS = {}
NEEDED = {
    "QuadraticDiscriminantAnalysis": {"reg_param": 0.1},
    "RadiusNeighborsClassifier": {"radius": 1e4},
}
# They take objects.
NOT_FROM_JSON = {
    "ClassifierChain",
    "FixedThresholdClassifier",
    "MultiOutputClassifier",
    "OneVsOneClassifier",
    "OneVsRestClassifier",
    "OutputCodeClassifier",
    "StackingClassifier",
    "TunedThresholdClassifierCV",
    "VotingClassifier",
}


class TestDecisionTree(HeadConformance):
    head = TREE
    fields = SHALLOW


class TestCalibratedRidge(HeadConformance):
    head = "sklearn.linear_model.RidgeClassifier"
    fields = NO_PARAMETERS


class TestNaiveBayes(HeadConformance):
    head = "sklearn.naive_bayes.GaussianNB"
    fields = NO_PARAMETERS


def fit(path, train, n_classes=3, seed=0, **parameters):
    head = create_head(build_settings(path, {"parameters": parameters}))
    return head.fit(train, None, options=FitOptions(n_classes=n_classes, seed=seed))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::featurestore.training.contract.NotConverged")
@pytest.mark.parametrize("path", sorted(_classifiers()))
def test_every_classifier_works_or_says_why_not(path, tmp_path):
    name, train = path.rpartition(".")[2], blobs(120, n_classes=3)
    if name in NOT_FROM_JSON:
        with pytest.raises(InvalidInput, match=r"estimators?"):
            fit(path, train)
        return
    if name == "SelfTrainingClassifier":  # its default is no estimator after all
        with pytest.raises(InvalidInput, match="refuses the fit"):
            fit(path, train)
        return
    head = fit(path, train, **NEEDED.get(name, {}))
    expected = head.predict_proba(train.features)
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)
    head.save(tmp_path / "model.skops")
    loaded = create_head(head.settings).load(
        tmp_path / "model.skops", feature_shape=(2, 2, 8), n_classes=3
    )
    np.testing.assert_array_equal(loaded.predict_proba(train.features), expected)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sklearn.tree.DecisionTree", "did you mean sklearn.tree.DecisionTreeClassifier"),
        ("sklearn.svm.RandomForestClassifier", "mean sklearn.ensemble.RandomForestClassifier"),
        ("sklearn.tree._classes.DecisionTreeClassifier", "expected a public class"),
        ("sklearn.tree.DecisionTreeRegressor", "no classifier of that name"),
        ("sklearn.datasets.load_files", "expected a public class"),
        ("sklearn.externals.Thing", "no classifier of that name"),
        ("sklearn.", "expected a public class"),
        ("sklearn.tree.DecisionTreeClassifier.fit", "expected a public class"),
        ("sklearn.pipeline.Pipeline", "no classifier of that name"),
    ],
)
def test_other_names_are_refused(path, message):
    with pytest.raises(InvalidInput, match=message):
        build_settings(path, {})


def test_no_module_is_imported_at_the_wish_of_a_name():
    code = (
        "import sys\n"
        "from featurestore.training.heads import build_settings\n"
        "from featurestore.errors import InvalidInput\n"
        "try:\n"
        "    build_settings('sklearn.conftest.Thing', {})\n"
        "except InvalidInput:\n"
        "    print('sklearn.conftest' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_dept": 3}, "no parameter max_dept: did you mean max_depth"),
        ([3], "expected a JSON object"),
        ({"max_depth": {1, 2}}, "expected JSON values"),
        ({"max_depth": float("nan")}, "expected JSON values"),
    ],
)
def test_other_parameters_are_refused(parameters, message):
    with pytest.raises(InvalidInput, match=message):
        build_settings(TREE, {"parameters": parameters})


def test_value_that_scikit_learn_refuses_is_named():
    with pytest.raises(InvalidInput, match="'max_depth' parameter of DecisionTreeClassifier"):
        fit(TREE, blobs(30, n_classes=3), max_depth=-1)


def test_settings_round_trip_through_json():
    settings = build_settings(TREE, {"parameters": {"max_depth": 3, "class_weight": {"0": 2}}})
    stored = json.loads(json.dumps(settings.to_dict()))
    assert stored_settings(TREE, stored) == settings
    assert setting_names(TREE) == ("estimator", "parameters")
    assert settings.head == TREE


def test_settings_do_not_change_with_what_they_were_made_of():
    given = {"max_depth": 3}
    settings = SklearnSettings(estimator=TREE, parameters=given)
    given["max_depth"] = 4
    settings.to_dict()["parameters"]["max_depth"] = 5
    assert settings.parameters == {"max_depth": 3}
    hash(settings)


def test_stored_settings_of_another_class_are_refused():
    stored = build_settings(TREE, {}).to_dict()
    with pytest.raises(IntegrityError, match="estimator"):
        stored_settings("sklearn.tree.ExtraTreeClassifier", stored)


def test_run_of_a_class_that_is_gone_can_still_be_read():
    gone = "sklearn.tree.ForgottenClassifier"
    settings = stored_settings(gone, {"estimator": gone, "parameters": {}})
    with pytest.raises(InvalidInput, match="no classifier of that name"):
        create_head(settings).fit(blobs(9, n_classes=3), None, options=FitOptions(n_classes=3))


def test_run_id_is_a_file_name():
    from datetime import UTC, datetime

    run_id = new_run_id(TREE, "cats", created=datetime(2024, 1, 2, tzinfo=UTC), suffix="ab")
    assert run_id == "sklearn.tree.DecisionTreeClassifier-cats-20240102T000000-ab"


@pytest.mark.parametrize(
    ("path", "parameters", "uses"),
    [
        (TREE, {}, True),
        (TREE, {"random_state": 7}, False),
        (TREE, {"random_state": None}, True),
        ("sklearn.naive_bayes.GaussianNB", {}, False),
        ("sklearn.linear_model.RidgeClassifierCV", {}, True),  # its folds
        ("sklearn.neighbors.KNeighborsClassifier", {}, False),
    ],
)
def test_seed_is_used_where_the_class_or_its_calibration_draws(path, parameters, uses):
    settings = build_settings(path, {"parameters": parameters})
    assert settings.uses_seed is uses


def test_seed_becomes_the_random_state_unless_it_is_named():
    train = blobs(30, n_classes=3)
    assert fit(TREE, train, seed=5).model_.random_state == 5
    assert fit(TREE, train, seed=2**32 + 5).model_.random_state == 5
    assert fit(TREE, train, seed=5, random_state=8).model_.random_state == 8
    assert fit(TREE, train, seed=5, random_state=None).model_.random_state == 5


def test_weights_of_classes_can_be_named():
    rows = blobs(60, n_classes=2, distance=0.1)
    shares = [
        fit(TREE, rows, 2, max_depth=1, class_weight=weight).predict_proba(rows.features)[:, 1]
        for weight in (None, {"1": 9.0})
    ]
    assert shares[1].mean() > shares[0].mean() + 0.2


def test_forest_of_nothing_but_one_class_in_a_fold_is_still_calibrated():
    kept = np.array([0, 1, 2, 3, 4, 5, 6, 8])  # of the second class three rows
    rows = blobs(20, n_classes=2)
    head = fit("sklearn.svm.SVC", MemoryRows(rows.features[kept], rows.labels[kept]), 2)
    assert "3 folds instead of 5" in head.notes_[0]


def test_answers_that_are_no_numbers_are_refused():
    head = fit("sklearn.semi_supervised.LabelPropagation", blobs(60, n_classes=3))
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InvalidInput, match="LabelPropagation: the probabilities of 1 of 1 rows"),
    ):
        head.predict_proba(np.full((1, 2, 2, 8), 30_000, np.float16))


def test_trees_of_points_are_not_kept_in_files(tmp_path):
    head = fit(
        "sklearn.neighbors.KNeighborsClassifier", blobs(60, n_classes=3), algorithm="ball_tree"
    )
    with pytest.raises(InvalidInput, match="BallTree"):
        head.save(tmp_path / "model.skops")


NEAREST = "sklearn.neighbors.KNeighborsClassifier"


@pytest.mark.parametrize("metric", ["manhattan", "cosine"])
@pytest.mark.parametrize("algorithm", ["brute", "auto"])
def test_more_neighbours_than_rows_are_refused(algorithm, metric):
    train = blobs(30, n_classes=3)
    asked = {"algorithm": algorithm, "metric": metric}
    with pytest.raises(InvalidInput, match="31 neighbours are more than the 30 training rows"):
        fit(NEAREST, train, n_neighbors=31, **asked)
    fit(NEAREST, train, n_neighbors=30, **asked)


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("sklearn.linear_model.RidgeClassifierCV", {"alphas": []}),
        ("sklearn.ensemble.VotingClassifier", {"estimators": [["a", "b"]]}),
        ("sklearn.neural_network.MLPClassifier", {"hidden_layer_sizes": [10**13]}),
    ],
)
def test_parameters_that_break_the_fit_are_bad_input(path, parameters):
    with pytest.raises(InvalidInput, match="scikit-learn refuses the fit"):
        fit(path, blobs(30, n_classes=3), **parameters)


def test_rows_that_break_the_prediction_are_bad_input():
    train = blobs(30, n_classes=3)
    head = fit("sklearn.neighbors.RadiusNeighborsClassifier", train, radius=0.01)
    with pytest.raises(InvalidInput, match="cannot give probabilities for rows 0 to 29"):
        head.predict_proba(train.features + 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("path", "parameters", "said"),
    [
        ("sklearn.naive_bayes.GaussianNB", {}, ""),
        ("sklearn.neighbors.KNeighborsClassifier", {}, "its fit takes no weights"),
        ("sklearn.linear_model.LogisticRegressionCV", {}, "it sets rows apart by itself"),
        ("sklearn.linear_model.SGDClassifier", {}, ""),
        ("sklearn.linear_model.SGDClassifier", {"early_stopping": True}, "sets rows apart"),
    ],
)
def test_what_a_class_makes_of_views_is_noted(path, parameters, said):
    rows = ViewRows(varied(blobs(90, n_classes=3), views=2), views=2, seed=0)
    notes = [note for note in fit(path, rows, **parameters).notes_ if "view" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_weights_reach_a_class_that_takes_them():
    rows = varied(blobs(90, n_classes=2, distance=0.4), views=2)
    head = fit(
        "sklearn.linear_model.LogisticRegression", ViewRows(rows, views=2, seed=0), 2, C=1e-5
    )
    X = np.concatenate([rows.features, *rows.versions]).reshape(270, -1).astype("float64")
    y = np.tile(rows.labels, 3)
    expected = LogisticRegression(C=1e-5).fit(X, y, sample_weight=np.full(270, 1 / 3))
    np.testing.assert_allclose(head.model_.coef_, expected.coef_, rtol=1e-4)
