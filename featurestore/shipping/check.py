"""Holding a written model to the probabilities that its run recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from featurestore.errors import IntegrityError
from featurestore.shipping.settings import CLASSES_DIFFER, CONVERSION_TOLERANCE, Check

# From uint8 images (n, H, W, 3) to float32 probabilities (n, n_classes).
Predict = Callable[[np.ndarray], np.ndarray]


def check_model(
    written: Predict,
    reference: Predict,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    tolerance: float,
    classes_differ: float = CLASSES_DIFFER,
) -> Check:
    """Return how far a written model is from its run, having found it near enough.

    Parameters
    ----------
    written
        The model as read back from disk.
    reference
        The same head on the same network's features, without the file in between.
    batches
        Images, and the probabilities that the run recorded for them.
    tolerance
        Largest difference of a probability from the recorded one.
    classes_differ
        Largest share of images with another predicted class; one image is always allowed.

    Raises
    ------
    IntegrityError
        A probability differs by more, more predicted classes differ, or the file computes
        something else than was written.
    """
    recorded, shipped, again = (
        np.concatenate(parts)
        for parts in zip(
            *((expected, written(images), reference(images)) for images, expected in batches),
            strict=True,
        )
    )
    if shipped.shape != recorded.shape:
        raise IntegrityError(
            f"the written model gives probabilities {shipped.shape}: expected {recorded.shape}"
        )
    differences = np.abs(shipped.astype(np.float64) - recorded)
    check = Check(
        images=len(recorded),
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        classes_differ=int(np.sum(shipped.argmax(axis=1) != recorded.argmax(axis=1))),
        classes_allowed=max(1, int(classes_differ * len(recorded))),
        tolerance=tolerance,
        conversion_difference=float(np.abs(shipped.astype(np.float64) - again).max()),
    )
    # Not `>`: a probability that is not a number fails every comparison.
    if not check.conversion_difference <= CONVERSION_TOLERANCE:
        raise IntegrityError(
            f"the written model does not compute what was written: on {check.images} images a "
            f"probability differs by {check.conversion_difference:.2g} from the same network's, "
            f"expected at most {CONVERSION_TOLERANCE}",
            next_step="nothing was kept; choose another format, and report it with fs doctor",
        )
    if not check.largest_difference <= tolerance:
        raise IntegrityError(
            f"the model differs from its run: on {check.images} images a probability differs by "
            f"{check.largest_difference:.2g}, expected at most {tolerance:g}, and "
            f"{check.classes_differ} predicted classes differ "
            f"({check.conversion_difference:.2g} is due to writing the file)",
            next_step="nothing was kept; embed with --precision float32 and train again, or allow "
            "it with --tolerance",
        )
    if check.classes_differ > check.classes_allowed:
        raise IntegrityError(
            f"the model differs from its run: {check.classes_differ} of {check.images} predicted "
            f"classes differ, expected at most {check.classes_allowed}, though no probability "
            f"differs by more than {check.largest_difference:.2g}",
            next_step="nothing was kept; embed with --precision float32 and train again; or look "
            f"at more images with --check, or allow it with --tolerance {tolerance:g}, which named "
            "counts alone",
        )
    return check
