"""The three formats of a shipped model: writing one, and running one that was written.

Imports TensorFlow and Keras; tf2onnx and onnxruntime only for ONNX.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.shipping.check import Predict
from featurestore.shipping.settings import INPUT_NAME, OUTPUT_NAME, ModelFormat

# ONNX Runtime reads it since 1.12 (2022).
OPSET = 17
_BATCH = "batch"


def write_model(
    model: Any, path: Path, *, model_format: ModelFormat, metadata: Mapping[str, object]
) -> None:
    """Write a Keras model to `path`, which does not exist; it is not synced.

    Parameters
    ----------
    metadata
        JSON-ready values that an ONNX file carries with it.

    Raises
    ------
    InvalidInput
        The network has an operation that tf2onnx does not know (ConvNeXt's grouped convolutions).
    """
    if model_format == "keras":
        model.save(path)
    elif model_format == "savedmodel":
        # Not model.export: it writes every variable twice (135 MB for 67), and calls the output
        # output_0.
        servable = tf.Module()
        servable.weights = [variable.value for variable in model.variables]
        signature = _traced(model).get_concrete_function()
        tf.saved_model.save(servable, str(path), signatures={"serving_default": signature})
    else:
        onnx.save(_to_onnx(model, metadata), str(path))
        onnx.checker.check_model(str(path), full_check=True)


def read_model(path: Path, *, model_format: ModelFormat) -> Predict:
    """Return what runs a written model: Keras in safe mode, a SavedModel's signature, ONNX Runtime.

    Raises
    ------
    IntegrityError
        The file cannot be read, or has another input or output than was written.
    """
    readers = {"keras": _read_keras, "savedmodel": _read_saved_model, "onnx": _read_onnx}
    try:
        return readers[model_format](path)
    except Exception as error:
        # Around one file: loaders raise anything (TypeError, protobuf's and ONNX Runtime's own).
        raise IntegrityError(
            f"the written {model_format} model cannot be read back: {error}",
            next_step="report it with the output of fs doctor; another format may do",
        ) from error


def _traced(model: Any) -> Any:
    """Return the forward pass as a function of `INPUT_NAME` that gives a dict of `OUTPUT_NAME`."""
    spec = tf.TensorSpec((None, *model.input.shape[1:]), tf.uint8, name=INPUT_NAME)
    return tf.function(
        lambda images: {OUTPUT_NAME: model(images, training=False)}, input_signature=[spec]
    )


def _to_onnx(model: Any, metadata: Mapping[str, object]) -> Any:
    # Not model.export(format="onnx"): it names the output after its last operation.
    import tf2onnx

    traced = _traced(model)
    with _silent("tf2onnx"):
        proto, _ = tf2onnx.convert.from_function(
            traced, input_signature=traced.input_signature, opset=OPSET
        )
    _refuse_unknown(proto)
    _fix_captured(proto, traced.get_concrete_function().graph.captures)
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = _BATCH
    proto.producer_name, proto.graph.doc_string = "featurestore", ""
    onnx.helper.set_model_props(proto, {key: _text(value) for key, value in metadata.items()})
    return proto


def _refuse_unknown(proto: Any) -> None:
    # tf2onnx writes operations that it does not know as they are, and logs it.
    unknown = {
        node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)
    }
    if unknown:
        raise InvalidInput(
            f"this network cannot be written as ONNX: tf2onnx does not know "
            f"{', '.join(sorted(unknown))}, which it is made of",
            next_step="name a .keras file or a .savedmodel folder",
        )


def _fix_captured(proto: Any, captures: Any) -> None:
    """Leave no input but the images: tf2onnx makes one of every constant that a layer holds.

    Normalization holds its mean and variance so, also inside EfficientNet.
    """
    held = {inner.name: outer for outer, inner in captures}
    used = {name for node in proto.graph.node for name in node.input}
    for extra in [one for one in proto.graph.input if one.name != INPUT_NAME]:
        if extra.name in used:
            value = onnx.numpy_helper.from_array(held[extra.name].numpy(), extra.name)
            proto.graph.initializer.append(value)
        proto.graph.input.remove(extra)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _read_keras(path: Path) -> Predict:
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    # Not model.predict: it compiles with XLA, which is much slower on a CPU.
    run = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    return lambda images: np.asarray(run(tf.constant(images)))


def _read_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))

    def predict(images: np.ndarray) -> np.ndarray:
        # Asked for here: the signature alone would let its variables go.
        serve = loaded.signatures["serving_default"]
        return np.asarray(serve(**{INPUT_NAME: tf.constant(images)})[OUTPUT_NAME])

    return predict


def _read_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: images})[0])

    return predict
