"""Fitting heads to growing parts of the training split, and scoring them on another split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from featurestore.compare.crossed import crossed_difference, crossed_share
from featurestore.compare.curve_sentences import curve_sentence
from featurestore.compare.curve_sizes import check_sizes, default_sizes, nested_order
from featurestore.compare.learning_curve import (
    CurvePoint,
    Gain,
    HeadCurve,
    LearningCurve,
    Skipped,
)
from featurestore.compare.sentences import count_text
from featurestore.errors import InvalidInput, NotFound
from featurestore.training.contract import (
    DEFAULT_MEMORY_BYTES,
    Features,
    Head,
    HeadSettings,
    SampleRows,
)
from featurestore.training.evaluation import predict
from featurestore.training.head_specs import head_label
from featurestore.training.rows import Loaded, Subset, stored_bytes
from featurestore.training.settings import stops_early
from featurestore.training.train import TrainOptions, check_trainable, fit_head
from featurestore.training.views import AskedViews, count_views

Progress = Callable[[int, int, str], None]
"""Told fits done, fits in all, and which comes next."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """How a learning curve is measured.

    Parameters
    ----------
    sizes
        Numbers of labelled images; None: `default_sizes`.
    seeds
        Seeds 0 to seeds - 1; each draws its own images and fits with itself.
    split
        Where accuracy is measured. What is chosen by a curve on the test split is no longer tested
        by it.
    memory_bytes
        Most that rows, held or being fitted to, may take. Both splits are held, and read once,
        where they take at most a quarter; a fit may take what is left.
    views
        Train on so many of the stored views of each image; sizes count images still. None: on the
        images as they are.
    """

    sizes: tuple[int, ...] | None = None
    seeds: int = 3
    split: str = "validation"
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    views: AskedViews | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InvalidInput(f"learning curve: expected at least 1 seed, found {self.seeds}")
        if self.split == "train":
            raise InvalidInput(
                "learning curve: accuracy on the split that heads are trained on says nothing of "
                "other images",
                next_step="leave --split out, or give --split test",
            )


def learning_curve(
    features: Features,
    settings: Sequence[HeadSettings],
    options: CurveOptions = CurveOptions(),  # frozen
) -> LearningCurve:
    """Measure accuracy against the number of labelled images. Nothing is written.

    For each seed the images of a smaller size are among those of a larger one, and every class has
    a row in each. With all rows a fit is that of `fs train` with the same seed. A head that cannot
    be fitted to a size is reported for it, and the others go on.

    Raises
    ------
    InvalidInput
        There are no training rows, or none of a class; sizes are out of range, the set has fewer
        views than asked for, or no head could be fitted to any size.
    NotFound
        The split has no rows.
    """
    train, evaluated = _splits(features, options.split)
    n_classes = len(features.class_names)
    sizes = (
        default_sizes(len(train), n_classes)
        if options.sizes is None
        else check_sizes(options.sizes, rows=len(train), n_classes=n_classes)
    )
    views = options.views
    if views is not None:
        views = count_views(features.name, features.recipe, views)
    memory_bytes = options.memory_bytes
    held = stored_bytes(train) * (1 + (views or 0)) + stored_bytes(evaluated)
    if held <= memory_bytes // 4:
        train, evaluated = Loaded(train, views=views or 0), Loaded(evaluated)
        memory_bytes -= held
    fits = _Fits(
        train=train,
        evaluated=evaluated,
        validation=evaluated if options.split == "validation" else _validation(features),
        n_classes=n_classes,
        orders=[nested_order(train.labels, seed=seed) for seed in range(options.seeds)],
        memory_bytes=memory_bytes,
        views=views,
    )
    total = len(settings) * len(sizes) * options.seeds
    curves: list[HeadCurve] = []
    for each in settings:
        done = len(curves) * len(sizes) * options.seeds
        curves.append(_curve(fits, each, sizes, told=_told(options.progress, done, total)))
    if not any(curve.points for curve in curves):
        skipped = curves[0].skipped[0]
        raise InvalidInput(
            f"learning curve of {features.name}: no head could be fitted to any size; "
            f"{curves[0].label}, {skipped.labels} labels: {skipped.reason}"
        )
    return LearningCurve(
        feature_set=features.name,
        fingerprint=features.fingerprint,
        split=options.split,
        rows=len(evaluated),
        curves=tuple(curves),
        majority_share=float(np.bincount(evaluated.labels).max() / len(evaluated)),
        notes=tuple(_curve_notes(options, views)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Fits:
    """What every fit of a curve shares; `orders` are of the training rows, one a seed.

    `validation` is for heads that stop early.
    """

    train: SampleRows
    evaluated: SampleRows
    validation: SampleRows | None
    n_classes: int
    orders: Sequence[np.ndarray]
    memory_bytes: int
    views: int | None

    def right(self, settings: HeadSettings, *, size: int, seed: int) -> tuple[np.ndarray, Head]:
        """Return which evaluated rows a head gets right, (n,) float64, and the head."""
        rows: SampleRows = self.train
        if size < len(self.train):
            rows = Subset(self.train, np.sort(self.orders[seed][:size]))
        # Only early stopping looks at other rows. Scoring them after each epoch for a history that
        # nobody reads would cost as much as the training on as many rows.
        head = fit_head(
            settings,
            rows,
            self.validation if stops_early(settings) else None,
            n_classes=self.n_classes,
            options=TrainOptions(seed=seed, memory_bytes=self.memory_bytes, views=self.views),
        )
        found = predict(head, self.evaluated)
        return (found.probabilities.argmax(axis=1) == found.labels).astype(np.float64), head


def _curve(
    fits: _Fits, settings: HeadSettings, sizes: Sequence[int], *, told: Callable[[str], None]
) -> HeadCurve:
    label = head_label(settings)
    right: dict[int, np.ndarray] = {}  # (seeds, n) by size
    skipped: list[Skipped] = []
    noted: dict[str, list[int]] = {}
    for size in sizes:
        scores: list[np.ndarray] = []
        try:
            for seed in range(len(fits.orders)):
                told(f"{label}, {size:,} labels, seed {seed}")
                if scores and size == len(fits.train) and not settings.uses_seed:
                    scores.append(scores[0])  # the same rows, and a fit without chance
                    continue
                score, head = fits.right(settings, size=size, seed=seed)
                scores.append(score)
                for note in head.notes_:
                    noted.setdefault(note, []).append(size)
        except InvalidInput as error:
            skipped.append(Skipped(size, error.message))
            continue
        right[size] = np.stack(scores)
    points = tuple(
        CurvePoint(
            labels=size,
            accuracy=crossed_share(scores),
            by_seed=tuple(scores.mean(axis=1).tolist()),
        )
        for size, scores in right.items()
    )
    gain = _last_gain(right)
    return HeadCurve(
        label=label,
        points=points,
        sentence=curve_sentence(label, points, last_gain=gain, train_rows=len(fits.train)),
        last_gain=gain,
        skipped=tuple(skipped),
        notes=(*_notes(noted), *_stopping_note(fits, settings)),
    )


def _last_gain(right: Mapping[int, np.ndarray]) -> Gain | None:
    more = max(right, default=0)
    fewer = max((size for size in right if size <= more / 2), default=None)
    if fewer is None:
        return None
    return Gain(
        fewer=fewer,
        more=more,
        difference=crossed_difference(right[more] - right[fewer]),
    )


def _notes(noted: Mapping[str, list[int]]) -> list[str]:
    return [
        f"{note} (with {', '.join(f'{size:,}' for size in dict.fromkeys(sizes))} labels)"
        for note, sizes in noted.items()
    ]


def _stopping_note(fits: _Fits, settings: HeadSettings) -> list[str]:
    if not stops_early(settings) or fits.validation is not fits.evaluated:
        return []
    return ["early stopping chose the epoch by the rows that accuracy was measured on"]


def _curve_notes(options: CurveOptions, views: int | None) -> list[str]:
    notes = []
    if views is not None:
        notes.append(f"heads were trained on {count_text(views, 'stored view')} of each image")
    if options.seeds == 1:
        notes.append(
            "with one seed the intervals count which images were evaluated, and not which were "
            "labelled"
        )
    if options.split == "test":
        notes.append("what is chosen by this curve has been chosen on the test split")
    return notes


def _told(progress: Progress | None, done: int, total: int) -> Callable[[str], None]:
    count = done

    def tell(text: str) -> None:
        nonlocal count
        if progress is not None:
            progress(count, total, text)
        count += 1

    return tell


def _validation(features: Features) -> SampleRows | None:
    if "validation" not in features.splits or not len(features["validation"]):
        return None
    return features["validation"]


def _splits(features: Features, split: str) -> tuple[SampleRows, SampleRows]:
    present = {name: features[name] for name in features.splits if len(features[name])}
    check_trainable(features, present)
    if split not in present:
        raise NotFound(
            f"feature set {features.name} has no {split} rows: it has {', '.join(present)}",
            next_step="choose another with --split",
        )
    return present["train"], present[split]
