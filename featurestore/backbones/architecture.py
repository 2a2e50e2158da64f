"""Builds the networks of the table and names their weights. Imports Keras."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import keras
import numpy as np

from featurestore.backbones.table import BackboneSpec
from featurestore.backbones.weights import ExpectedLayer, ExpectedWeight, LayerValues
from featurestore.errors import InvalidInput
from featurestore.recipe import Precision

Built = TypeVar("Built")

_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def in_fresh_session(build: Callable[[], Built], *, precision: Precision = "float32") -> Built:
    """Call `build` where Keras numbers layers from zero and computes in `precision`.

    Keras keeps its name counters and dtype policy for each thread, so a thread of its own gives
    ``conv2d_94`` the same name in every process and leaves the caller's session as it was;
    ``keras.utils.clear_session`` would also drop the caller's. Variables are float32 under every
    precision.
    """

    def build_here() -> Built:
        keras.config.set_dtype_policy(_POLICIES[precision])
        return build()

    data_format = keras.config.image_data_format()
    # Unlike the policy, the data format is global; everything here is (height, width, channels).
    keras.config.set_image_data_format("channels_last")
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="keras-build") as session:
            return session.submit(build_here).result()
    finally:
        keras.config.set_image_data_format(data_format)


def build_model(
    spec: BackboneSpec, *, size: tuple[int, int], top: bool, precision: Precision = "float32"
) -> Any:
    """Return the Keras network of a backbone with untrained weights.

    Raises
    ------
    InvalidInput
        The network cannot take images of `size`.
    """

    def build() -> Any:
        return construct(spec, size=size, top=top, weights=None)

    _check_size(spec, size)
    return in_fresh_session(build, precision=precision)


def construct(spec: BackboneSpec, *, size: tuple[int, int], top: bool, weights: str | None) -> Any:
    """Call the backbone's Keras constructor, in the session of the caller."""
    constructor = getattr(keras.applications, spec.constructor)
    with warnings.catch_warnings():
        # "input_shape is undefined or non-square": known, and no concern of the weights' value.
        warnings.simplefilter("ignore", UserWarning)
        return constructor(include_top=top, weights=weights, input_shape=(*size, 3))


def cut_at(model: Any, layer: str, *, precision: Precision = "float32") -> Any:
    """Return the part of `model` from its input to the output of `layer`; weights are shared."""

    def build() -> Any:
        return keras.Model(model.inputs[0], _output_of(model, layer), name=model.name)

    return in_fresh_session(build, precision=precision)


def tail_from(model: Any, layer: str, *, precision: Precision = "float32") -> Any:
    """Return the part of `model` from the output of `layer` to its own; weights are shared.

    Every path through `model` must go through `layer`, as `cuts.last_frozen_layer` finds one.
    """

    def build() -> Any:
        return keras.Model(_output_of(model, layer), model.outputs[0], name="tail")

    return in_fresh_session(build, precision=precision)


def cut_names(model: Any) -> list[str]:
    """Return what `cut_at` takes: the names of layers, and of the sums and products between them.

    Not of layers within a nested model, whose outputs belong to a graph of their own.
    """
    return [operation.name for operation in model.operations]


def _output_of(model: Any, name: str) -> Any:
    # Not `layer.output`, which of a nested model is a tensor of its own graph.
    (node,) = (node for node in graph_nodes(model) if node.operation.name == name)
    return node.output_tensors[0]


def graph_nodes(model: Any) -> Iterator[Any]:
    """Yield the calls that a functional model is made of: each operation of it, called once."""
    # Keras tells them nowhere else; its own `plot_model` reads the same attribute.
    for nodes in model._nodes_by_depth.values():
        yield from nodes


