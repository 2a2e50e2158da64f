"""Reads weights out of ONNX files. Imports onnx; the graph is never run.

Layers are found by name: a path segment of an initialiser's, a node's or an output's name is the
layer's name (``vgg16/block1_conv1/Conv2D`` is ``block1_conv1``), as exporters of Keras models
write them. Keras 3's own export numbers every segment once more (``functional_1/block1_conv1_1``);
that is understood when it holds for all layers. Arrays are turned from ONNX's layouts into Keras's,
and must then have the layer's shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import numpy_helper

from featurestore.backbones.weights import ExpectedLayer, LayerValues, refuse_unmatched
from featurestore.errors import InvalidInput, NotFound

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_SEGMENTS = re.compile(r"[/:;]")
_NUMBER = re.compile(r"_\d+$")
_KERNEL_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Node:
    """One operator with weights: the name segments that may be its layer's, and its arrays."""

    op: str
    segments: frozenset[str]
    arrays: tuple[np.ndarray, ...]
    transposed: bool
    label: str

    def describe(self) -> str:
        return f"{self.label} {', '.join(str(array.shape) for array in self.arrays)}"

    def without_numbers(self) -> _Node:
        """Return the node with the last ``_1`` off each segment."""
        bare = frozenset(_NUMBER.sub("", segment) for segment in self.segments)
        return replace(self, segments=bare)


def read_onnx(path: Path, expected: Sequence[ExpectedLayer]) -> list[LayerValues]:
    """Return the arrays of each expected layer from the initialisers of an ``.onnx`` file.

    Read are Conv (also depthwise and grouped), Gemm, MatMul with a following Add, and
    BatchNormalization. A kernel (O, I, h, w) becomes (h, w, I, O); a depthwise one (C·m, 1, h, w)
    becomes (h, w, C, m). A dense layer after a flatten takes its rows as they are: right for
    exports of Keras models, which flatten (height, width, channels).

    Raises
    ------
    InvalidInput
        The file is no ONNX model, keeps its arrays in other files, or lacks layers; all are named,
        and what the file holds instead.
    NotFound
        The file is gone.
    """
    try:
        nodes = list(_weighted_nodes(path, _load(path).graph))
    except (TypeError, ValueError, LookupError) as error:
        # Damaged names come as bytes, damaged nodes without outputs; protobuf lets both through.
        raise _corrupt(path, f"its graph is damaged: {error}") from error
    as_written = _match(nodes, expected)
    numbered = _match([node.without_numbers() for node in nodes], expected)
    match = as_written if len(as_written.missing) <= len(numbered.missing) else numbered
    spare = (node.describe() for index, node in enumerate(nodes) if index not in match.used)
    refuse_unmatched(path, missing=match.missing, unused=spare)
    return match.layers


@dataclass(frozen=True)
class _Match:
    """What was found: arrays of the layers found, which nodes served, and what is missing."""

    layers: list[LayerValues]
    used: set[int]
    missing: list[str]


def _match(nodes: Sequence[_Node], expected: Sequence[ExpectedLayer]) -> _Match:
    match = _Match([], set(), [])
    for layer in expected:
        fitting = (
            (index, values)
            for index, node in enumerate(nodes)
            if layer.name in node.segments
            and index not in match.used
            and (values := _keras_layout(node, layer)) is not None
        )
        index, values = next(fitting, (-1, None))
        if values is None:
            match.missing.append(layer.describe())
        else:
            match.used.add(index)
            match.layers.append(values)
    return match


def _load(path: Path) -> onnx.ModelProto:
    try:
        # External data would make the file name other files to read.
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise NotFound(f"weights file {path}: there is no such file") from error
    except (OSError, DecodeError, ValueError) as error:
        raise _corrupt(path, str(error)) from error
    if not model.graph.node:
        raise _corrupt(path, "it holds no graph")
    return model


def _weighted_nodes(path: Path, graph: onnx.GraphProto) -> Iterator[_Node]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in graph.node:
        names = [name for name in node.input[1:] if name in tensors]
        if node.op_type == "BatchNormalization":
            if len(names) != 4:
                continue
        elif node.op_type not in _KERNEL_OPS or not names:
            continue
        outputs = list(node.output)
        if len(names) == 1:
            bias, total = _following_bias(node, consumers, tensors)
            names += bias
            outputs += total
        labels = [node.name, *names, *outputs]
        yield _Node(
            op=node.op_type,
            segments=frozenset(part for label in labels for part in _SEGMENTS.split(label)),
            arrays=tuple(_array(path, tensors[name]) for name in names),
            transposed=any(one.name == "transB" and one.i for one in node.attribute),
            label=node.name or names[0],
        )


def _following_bias(
    node: onnx.NodeProto,
    consumers: dict[str, list[onnx.NodeProto]],
    tensors: dict[str, onnx.TensorProto],
) -> tuple[list[str], list[str]]:
    """Return the initialiser that the next node adds, and that node's output."""
    after = consumers.get(node.output[0], [])
    if len(after) == 1 and after[0].op_type == "Add":
        added = [name for name in after[0].input if name in tensors]
        return added, list(after[0].output) if added else []
    return [], []


def _array(path: Path, tensor: onnx.TensorProto) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidInput(
            f"weights file {path}: {tensor.name} lies in another file, which is not read",
            next_step="save the model as one file: onnx.save(onnx.load(FILE), NEW_FILE)",
        )
    if tensor.data_type not in _FLOATS:
        return np.empty((0,), np.float32)
    try:
        return np.asarray(numpy_helper.to_array(tensor), np.float32)
    except (ValueError, TypeError) as error:
        raise _corrupt(path, f"{tensor.name}: {error}") from error


def _keras_layout(node: _Node, layer: ExpectedLayer) -> LayerValues | None:
    """Return a node's arrays as the layer holds them, None where they do not fit."""
    if node.op == "BatchNormalization":
        values = _normalisation(node, layer)
    else:
        kernel, *rest = node.arrays
        values = [_kernel(kernel, node, layer), *(np.ravel(array) for array in rest)]
        if len(values) == len(layer.weights) + 1 and not values[-1].any():
            values.pop()  # exporters write a bias of zeros for a layer without one
    shapes = [array.shape for array in values]
    fits = shapes == [weight.shape for weight in layer.weights]
    return [np.ascontiguousarray(array) for array in values] if fits else None


def _kernel(kernel: np.ndarray, node: _Node, layer: ExpectedLayer) -> np.ndarray:
    if node.op == "Conv" and kernel.ndim == 4:
        if layer.kind != "DepthwiseConv2D":
            return kernel.transpose(2, 3, 1, 0)
        height, width, channels, multiplier = layer.weights[0].shape
        if kernel.shape != (channels * multiplier, 1, height, width):
            return kernel
        grouped = kernel.reshape(channels, multiplier, height, width)
        return grouped.transpose(2, 3, 0, 1)
    return kernel.T if node.transposed else kernel


def _normalisation(node: _Node, layer: ExpectedLayer) -> list[np.ndarray]:
    """Pick what the layer has of ONNX's scale, bias, mean and variance."""
    held = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), node.arrays, strict=True))
    return [held[weight.role] for weight in layer.weights if weight.role in held]


def _corrupt(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"weights file {path}: cannot be read as an ONNX model: {reason}",
        next_step="copy or download the file again",
    )
