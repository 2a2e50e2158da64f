"""What a learning curve says, in words; an outlook beyond the sizes tried is marked as one.

From how many labels on a level is reached is said of the measured means, which have their errors.
"""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.compare.learning_curve import CurvePoint, Gain
from featurestore.compare.results import Estimate
from featurestore.compare.sentences import count_text, points_text

_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_WITHIN = 0.01
_LITTLE = 0.01  # a gain certainly below one point
_DOUBLING = 2.1


def curve_sentence(
    label: str, points: Sequence[CurvePoint], *, last_gain: Gain | None, train_rows: int
) -> str:
    """Return how far a head comes, with how few labels, and whether more of them still help."""
    if not points:
        return f"{label}: could not be fitted to any size"
    last = points[-1]
    every = "all " if last.labels == train_rows and train_rows > 1 else ""
    parts = [f"{label}: {_accuracy(last.accuracy)} with {every}{_labels(last.labels)}"]
    end = _mean(last)
    reached = max((level for level in _LEVELS if level <= end), default=None)
    if reached is not None and len(points) > 1:
        first = _first_staying(points, reached)
        parts.append(
            f"measured mean {reached:g} or more "
            + (
                f"from {_labels(first)} on"
                if first < last.labels
                else "with no fewer of those tried"
            )
        )
    within = _first_staying(points, end - _WITHIN)
    if within < last.labels:
        parts.append(f"measured mean within 1 point of the last from {_labels(within)} on")
    if last_gain is not None:
        parts.append(_gain(last_gain))
    return "; ".join(parts)


def _gain(gain: Gain) -> str:
    found = gain.difference
    value, interval = found.value or 0.0, found.interval
    low, high = (interval.low, interval.high) if interval is not None else (value, value)
    verb = "gained" if value >= 0 else "lost"
    text = (
        f"from {gain.fewer:,} to {gain.more:,} labels it {verb} {points_text(abs(value))} points "
        f"(95 % {points_text(low)} to {points_text(high)}): "
    )
    if high < _LITTLE:
        small = "a gain, but a small one" if low > 0 else "a gain of less than a point, if any"
        return f"{text}{small}; more labels of this kind are probably worth little"
    if low <= 0:
        return text + "whether more labels would help cannot be told"
    # Over a longer stretch the rise may have been at its beginning, and have ended since.
    rising = gain.more <= _DOUBLING * gain.fewer
    return text + ("still rising, so more labels may well help" if rising else "a gain")


def _first_staying(points: Sequence[CurvePoint], level: float) -> int:
    """Return the smallest size from which on every measured mean is at least `level`."""
    first = points[-1].labels
    for point in reversed(points):
        if _mean(point) < level - 1e-12:
            break
        first = point.labels
    return first


def _mean(point: CurvePoint) -> float:
    return point.accuracy.value or 0.0


def _accuracy(found: Estimate) -> str:
    interval = found.interval
    text = f"accuracy {found.value or 0.0:.3f}"
    return text if interval is None else f"{text} (95 % {interval.low:.3f} to {interval.high:.3f})"


def _labels(count: int) -> str:
    return count_text(count, "label")
