"""The solver of many logistic regressions at once, against scikit-learn's."""

import tracemalloc

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from featurestore.training.logistic_solver import Problem, share, solve, solver_bytes


def rows(count, columns, n_classes, *, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % n_classes
    X = rng.normal(size=(count, columns)) * np.geomspace(3, 0.1, columns)
    X[:, :n_classes] += np.eye(n_classes)[y] * 2
    X -= X.mean(axis=0)
    return X / np.sqrt((X**2).sum() / count), y


def exact(X, y, problem):
    # Newton's method: L-BFGS leaves relative errors up to 1e-4 where c is large.
    model = LogisticRegression(C=problem.c, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    return model.fit(X, y, sample_weight=problem.weights)


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


SHAPES = pytest.mark.parametrize(
    ("count", "columns"), [(60, 200), (60, 60), (61, 60), (300, 20)], ids=lambda n: f"{n}"
)


@SHAPES
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("c", [0.1, 30.0, 10000.0])
def test_solution_is_scikit_learns_to_within_the_stated_bound(count, columns, n_classes, c):
    X, y = rows(count, columns, n_classes)
    problem = Problem(c, np.ones(count))
    shared = share(X)
    for tolerance in (1e-2, 1e-6):
        (found,) = solve(shared, y, [problem], tolerance=tolerance, max_iter=5000)
        assert found.distance <= tolerance
        model = exact(X, y, problem)
        # 1e-8: where the reference itself is off.
        assert relative(shared.coefficients(found.point).T, model.coef_) <= tolerance + 1e-8
    np.testing.assert_allclose(found.intercept, model.intercept_, atol=1e-4)
    logits = model.decision_function(X).reshape(count, -1)
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)


@pytest.mark.parametrize(("count", "columns"), [(60, 100), (150, 20)])
def test_problems_together_are_the_problems_alone(count, columns):
    X, y = rows(count, columns, 3)
    rng = np.random.default_rng(1)
    problems = [
        Problem(c, rng.integers(0, 3, count).astype(float)) for c in (0.1, 3.0, 500.0) * 20
    ]  # 60 problems of 3 outputs: two batches
    shared = share(X)
    together = list(solve(shared, y, problems, tolerance=1e-6, max_iter=5000))
    for problem, found in zip(problems, together, strict=True):
        (alone,) = solve(shared, y, [problem], tolerance=1e-6, max_iter=5000)
        assert relative(found.point, alone.point) < 1e-5
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-3)
    for problem, found in zip(problems[:3], together, strict=False):
        coefficients = shared.coefficients(found.point).T
        assert relative(coefficients, exact(X, y, problem).coef_) < 2e-6


@pytest.mark.parametrize("columns", [100, 5])
def test_rows_of_weight_zero_do_not_matter(columns):
    X, y = rows(40, columns, 2)
    weights = (np.arange(40) % 5 > 0).astype(float)
    shared = share(X)
    (found,) = solve(shared, y, [Problem(10.0, weights)], tolerance=1e-7, max_iter=5000)
    (flipped,) = solve(
        shared, np.where(weights > 0, y, 1 - y), [Problem(10.0, weights)],
        tolerance=1e-7, max_iter=5000,
    )  # fmt: skip
    np.testing.assert_array_equal(found.point, flipped.point)


@pytest.mark.parametrize("name", ["equal rows", "one row differs", "no signal", "rare class"])
@pytest.mark.parametrize("c", [0.1, 100.0, 10000.0])
def test_degenerate_rows_reach_the_optimum(name, c):
    rng = np.random.default_rng(0)
    y = np.arange(1200) % 2
    X = {
        "equal rows": np.repeat(rng.normal(size=(40, 6)), 30, axis=0),
        "one row differs": np.eye(1200, 6, k=-1),  # rows 0 and 7 to 1199 are zero
        "no signal": np.repeat(rng.normal(size=(600, 6)), 2, axis=0),
        "rare class": rng.normal(size=(1200, 6)),
    }[name]
    if name == "rare class":
        y = (np.arange(1200) == 7).astype(np.int64)
    X = X - X.mean(axis=0)
    X /= np.sqrt((X**2).sum() / len(X))
    problem = Problem(c, np.ones(1200))
    shared = share(X)
    (found,) = solve(shared, y, [problem], tolerance=1e-6, max_iter=5000)
    assert found.distance <= 1e-6
    model = exact(X, y, problem)
    difference = np.linalg.norm(shared.coefficients(found.point).T - model.coef_)
    assert difference <= 1e-6 * max(np.linalg.norm(model.coef_), 1e-3) + 1e-9


