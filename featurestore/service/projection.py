"""A feature set as points of a plane: near each other where the features are.

Rows are pooled over space and scaled to length 1 (`unit_vectors`); these vectors are what
neighbours are looked for in, too. Their columns are standardised, reduced to 50 principal
components and laid out by t-SNE. Of more than 10,000 rows a sample is laid out so, and every other
row is placed among the nearest of the sample: t-SNE of all would take hours.

Source: van der Maaten & Hinton 2008 (t-SNE); van der Maaten 2014 (Barnes-Hut); Halko, Martinsson &
Tropp 2011 (subspace iteration); Kobak & Berens 2019 (principal components as the start).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterator

import numpy as np

METHOD_VERSION = 1
"""Of everything here that moves a point or a vector; it is in the names of the stored files."""

_BLOCK_ROWS = 2048
_COMPONENTS = 50
_SPARE_COMPONENTS = 10  # carried along, so that the last of the kept ones converge as well
_PASSES = 6
# Below this share of its size, a column's spread is what is left of rounding.
_CONSTANT = 1e-7
_FEWEST_FOR_NEIGHBOURS = 12

Progress = Callable[[str, float], None]
"""Told the name of a step, and which share of it is done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows are laid out. Equal settings and vectors give equal points on one machine.

    Parameters
    ----------
    landmarks
        Most rows that t-SNE lays out.
    iterations
        Of t-SNE: from 750 to 1,000 its divergence fell by 1 % on 4,000 photographs.
    anchors
        Landmarks among which another row is placed.
    """

    landmarks: int = 10_000
    iterations: int = 750
    perplexity: float = 30.0
    anchors: int = 5
    seed: int = 0


def unit_vectors(rows: np.ndarray) -> np.ndarray:
    """Return features (n, *feature_shape), averaged over all axes but the last, at length 1.

    (n, channels) float16; a row of zeros stays one.
    """
    pooled = rows.astype(np.float32)
    if pooled.ndim > 2:
        pooled = pooled.mean(axis=tuple(range(1, pooled.ndim - 1)))
    _divide(pooled, np.abs(pooled).max(axis=1))  # or squares overflow or vanish
    _divide(pooled, np.linalg.norm(pooled, axis=1))
    return pooled.astype(np.float16)


def principal_scores(vectors: np.ndarray, *, seed: int = 0, tell: Progress) -> np.ndarray:
    """Return the first principal components of standardised columns: (N, ≤ 50) float32.

    The vectors, (N, channels), may be a mapped file: they are read block by block, eight times, and
    memory holds one block and a few numbers a row. The sign of a component is that of its largest
    weight.
    """
    rows, columns = vectors.shape
    mean, spread = _moments(vectors)
    wide = min(columns, rows, _COMPONENTS + _SPARE_COMPONENTS)
    basis = _orthonormal(np.random.default_rng(seed).standard_normal((columns, wide)))
    image = np.zeros((columns, wide))
    for at in range(_PASSES):
        tell("components", at / (_PASSES + 1))
        image = np.zeros((columns, wide))
        for _, block in _standardised(vectors, mean, spread):
            image += block.T @ (block @ basis.astype(np.float32))
        if at < _PASSES - 1:
            basis = _orthonormal(image)
    values, inner = np.linalg.eigh(basis.T @ image)  # ascending
    order = np.argsort(-values, kind="stable")[:_COMPONENTS]
    axes = basis @ inner[:, order]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    scores = np.empty((rows, axes.shape[1]), np.float32)
    for start, block in _standardised(vectors, mean, spread):
        scores[start : start + len(block)] = block @ axes.astype(np.float32)
    tell("components", 1.0)
    return scores


def flat_points(scores: np.ndarray) -> np.ndarray:
    """Return the first two components as points: (N, 2) float32 within -1 and 1."""
    points = np.zeros((len(scores), 2), np.float32)
    points[:, : min(2, scores.shape[1])] = scores[:, :2]
    return _framed(points)


def neighbour_points(scores: np.ndarray, layout: Layout, *, tell: Progress) -> np.ndarray:
    """Return points that keep neighbours together: (N, 2) float32 within -1 and 1."""
    rows = len(scores)
    if rows < _FEWEST_FOR_NEIGHBOURS:
        return flat_points(scores)
    if rows <= layout.landmarks:
        return _framed(_laid_out(scores, layout, tell))
    rng = np.random.default_rng(layout.seed)
    chosen = np.sort(rng.choice(rows, layout.landmarks, replace=False))
    points = np.empty((rows, 2), np.float32)
    points[chosen] = _laid_out(scores[chosen], layout, tell)
    others = np.setdiff1d(np.arange(rows), chosen)
    known = scores[chosen]
    for start in range(0, len(others), _BLOCK_ROWS):
        tell("placing", start / len(others))
        block = others[start : start + _BLOCK_ROWS]
        points[block] = _placed(scores[block], known, points[chosen], layout.anchors)
    return _framed(points)


def place_among(distances: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return where something lies that has these distances (k,) to points (k, 2): (2,) float32.

    The mean of the points, each weighing as one over its squared distance; on a point that it has
    no distance to.
    """
    return np.asarray(_weighted(distances[None] ** 2, points[None])[0], np.float32)


