"""A backbone cut, filled with weights and compiled. Imports TensorFlow: import it lazily."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from featurestore.backbones.architecture import (
    assign,
    build_model,
    cut_at,
    cut_names,
    expected_layers,
)
from featurestore.backbones.preprocessing import preprocess
from featurestore.backbones.sources import read_weights
from featurestore.backbones.table import BackboneSpec
from featurestore.backbones.weights import WeightsSource, weights_digest
from featurestore.errors import InvalidInput, UnstorableFeatures
from featurestore.recipe import Pooling, Precision, StoredDtype

CPU_BATCH = 32
GPU_BATCH = 256

# Features and which rows are finite, perhaps still being computed: NumPy waits for them.
_Launched = tuple[Any, Any]
Forward = Callable[[np.ndarray], _Launched]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network to load. Plain values: it can be sent to another process.

    Parameters
    ----------
    layer
        The cut layer; None is the table's.
    size
        (height, width) in pixels; None is the backbone's default.
    precision
        The type to compute in; see `precision.resolve_precision` for ``auto``.
    dtype
        The type features are returned in.
    batch_size
        Images in one forward pass; None is 32 on a CPU and 256 on a GPU. Halved when it does not
        fit in memory.
    """

    spec: BackboneSpec
    weights: WeightsSource
    layer: str | None = None
    pooling: Pooling = "none"
    size: tuple[int, int] | None = None
    precision: Precision = "float32"
    dtype: StoredDtype = "float16"
    batch_size: int | None = None