def test_stops_at_max_iter_and_says_how_far_it_is():
    X, y = rows(60, 200, 2)
    found = list(
        solve(share(X), y, [Problem(c, np.ones(60)) for c in (1e-3, 1e4)],
              tolerance=1e-6, max_iter=4)
    )  # fmt: skip
    assert found[0].distance <= 1e-6
    assert (found[1].iterations, found[1].distance > 1e-6) == (4, True)


@pytest.mark.parametrize(
    ("count", "columns", "n_classes", "problems"),
    [
        (300, 1000, 2, 50),
        (300, 1000, 7, 50),
        (3000, 200, 2, 50),
        (3000, 200, 40, 5),
        (900, 30, 300, 2),
    ],
)
def test_memory_is_within_the_stated_bytes(count, columns, n_classes, problems):
    X, y = rows(count, columns, n_classes=min(n_classes, columns))
    y = np.arange(count) % n_classes
    many = [Problem(30.0, np.ones(count)) for _ in range(problems)]
    tracemalloc.start()
    for _ in solve(share(X), y, many, tolerance=1e-2, max_iter=30):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stated = solver_bytes(count, columns, n_classes=n_classes, problems=problems)
    assert peak <= stated + 2**20
    assert peak >= 0.3 * stated  # and the bound is no excuse


@pytest.mark.parametrize(("count", "columns"), [(60, 100), (150, 20)])
@pytest.mark.parametrize("c", [1e-8, 1e-11, 1e-14])
def test_intercept_is_fitted_however_strong_the_penalty(c, count, columns):
    X, _ = rows(count, columns, 3)
    for n_classes, shares in ((2, [0.1, 0.9]), (3, [0.1, 0.3, 0.6])):
        y = np.repeat(np.arange(n_classes), np.multiply(shares, count).round().astype(int))
        (found,) = solve(share(X), y, [Problem(c, np.ones(count))], tolerance=1e-5, max_iter=500)
        logits = found.logits if n_classes > 2 else np.hstack([0 * found.logits, found.logits])
        np.testing.assert_allclose(softmax(logits, axis=1).mean(axis=0), shares, atol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("columns", [1, 7])
def test_features_that_tell_nothing_leave_the_intercept_alone(columns):
    # The two rows of the first class cancel: X.T @ residuals is exactly zero at every intercept.
    X, y = np.zeros((5, columns)), np.array([0, 0, 1, 1, 1])
    X[:2, 0] = -np.sqrt(2.5), np.sqrt(2.5)
    for c in (1e-3, 1.0, 1e6):
        (found,) = solve(share(X), y, [Problem(c, np.ones(5))], tolerance=1e-5, max_iter=500)
        np.testing.assert_allclose(share(X).coefficients(found.point), 0, atol=1e-6)
        np.testing.assert_allclose(found.intercept, np.log(3 / 2), rtol=1e-4)


@pytest.mark.filterwarnings("error")
def test_search_is_open_where_only_the_intercept_moves():
    # No row of the second class counts, so its intercept falls without end; the others cancel.
    X, y = np.zeros((6, 7)), np.arange(6) % 2
    X[[0, 2], 0] = -np.sqrt(3), np.sqrt(3)
    (found,) = solve(share(X), y, [Problem(1e6, 1.0 - y)], tolerance=1e-5, max_iter=99)
    assert found.iterations > 2
    assert np.isfinite(found.intercept).all() and found.intercept < -14