def describe(rows: int, layout: Layout = Layout()) -> str:  # frozen
    """Return in a sentence how so many rows are laid out."""
    first = (
        "Features averaged over space, scaled to length 1, standardised, 50 principal components"
    )
    if rows < _FEWEST_FOR_NEIGHBOURS:
        return f"{first}, of which the first two are shown."
    if rows <= layout.landmarks:
        return f"{first}, laid out by t-SNE (perplexity {layout.perplexity:g})."
    return (
        f"{first}; {layout.landmarks:,} rows laid out by t-SNE (perplexity {layout.perplexity:g}), "
        f"each of the other {rows - layout.landmarks:,} placed among its {layout.anchors} nearest."
    )


def _divide(rows: np.ndarray, lengths: np.ndarray) -> None:
    lengths[lengths == 0] = 1
    rows /= lengths[:, None]


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        yield start, np.asarray(vectors[start : start + _BLOCK_ROWS], np.float32)


def _moments(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each column and its spread; infinity for a column that is constant."""
    total = np.zeros(vectors.shape[1])
    squares = np.zeros(vectors.shape[1])
    for _, block in _blocks(vectors):
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.square(block, dtype=np.float64).sum(axis=0)
    mean, square = total / len(vectors), squares / len(vectors)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    spread[spread <= _CONSTANT * np.sqrt(square)] = np.inf
    return mean, spread


def _standardised(
    vectors: np.ndarray, mean: np.ndarray, spread: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    centre, scale = mean.astype(np.float32), (1 / spread).astype(np.float32)
    for start, block in _blocks(vectors):
        block -= centre
        block *= scale
        yield start, block


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.qr(columns)[0])


def _laid_out(scores: np.ndarray, layout: Layout, tell: Progress) -> np.ndarray:
    from sklearn.manifold import TSNE  # half a second, and only the process that lays out needs it

    tell("layout", 0.0)
    # One thread: sums in another order would move points, and a service has others to serve.
    method = TSNE(
        2,
        perplexity=min(layout.perplexity, (len(scores) - 1) / 3),
        init=_start(scores, layout.seed),
        max_iter=layout.iterations,
        random_state=layout.seed,
        n_jobs=1,
        verbose=2,
    )
    with contextlib.redirect_stdout(_Iterations(layout.iterations, tell)):
        points = method.fit_transform(scores)
    return np.asarray(points, np.float32)


def _start(scores: np.ndarray, seed: int) -> np.ndarray:
    """Return the first two components, tiny; noise where they say nothing."""
    start = np.zeros((len(scores), 2))
    start[:, : min(2, scores.shape[1])] = scores[:, :2]
    noise = np.random.default_rng(seed).standard_normal(start.shape)
    size = start[:, 0].std()
    # Equal rows would keep equal places for ever: a thousandth of noise lets them part.
    return np.asarray(1e-4 * (start / size + 1e-3 * noise if size > 0 else noise), np.float32)


def _placed(scores: np.ndarray, known: np.ndarray, points: np.ndarray, anchors: int) -> np.ndarray:
    squared = (
        np.square(scores).sum(axis=1)[:, None]
        - 2 * (scores @ known.T)
        + np.square(known).sum(axis=1)
    )
    nearest = np.argpartition(squared, anchors - 1, axis=1)[:, :anchors]
    return _weighted(np.take_along_axis(squared, nearest, axis=1), points[nearest])


def _weighted(squared: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the means of (n, k, 2) points under weights of one over (n, k) squared distances."""
    smallest = squared.min(axis=1, keepdims=True)
    # Rounding leaves no distance exactly zero: one a millionth of the next counts as none.
    floor = np.maximum(1e-6 * squared.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    weights = np.maximum(smallest, floor) / np.maximum(squared, floor)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((points * weights[..., None]).sum(axis=1))


def _framed(points: np.ndarray) -> np.ndarray:
    """Return the points moved and scaled, alike in both directions, to between -1 and 1."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max()) / 2
    return np.asarray((points - (low + high) / 2) / (size or 1.0), np.float32)


class _Iterations(io.TextIOBase):
    """Reads from what scikit-learn prints how far it is; it has no other way of telling.

    Should it print something else one day, the layout is the same and its progress stands still.
    """

    def __init__(self, iterations: int, tell: Progress) -> None:
        self._iterations = iterations
        self._tell = tell

    def write(self, text: str) -> int:
        found = re.search(r"Iteration (\d+)", text)
        if found is not None:
            self._tell("layout", min(1.0, int(found[1]) / self._iterations))
        return len(text)
