"""Where a backbone's weights come from. No TensorFlow here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from featurestore.errors import InvalidInput, NotFound

SUFFIXES = (".weights.h5", ".h5", ".keras", ".onnx")
RANDOM_FILL_VERSION = 1

_DIGEST_FORMAT = b"featurestore weights 1\n"
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where weights come from; what they are is their digest.

    Parameters
    ----------
    seed
        Of ``random``; None otherwise.
    path
        Of ``file``; None otherwise.
    """

    kind: Literal["imagenet", "random", "file"]
    seed: int | None = None
    path: Path | None = None

    def label(self) -> str:
        """Return what the user would type for this source; provenance, not identity."""
        if self.kind == "random":
            return f"random:{self.seed}"
        return "imagenet" if self.path is None else str(self.path)


def parse_weights(text: str) -> WeightsSource:
    """Read ``imagenet``, ``random:SEED`` or the path of a weights file; the file is not opened.

    Raises
    ------
    InvalidInput
        The seed is not an integer of at least 0, or the file has none of the known suffixes.
    NotFound
        There is no such file.
    """
    if text == "imagenet":
        return WeightsSource(kind="imagenet")
    if text == "random" or text.startswith("random:"):
        seed = text.partition(":")[2]
        if not re.fullmatch(r"[0-9]{1,18}", seed):
            raise InvalidInput(
                f"weights {text!r}: expected random:SEED with an integer of at least 0",
                next_step="--weights random:7",
            )
        return WeightsSource(kind="random", seed=int(seed))
    path = Path(text).expanduser()
    if not path.name.lower().endswith(SUFFIXES):
        raise InvalidInput(
            f"weights {text!r}: expected imagenet, random:SEED or a file ending in "
            f"{', '.join(SUFFIXES)}",
            next_step="--weights imagenet",
        )
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise NotFound(
            f"weights file {path}: {what}",
            next_step="correct the path, or use --weights imagenet or --weights random:SEED",
        )
    return WeightsSource(kind="file", path=path)


def source_signature(
    source: WeightsSource, *, cached: Path | None = None
) -> dict[str, str | int] | None:
    """Return what must be unchanged for a remembered digest of this source to hold.

    JSON-ready and cheap: a file's resolved path, size, mtime_ns and inode; a seed with the version
    of the random fill. For ``imagenet`` it is the signature of `cached`, the file that Keras used
    (`Network.weights_path` of an earlier load). None when nothing can be said: load and see.
    """
    if source.kind == "random":
        return {"kind": "random", "seed": source.seed or 0, "fill": RANDOM_FILL_VERSION}
    path = cached if source.kind == "imagenet" else source.path
    if path is None:
        return None
    try:
        resolved = path.resolve(strict=True)
        found = resolved.stat()
    except OSError:
        return None
    return {
        "kind": source.kind,
        "path": str(resolved),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino,
    }


@dataclass(frozen=True)
class ExpectedWeight:
    """One array of a layer: its role (``kernel``, ``gamma``, …) and shape, in Keras's layout."""

    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ExpectedLayer:
    """One layer with weights of the network as it is built here.

    Parameters
    ----------
    name
        The layer's name.
    kind
        Its class, such as ``Conv2D``.
    key
        Where Keras 3 puts it in a weights file: ``layers/conv2d_3``, numbered by class.
    weights
        Its arrays in Keras's own order.
    ends_branch
        Its output is added to others, as at the end of a residual branch.
    """

    name: str
    kind: str
    key: str
    weights: tuple[ExpectedWeight, ...]
    ends_branch: bool = False

    def describe(self) -> str:
        """Return the name with its shapes, as error messages show it."""
        shapes = ", ".join(str(weight.shape) for weight in self.weights)
        return f"{self.name} {shapes}"


LayerValues = list[np.ndarray]


def refuse_unmatched(path: Path, *, missing: Sequence[str], unused: Iterable[str]) -> None:
    """Raise where the network has layers for which `path` holds nothing that fits.

    Raises
    ------
    InvalidInput
        `missing` is not empty; every layer of it is named, and what the file holds instead.
    """
    if not missing:
        return
    spare = list(unused)
    held = "; ".join(spare[:_SHOWN]) or "nothing else"
    more = f"; and {len(spare) - _SHOWN} more" if len(spare) > _SHOWN else ""
    raise InvalidInput(
        f"weights file {path}: no weights of the right name and shape for {len(missing)} layer(s) "
        f"of the network: {'; '.join(missing)}. Not used from the file: {held}{more}",
        next_step="use a file saved from this backbone, or choose the backbone that it was "
        "saved from with --backbone",
    )


def weights_digest(layers: Iterable[LayerValues]) -> str:
    """Return the SHA-256 of weights' values, whatever file and names they came under.

    `layers` holds the floating-point arrays of each layer from the input to the cut, layers in
    topological order, arrays in Keras's order. Shapes and float32 little-endian bytes are hashed.
    """
    digest = hashlib.sha256(_DIGEST_FORMAT)
    for values in layers:
        for value in values:
            digest.update(f"{value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value, dtype="<f4").data)
    return digest.hexdigest()
