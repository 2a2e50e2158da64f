"""Keras's own ImageNet weights: downloaded, checked and cached by Keras. Imports Keras.

What is added here is a quick and clear answer where there is neither a cached file nor a network:
Keras alone would wait for the system's connection time-outs.
"""

from __future__ import annotations

import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from featurestore.backbones.architecture import (
    construct,
    float_weights,
    in_fresh_session,
    weighted_layers,
)
from featurestore.backbones.table import BackboneSpec
from featurestore.backbones.weights import ExpectedLayer, LayerValues, refuse_unmatched
from featurestore.errors import NotFound

HOST = "https://storage.googleapis.com/tensorflow/keras-applications/"
PROBE_TIMEOUT_S = 5.0

Probe = Callable[[], str | None]


def imagenet_weights(
    spec: BackboneSpec,
    expected: Sequence[ExpectedLayer],
    *,
    top: bool,
    probe: Probe | None = None,
) -> tuple[list[LayerValues], Path]:
    """Return Keras's ImageNet weights for the expected layers, and the file Keras keeps them in.

    They are the weights of the backbone's default size, whatever size is asked for (Keras has
    others for MobileNet at 128, 160 and 192 pixels), with Keras's own hash check.

    Parameters
    ----------
    probe
        Returns why the download host cannot be reached, None when it can.

    Raises
    ------
    NotFound
        No cached file and no way to download one; said within seconds.
    """
    name = spec.weights_file if top else spec.weights_file_no_top
    cached = cached_file(name)
    if cached is None:
        reason = (probe or probe_host)()
        if reason is not None:
            raise _unavailable(spec, name, reason)
    size = (spec.default_size, spec.default_size)

    def build() -> Any:
        # Keras prints the download's progress on stdout, which belongs to data.
        with redirect_stdout(sys.stderr):
            return construct(spec, size=size, top=top, weights="imagenet")

    try:
        model = in_fresh_session(build)
    except Exception as error:
        # Keras raises a bare Exception for a failed download and ValueError for a wrong hash.
        raise _unavailable(spec, name, f"{type(error).__name__}: {error}") from error
    held = {
        layer.name: [w.numpy() for w in float_weights(layer)] for layer in weighted_layers(model)
    }
    path = cached_file(name) or keras_folders()[0] / name
    missing = [layer for layer in expected if not _fits(held.get(layer.name), layer)]
    refuse_unmatched(path, missing=[layer.describe() for layer in missing], unused=held)
    return [held[layer.name] for layer in expected], path


def keras_folders() -> list[Path]:
    """Return where Keras looks for ImageNet files, in its order of preference.

    Source: ``keras_home`` in keras/src/backend/config.py and ``get_file`` in
    keras/src/utils/file_utils.py. ``KERAS_HOME`` is Keras's variable, read by Keras itself; it is
    read here only to find the same folder.
    """
    home = os.environ.get("KERAS_HOME")
    first = Path(home).expanduser() if home else Path.home() / ".keras"
    folders = [first, Path("/tmp/.keras")]  # noqa: S108 -- Keras's own fallback, only read here
    return [folder / "models" for folder in folders]


def cached_file(name: str) -> Path | None:
    """Return Keras's cached file of that name, None if it has none."""
    return next((folder / name for folder in keras_folders() if (folder / name).is_file()), None)


def probe_host(url: str = HOST, *, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Return why `url` cannot be reached, None when it answers; never longer than `timeout_s`.

    Any HTTP answer counts. Proxies are those that the download itself would use. A thread, because
    no time-out of the standard library covers the name look-up.
    """
    outcome: list[str | None] = [f"no answer from {url} within {timeout_s:g} s"]

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 -- a constant https URL
        try:
            urllib.request.urlopen(request, timeout=timeout_s).close()  # noqa: S310
        except urllib.error.HTTPError:
            outcome[0] = None
        except (OSError, ValueError) as error:
            outcome[0] = f"{url} cannot be reached: {getattr(error, 'reason', error)}"
        else:
            outcome[0] = None

    thread = threading.Thread(target=ask, daemon=True, name="probe")
    thread.start()
    thread.join(timeout_s)
    return outcome[0]


def _fits(values: LayerValues | None, layer: ExpectedLayer) -> bool:
    return values is not None and [value.shape for value in values] == [
        weight.shape for weight in layer.weights
    ]


def _unavailable(spec: BackboneSpec, name: str, reason: str) -> NotFound:
    return NotFound(
        f"ImageNet weights of {spec.name}: no cached file {keras_folders()[0] / name}, and it "
        f"cannot be downloaded: {reason}",
        next_step="--weights FILE (.weights.h5, .h5, .keras or .onnx) or --weights random:SEED; "
        "or put Keras's file at that path",
    )
