"""One request each for features and for predictions, and what its answer says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.names import printable
from featurestore.remote.connection import Ask, Connection, Reply, TooLarge, Unusable, quoted
from featurestore.remote.images import NPY, Source, form, parse_npy
from featurestore.stores.contract import FEATURE_DTYPES

_JSON = "application/json"
_EMBED, _PREDICT = quoted("v1", "embed"), quoted("v1", "predict")
_NAMED = 8
_WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError)


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """An image without features: its place in what was asked for, its name, and why."""

    place: int
    name: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """Features of those images that could be read.

    Parameters
    ----------
    features
        (n, *feature_shape) of the recipe's stored type, in the order of the images.
    places
        (n,) int64: which image each row is of.
    """

    features: np.ndarray
    places: np.ndarray
    unreadable: tuple[Unreadable, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
    """What a head says of one image.

    Parameters
    ----------
    predicted
        A class name; None where `reason` says why there is none.
    probabilities
        (classes,) float32 in the order of `Predictions.class_names`, or None.
    origin
        ``feature set``, ``online cache`` or ``computed``; None with a reason.
    """

    name: str
    predicted: str | None
    probabilities: np.ndarray | None
    origin: str | None
    reason: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What the head of one run says of images, in their order."""

    run: str
    class_names: tuple[str, ...]
    images: tuple[Predicted, ...]


def embed_batch(
    images: Sequence[Source], connection: Connection, *, recipe: str, skip: bool
) -> Embedded:
    """Return the features of images that are sent together.

    Parameters
    ----------
    skip
        Leave out images that cannot be read; else one is an error.

    Raises
    ------
    InvalidInput
        An image cannot be read, alone is too large, or the recipe is not one.
    TooLarge
        The images together are more than the service takes.
    """
    try:
        return _features(images, connection, recipe=recipe)
    except TooLarge as error:
        if len(images) > 1:
            raise
        if skip:
            return _without(images[0], error.message)
        raise InvalidInput(
            f"{printable(images[0].name)}: {error.message}", next_step=error.next_step
        ) from error
    except Unusable:
        # Perhaps for an image that cannot be read. Numbers as JSON are several times as long, but
        # tell image by image; and what could be computed is known there by now.
        found = _readable(images, connection, recipe=recipe)
    if found.unreadable and not skip:
        raise InvalidInput(
            f"{len(found.unreadable)} of {len(images)} images sent together cannot be read: "
            + "; ".join(f"{printable(e.name)}: {e.reason}" for e in found.unreadable[:_NAMED])
            + ("; …" if len(found.unreadable) > _NAMED else ""),
            next_step="leave them out, or embed_readable, which tells which they are",
        )
    return found


def predict_batch(images: Sequence[Source], connection: Connection, *, run: str) -> Predictions:
    """Return what a head says of images that are sent together.

    Raises
    ------
    TooLarge
        The images together are more than the service takes. One that is too large alone has that
        for a reason.
    """
    if len(images) == 1:
        try:
            return _predictions(images, connection, run=run)
        except TooLarge as error:
            about = connection.get_json(quoted("v1", "runs", run))
            reason = Predicted(images[0].name, None, None, None, error.message)
            return Predictions(about["id"], tuple(about["features"]["class_names"]), (reason,))
    return _predictions(images, connection, run=run)


def _predictions(images: Sequence[Source], connection: Connection, *, run: str) -> Predictions:
    reply = _post(images, connection, Ask(path=_PREDICT, query={"run": run}), accept=_JSON)
    found = connection.parse_object(reply, path=_PREDICT)
    try:
        classes = tuple(str(name) for name in found["class_names"])
        pairs = zip(images, found["results"], strict=True)
        predicted = tuple(_predicted(image, result, len(classes)) for image, result in pairs)
        return Predictions(str(found["run"]), classes, predicted)
    except _WRONG as error:
        raise connection.no_service(f"{_PREDICT} answers what is no prediction: {error}") from error


def _predicted(image: Source, result: dict[str, Any], classes: int) -> Predicted:
    if "reason" in result:
        return Predicted(image.name, None, None, None, str(result["reason"]))
    probabilities = np.array(result["probabilities"], np.float32)
    if probabilities.shape != (classes,):
        raise ValueError(f"{probabilities.shape} probabilities of {classes} classes")
    return Predicted(
        image.name, str(result["predicted"]), probabilities, str(result["origin"]), None
    )


def _features(images: Sequence[Source], connection: Connection, *, recipe: str) -> Embedded:
    """Return the features of images that can all be read."""
    reply = _post(images, connection, Ask(path=_EMBED, query={"recipe": recipe}), accept=NPY)
    try:
        features = parse_npy(reply.body)
        if features.dtype.name not in FEATURE_DTYPES or len(features) != len(images):
            raise ValueError(f"{features.dtype} {features.shape} for {len(images)} images")
    except _WRONG as error:
        raise connection.no_service(f"{_EMBED} answers what are no features: {error}") from error
    # Writable and in the machine's byte order, whatever was sent.
    features = features.astype(features.dtype.newbyteorder("="))
    return Embedded(features, np.array([image.place for image in images], np.int64), ())


def _readable(images: Sequence[Source], connection: Connection, *, recipe: str) -> Embedded:
    """Return the features of those images that can be read."""
    reply = _post(images, connection, Ask(path=_EMBED, query={"recipe": recipe}), accept=_JSON)
    found = connection.parse_object(reply, path=_EMBED)
    try:
        pairs = list(zip(images, found["results"], strict=True))
        dtype = np.dtype({name: name for name in FEATURE_DTYPES}[found["dtype"]])
        read = [(image, result) for image, result in pairs if "reason" not in result]
        features = np.array([result["features"] for _, result in read], dtype)
        return Embedded(
            features.reshape(len(read), *found["feature_shape"]),
            np.array([image.place for image, _ in read], np.int64),
            tuple(
                Unreadable(image.place, image.name, str(result["reason"]))
                for image, result in pairs
                if "reason" in result
            ),
        )
    except _WRONG as error:
        raise connection.no_service(f"{_EMBED} answers what are no features: {error}") from error


def _without(image: Source, reason: str) -> Embedded:
    nothing = np.empty((0,), np.float32)
    return Embedded(nothing, np.empty(0, np.int64), (Unreadable(image.place, image.name, reason),))


def _post(images: Sequence[Source], connection: Connection, asked: Ask, *, accept: str) -> Reply:
    kind, body = form(images)
    headers = {"Accept": accept, "Content-Type": kind}
    return connection.ask(dataclasses.replace(asked, method="POST", headers=headers, body=body))
