"""Writes one network's weights in every kind of file, without the exporters that write ONNX."""

from __future__ import annotations

import h5py
import keras
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from featurestore.backbones.architecture import float_weights, weighted_layers


def write_legacy_h5(model, path, *, rename=lambda name: name):
    """Write a Keras 2 weights file: `layer_names`, and `weight_names` of each layer."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [rename(layer.name).encode() for layer in model.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.4.0"
        for layer in model.layers:
            name = rename(layer.name)
            group = file.create_group(name)
            names = [f"{name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [one.encode() for one in names]
            for one, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(one, data=weight.numpy())


def write_onnx(model, path, *, suffix="", bias_as_add=False, edit=lambda tensor: tensor):
    """Write the weighted layers as ONNX nodes, named as Keras's exporters name them."""
    nodes, tensors = [], []
    previous = "input"

    def tensor(name, array):
        tensors.append(edit(numpy_helper.from_array(np.ascontiguousarray(array), name)))
        return name

    for layer in weighted_layers(model):
        scope = f"functional_1/{layer.name}{suffix}"
        arrays = [weight.numpy() for weight in float_weights(layer)]
        kind = type(layer).__name__
        output = f"{scope}/BiasAdd:0"
        if kind == "BatchNormalization":
            held = dict(zip([weight.name for weight in float_weights(layer)], arrays, strict=True))
            channels = arrays[0].shape
            fields = [
                ("gamma", held.get("gamma", np.ones(channels, np.float32))),
                ("beta", held["beta"]),
                ("moving_mean", held["moving_mean"]),
                ("moving_variance", held["moving_variance"]),
            ]
            inputs = [tensor(f"{scope}/{role}:0", array) for role, array in fields]
            nodes.append(
                helper.make_node("BatchNormalization", [previous, *inputs], [output], f"{scope}/bn")
            )
        elif kind == "Dense":
            inputs = [
                tensor(f"{scope}/{index}:0", array)
                for index, array in enumerate([arrays[0].T, *arrays[1:]])
            ]
            nodes.append(helper.make_node("Gemm", [previous, *inputs], [output], scope, transB=1))
        else:
            kernel, *bias = arrays
            if kind == "DepthwiseConv2D":
                height, width, channels, multiplier = kernel.shape
                kernel = kernel.transpose(2, 3, 0, 1).reshape(
                    channels * multiplier, 1, height, width
                )
            else:
                kernel = kernel.transpose(3, 2, 0, 1)
            inputs = [tensor(f"{scope}/convolution/ReadVariableOp:0", kernel)]
            biases = [tensor(f"{scope}/Squeeze:0", array) for array in bias]
            if bias_as_add and biases:
                nodes.append(helper.make_node("Conv", [previous, *inputs], [f"{scope}/c"], scope))
                nodes.append(helper.make_node("Add", [f"{scope}/c", *biases], [output]))
            else:
                nodes.append(
                    helper.make_node("Conv", [previous, *inputs, *biases], [output], scope)
                )
        previous = output
    graph = helper.make_graph(
        nodes,
        "functional_1",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(previous, TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph), str(path))


def with_head(base):
    """Return a trainable classifier on a base, as a user fine-tunes and saves one."""
    return keras.Sequential(
        [base, keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    )
