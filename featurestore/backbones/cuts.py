"""Where a network is cut for fine-tuning: which layers are trained, and which is the last before.

A cut is an operation whose output every path to the network's output goes through: what comes
before it can be computed once, what comes after needs nothing else. Imports Keras.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from featurestore.backbones.architecture import float_weights, graph_nodes
from featurestore.errors import InvalidInput


def unfrozen_layers(model: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the layers with trainable weights that `names` mean, in the model's order.

    A name is that of a layer or of a model nested in this one; or else their start up to an
    underscore (``block5`` means ``block5_conv1`` and so on); or a pattern with ``*``, ``?`` or
    ``[``. A layer whose name is the start of others (``conv1``, beside ``conv1_bn``) is meant
    alone.

    Raises
    ------
    InvalidInput
        A name means no layer, or only layers without trainable weights; none is given.
    """
    if not names:
        raise InvalidInput("no layer to unfreeze is named", next_step="--unfreeze block5")
    layers = list(_named_layers(model))
    chosen: set[str] = set()
    for name in names:
        means = _meaning(name, [path for _, path, _ in layers])
        meant = [(own, layer) for own, path, layer in layers if means(path)]
        trainable = {own for own, layer in meant if _is_trainable(layer)}
        if not trainable:
            _refuse(name, [path[-1] for _, path, _ in layers], known=bool(meant), model=model)
        chosen |= trainable
    return tuple(own for own, _, _ in layers if own in chosen)


def train_only(model: Any, names: Sequence[str]) -> None:
    """Freeze every layer but those that `names` mean, as `unfrozen_layers`; no name: every one."""
    unfrozen = set(unfrozen_layers(model, names)) if names else set()
    for name, _, layer in _named_layers(model):
        layer.trainable = name in unfrozen


def last_frozen_layer(model: Any, unfrozen: Sequence[str]) -> str:
    """Return the name of the latest operation that can be the cut before `unfrozen`.

    It has none of them at or before it, and the network's output depends on what lies before it
    through its output alone. The network's input is such an operation, and the answer where one of
    the first layers is unfrozen.

    Parameters
    ----------
    unfrozen
        As `unfrozen_layers` gives them.
    """
    operations = model.operations  # in topological order
    places = {id(operation): place for place, operation in enumerate(operations)}
    # Every operation lies on a path from the input to the output, so one of them is passed by all
    # paths exactly where no connection leads past it in a topological order.
    reached = 0
    cut = operations[0].name
    ends = _furthest_ends(model, places)
    trained = set(unfrozen)
    for place, operation in enumerate(operations):
        if trained & {own for own, _, _ in _named_below(operation)}:
            break
        if reached <= place:
            cut = operation.name
        reached = max(reached, ends.get(place, 0))
    return str(cut)


def _furthest_ends(model: Any, places: dict[int, int]) -> dict[int, int]:
    """Return for each operation's place that of the last operation that its output goes to."""
    ends: dict[int, int] = {}
    # Not `layer.input`: of a nested model that is its own first tensor, in a graph apart.
    for node in graph_nodes(model):
        end = places[id(node.operation)]
        for parent in node.parent_nodes:
            start = places[id(parent.operation)]
            ends[start] = max(ends.get(start, 0), end)
    return ends


def _named_layers(model: Any) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    for operation in model.operations:
        yield from _named_below(operation)


def _named_below(operation: Any) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yield (name, names from the outermost model down, layer) of a layer or what it nests."""
    if not isinstance(operation, keras.Layer):
        return
    if not isinstance(operation, keras.Model):
        yield operation.name, (operation.name,), operation
        return
    for layer in operation.layers:
        for name, path, found in _named_below(layer):
            yield name, (operation.name, *path), found


def _meaning(name: str, paths: Sequence[tuple[str, ...]]) -> Callable[[tuple[str, ...]], bool]:
    """Return what tells whether a name means the layer at a path, which is one of `paths`."""
    if any(character in name for character in "*?["):
        return lambda path: any(fnmatch.fnmatchcase(each, name) for each in path)
    if any(name in path for path in paths):
        return lambda path: name in path
    return lambda path: any(each.startswith(f"{name}_") for each in path)


def _is_trainable(layer: Any) -> bool:
    # Normalization holds the mean and deviation of its data: weights that no gradient changes.
    return bool(float_weights(layer)) and not isinstance(layer, keras.layers.Normalization)


def _refuse(name: str, layers: list[str], *, known: bool, model: Any) -> None:
    if known:
        raise InvalidInput(
            f"layer {name!r} of {model.name} has no weights that can be trained",
            next_step="name layers with weights: fs summary shows the parameters of each",
        )
    starts = {"_".join(layer.split("_")[:parts]) for layer in layers for parts in (1, 2, 3)}
    near = difflib.get_close_matches(name, sorted({*layers, *starts}), n=5)
    closest = f"; closest: {', '.join(near)}" if near else ""
    raise InvalidInput(
        f"layer {name!r} to unfreeze: {model.name} has none of that name up to "
        f"{layers[-1]}{closest}",
        next_step="name layers as fs summary shows them, their start up to an underscore, or a "
        "pattern such as 'block7*'",
    )