class Network:
    """A cut backbone that turns images into features. One caller at a time.

    Every row is computed by the same compiled shape: short batches are padded and cut, so a row
    does not depend on its neighbours. (Measured on CPU: bit-equal for batches of 8 to 128.)

    Attributes
    ----------
    spec, layer, pooling, size, precision, dtype
        As loaded, defaults filled in.
    weights_sha256
        Digest of the weights' values up to the cut; see `weights.weights_digest`.
    weights_path
        The file that the weights were read from, Keras's cached one for ``imagenet``; None for
        random weights.
    feature_shape
        Of one row: (h, w, channels), or (channels,) after pooling or from a dense layer.
    batch_size
        Images in one forward pass now.
    device
        ``cpu`` or the GPU's name.
    """

    def __init__(
        self,
        model: Any,
        settings: NetworkSettings,
        *,
        layer: str,
        weights_sha256: str,
        weights_path: Path | None,
    ) -> None:
        self.spec = settings.spec
        self.layer = layer
        self.pooling = settings.pooling
        self.size = (int(model.input.shape[1]), int(model.input.shape[2]))
        self.precision = settings.precision
        self.dtype = settings.dtype
        self.weights_sha256 = weights_sha256
        self.weights_path = weights_path
        shape = tuple(int(side) for side in model.output.shape[1:])
        self.feature_shape = shape if settings.pooling == "none" else shape[-1:]
        self.device = device_name()
        self.batch_size = settings.batch_size or (CPU_BATCH if self.device == "cpu" else GPU_BATCH)
        self._model = model
        self._forward: Forward | None = None

    @property
    def model(self) -> Any:
        """The cut Keras network itself, from preprocessed images to the cut layer, unpooled."""
        return self._model

    def sized(self, batch_size: int) -> Network:
        """Return the same network, with the same weights in memory, for another batch size."""
        other = copy.copy(self)
        other.batch_size, other._forward = batch_size, None
        return other

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Return the features (n, *feature_shape) of images (n, H, W, 3), uint8 RGB in [0, 255].

        `n` may be any number: more than `batch_size` are computed in several passes.

        Raises
        ------
        UnstorableFeatures
            A feature is not a number or outside the range of `dtype`.
        InvalidInput
            The images have another shape or type, or one image does not fit in memory.
        """
        self._check(batch)
        features = np.empty((len(batch), *self.feature_shape), self.dtype)
        start = 0
        while start < len(batch):
            images = batch[start : start + self.batch_size]
            try:
                rows = self._finish(self._launch(images), len(images), first=start)
            except tf.errors.ResourceExhaustedError as error:
                self._halve(error)
                continue
            features[start : start + len(images)] = rows
            start += len(images)
        return features

    def embed_stream(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of each batch, as `embed` gives them, in order.

        A GPU computes one batch while the next is drawn and copied to it: its results are asked
        for only when the next pass has been launched.
        """
        waiting: tuple[np.ndarray, _Launched | None] | None = None
        for batch in batches:
            self._check(batch)
            launched = self._try_launch(batch)
            if waiting is not None:
                yield self._collect(*waiting)
            waiting = (batch, launched)
        if waiting is not None:
            yield self._collect(*waiting)

    def _check(self, batch: np.ndarray) -> None:
        expected = (*self.size, 3)
        if batch.dtype != np.uint8 or batch.shape[1:] != expected:
            raise InvalidInput(
                f"batch for {self.spec.name}: expected uint8 (n, {', '.join(map(str, expected))}), "
                f"found {batch.dtype} {batch.shape}"
            )

    def _try_launch(self, batch: np.ndarray) -> _Launched | None:
        if len(batch) > self.batch_size:
            return None
        try:
            return self._launch(batch)
        except tf.errors.ResourceExhaustedError:
            return None

    def _collect(self, batch: np.ndarray, launched: _Launched | None) -> np.ndarray:
        """Return a launched batch's features; what did not fit in memory is computed piecewise."""
        if launched is not None:
            try:
                return self._finish(launched, len(batch))
            except tf.errors.ResourceExhaustedError:
                pass
        return self.embed(batch)

    def _launch(self, images: np.ndarray) -> _Launched:
        if self._forward is None:
            self._forward = self.compile(self.batch_size)
        return self._forward(_padded(images, self.batch_size))

    def _finish(self, launched: _Launched, rows: int, *, first: int = 0) -> np.ndarray:
        stored, finite = (np.asarray(output)[:rows] for output in launched)
        self._refuse_unstorable(finite, first=first)
        return stored

    def compile(self, batch_size: int) -> Forward:
        """Return the forward pass for exactly `batch_size` images: features, and which are finite.

        An XLA-compiled or frozen graph was no faster on CPU (freezing: no gain; XLA: much slower).
        """
        signature = [tf.TensorSpec((batch_size, *self.size, 3), tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
        def forward(images: Any) -> tuple[Any, Any]:
            inputs = preprocess(tf.cast(images, tf.float32), mode=self.spec.preprocessing)
            outputs = self._model(inputs, training=False)
            # Sums over many positions lose too much in 8 or 11 bits of mantissa.
            if self.pooling == "avg":
                outputs = tf.reduce_mean(tf.cast(outputs, tf.float32), axis=(1, 2))
            elif self.pooling == "max":
                outputs = tf.reduce_max(outputs, axis=(1, 2))
            stored = tf.cast(outputs, self.dtype)
            rest = list(range(1, len(stored.shape)))
            return stored, tf.reduce_all(tf.math.is_finite(stored), axis=rest)

        traced = forward.get_concrete_function()

        def launch(images: np.ndarray) -> _Launched:
            stored, finite = traced(tf.constant(images))
            return stored, finite

        return launch

    def _halve(self, error: Exception) -> None:
        if self.batch_size == 1:
            raise InvalidInput(
                f"{self.spec.name} at {self.size[0]}x{self.size[1]} in {self.precision}: one "
                f"image does not fit in the memory of {self.device}",
                next_step="choose a smaller --size or backbone, or --precision bfloat16",
            ) from error
        self.batch_size = max(1, self.batch_size // 2)
        self._forward = None

    def _refuse_unstorable(self, finite: np.ndarray, *, first: int) -> None:
        if finite.all():
            return
        rows = tuple(int(row) + first for row in np.flatnonzero(~finite))
        limit = np.finfo(self.dtype).max
        cause = f"a value is not a number or beyond ±{limit:g}, the range of {self.dtype}"
        step = "use --precision float32 and check the weights file"
        if self.dtype == "float16":
            step = "store with --dtype float32"
            if self.precision == "float16":
                step += " and compute with --precision float32"
        raise UnstorableFeatures(
            f"features of {len(rows)} image(s) cannot be stored, at {self.layer} of "
            f"{self.spec.name} (row {rows[0]} of the batch first): {cause}",
            next_step=step,
            rows=rows,
        )


def load_network(settings: NetworkSettings) -> Network:
    """Build a backbone, cut it, fill it with weights, and return it ready to embed.

    Raises
    ------
    InvalidInput
        No such layer, a size or pooling that the network cannot have, or a weights file that is
        corrupt or does not fit; the message names all that is missing.
    NotFound
        ImageNet weights that are neither cached nor can be downloaded.
    """
    prepare_devices()
    spec = settings.spec
    size = settings.size or (spec.default_size, spec.default_size)
    layer = settings.layer or spec.default_layer
    model, top = _model_with_layer(spec, layer, size=size, precision=settings.precision)
    cut = cut_at(model, layer, precision=settings.precision)
    _check_pooling(settings.pooling, spec, layer, cut)
    loaded = read_weights(settings.weights, expected_layers(model, cut), spec=spec, top=top)
    sha256 = weights_digest(loaded.layers)
    assign(cut, loaded.layers, spec=spec)
    return Network(cut, settings, layer=layer, weights_sha256=sha256, weights_path=loaded.path)


def untrained_network(
    spec: BackboneSpec, layer: str, *, size: tuple[int, int], precision: Precision = "float32"
) -> Any:
    """Return the Keras network of a backbone up to `layer`, with weights of no meaning.

    Raises
    ------
    InvalidInput
        No such layer, or a size that the network cannot have.
    """
    model, _ = _model_with_layer(spec, layer, size=size, precision=precision)
    return cut_at(model, layer, precision=precision)


def prepare_devices() -> None:
    """Let GPUs take memory as they need it and compute float32 as float32 (no TF32)."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            # The caller's program has used this GPU already; its choice stands.
            return


def device_name() -> str:
    """Return ``cpu``, or the name of the first GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    details = tf.config.experimental.get_device_details(gpus[0])
    return str(details.get("device_name", "gpu"))


def _model_with_layer(
    spec: BackboneSpec, layer: str, *, size: tuple[int, int], precision: Precision
) -> tuple[Any, bool]:
    """Return the smallest network of the backbone that has `layer`, and whether it has its top."""
    base = build_model(spec, size=size, top=False, precision=precision)
    names = cut_names(base)
    if layer in names:
        return base, False
    default = (spec.default_size, spec.default_size)
    with_top = build_model(
        spec, size=default if spec.fixed_top else size, top=True, precision=precision
    )
    names += [name for name in cut_names(with_top) if name not in names]
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=5)
        near = f"; closest: {', '.join(close)}" if close else ""
        raise InvalidInput(
            f"layer {layer!r}: {spec.name} has no layer of that name{near}",
            next_step=f"fs summary {spec.name} --top",
        )
    if spec.fixed_top and size != default:
        raise InvalidInput(
            f"layer {layer!r} of {spec.name} is part of its dense top, which takes images of "
            f"{default[0]}x{default[1]} pixels only; size is {size[0]}x{size[1]}",
            next_step=f"--size {spec.default_size}, or a layer up to {spec.default_layer}",
        )
    return with_top, True


def _check_pooling(pooling: Pooling, spec: BackboneSpec, layer: str, cut: Any) -> None:
    if pooling != "none" and len(cut.output.shape) != 4:
        shape = tuple(cut.output.shape[1:])
        raise InvalidInput(
            f"pooling {pooling}: the output of {layer} of {spec.name} has shape {shape}, without "
            f"two spatial axes to pool over",
            next_step="--pooling none",
        )


def _padded(images: np.ndarray, count: int) -> np.ndarray:
    if len(images) == count:
        return images
    padded = np.zeros((count, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    return padded