def weighted_layers(model: Any) -> Iterator[Any]:
    """Yield the layers that hold weights, in the model's (topological) order, nested ones in place.

    ConvNeXt nests its downsampling layers in Sequential models.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from weighted_layers(layer)
        elif float_weights(layer):
            yield layer


def float_weights(layer: Any) -> list[Any]:
    """Return a layer's floating-point variables in Keras's order.

    Left out is only Normalization's integer ``count``, which no forward pass reads; it is last, so
    positions are those of Keras's files.
    """
    return [weight for weight in layer.weights if "int" not in str(weight.dtype)]


def expected_layers(model: Any, cut: Any) -> list[ExpectedLayer]:
    """Describe the weighted layers of `cut`, which is `model` up to some layer.

    Keys are counted over the whole `model`, as Keras counts them when it saves one.
    """
    keys = dict(_file_keys(model, "layers"))
    branch_ends = _branch_ends(model)
    return [
        ExpectedLayer(
            name=layer.name,
            kind=type(layer).__name__,
            key=keys[id(layer)],
            ends_branch=id(layer) in branch_ends,
            weights=tuple(
                ExpectedWeight(weight.name, tuple(int(side) for side in weight.shape))
                for weight in float_weights(layer)
            ),
        )
        for layer in weighted_layers(cut)
    ]


def _branch_ends(model: Any) -> set[int]:
    """Return the ids of the layers that end a residual branch: the last kernel before each sum."""
    producers = {id(layer.output): (place, layer) for place, layer in enumerate(model.layers)}
    ends: set[int] = set()
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Add):
            continue
        last = (-1, 0)
        for tensor in layer.input:
            place, before = producers.get(id(tensor), (-1, None))
            while before is not None and not isinstance(before.input, list):
                if any(weight.name.endswith("kernel") for weight in before.weights):
                    last = max(last, (place, id(before)))
                    break
                place, before = producers.get(id(before.input), (-1, None))
        ends.add(last[1])
    return ends


def _file_keys(model: Any, prefix: str) -> Iterator[tuple[int, str]]:
    """Yield (id, key) of every layer: its class in snake case, numbered within its model.

    Source: keras/src/saving/saving_lib.py, ``_save_container_state``.
    """
    counts: dict[str, int] = {}
    for layer in model.layers:
        stem = snake_case(type(layer).__name__)
        number = counts.get(stem, 0)
        counts[stem] = number + 1
        key = f"{prefix}/{stem}_{number}" if number else f"{prefix}/{stem}"
        if isinstance(layer, keras.Model):
            yield from _file_keys(layer, f"{key}/layers")
        yield id(layer), key


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in keys. Source: keras/src/utils/naming.py."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def assign(cut: Any, values: list[LayerValues], *, spec: BackboneSpec) -> None:
    """Write `values`, one list for each weighted layer of `cut` in order, into the network."""
    for layer, arrays in zip(weighted_layers(cut), values, strict=True):
        for variable, array in zip(float_weights(layer), arrays, strict=True):
            variable.assign(array)
        if isinstance(layer, keras.layers.Normalization):
            if spec.module == "efficientnet":
                layer.adapt_variance.assign(_efficientnet_variance(arrays[1]))
            # The layer computes with constants that it derives from its weights here.
            layer.finalize_state()


def _efficientnet_variance(variance: np.ndarray) -> np.ndarray:
    """Fold into a variance the division that EfficientNet's ImageNet weights need.

    Keras divides by sqrt(0.229, 0.224, 0.225) after Normalization only when it was called with
    ``weights="imagenet"``; with the same file in hand it would silently compute something else.
    (x - m) / sqrt(v) / sqrt(s) = (x - m) / sqrt(v * s), so the network here has it for every
    source. Source: keras/src/applications/efficientnet.py and
    https://github.com/tensorflow/tensorflow/issues/49930.
    """
    return variance * np.array([0.229, 0.224, 0.225], np.float32)


def _check_size(spec: BackboneSpec, size: tuple[int, int]) -> None:
    if min(size) < spec.minimum_size:
        raise InvalidInput(
            f"size {size[0]}x{size[1]}: expected at least "
            f"{spec.minimum_size}x{spec.minimum_size} pixels for {spec.name}",
            next_step=f"--size {spec.default_size}",
        )
