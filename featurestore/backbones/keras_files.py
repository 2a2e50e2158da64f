"""Reads weights out of Keras's files without running anything that is in them.

A model file is never turned into a model: of a ``.keras`` archive only the JSON configuration is
looked at, to refuse custom code, and the arrays are read with h5py. That is stricter than Keras's
safe mode, and leaves nothing that could call a function. Imports h5py, not Keras.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from featurestore.backbones.weights import ExpectedLayer, LayerValues, refuse_unmatched
from featurestore.errors import InvalidInput, NotFound

_MEMBER = "model.weights.h5"
_CONFIG_BYTES = 64 << 20
# Keras stores weights uncompressed, and float weights hardly compress: more than this is a bomb.
_EXPANSION = 20
_PIECE_BYTES = 1 << 20
_NUMBERED = re.compile(r"_\d+$")
_KERAS_MODULES = ("keras", "builtins")


@dataclass(frozen=True)
class _Entry:
    """One layer's arrays as a file holds them; `name` is None where the file does not say."""

    key: str
    name: str | None
    arrays: tuple[h5py.Dataset, ...]

    def fits(self, layer: ExpectedLayer) -> bool:
        # Longer only by Normalization's integer count, which is left out of `layer`.
        shapes = [tuple(array.shape) for array in self.arrays]
        wanted = [weight.shape for weight in layer.weights]
        return shapes == wanted or (layer.kind == "Normalization" and shapes == [*wanted, ()])

    def describe(self) -> str:
        shapes = ", ".join(str(tuple(array.shape)) for array in self.arrays)
        return f"{self.name or self.key} {shapes}"


def read_keras_file(path: Path, expected: Sequence[ExpectedLayer]) -> list[LayerValues]:
    """Return the arrays of each expected layer from a ``.weights.h5``, ``.h5`` or ``.keras`` file.

    Layers are matched by name and shape. Where the names are Keras's automatic ones, numbered
    differently from session to session, they are matched by Keras's own rule instead: by class and
    position (``.weights.h5``, ``.keras``) or by order (``.h5``), and by shape all the same. Layers
    that the network does not have are ignored, so a file with its top or a head serves too.

    Raises
    ------
    InvalidInput
        The file is not what its name says, is cut short, is built to harm, or lacks layers; all of
        those are named.
    NotFound
        The file is gone.
    """
    opened = _open_archive(path) if path.suffix.lower() == ".keras" else _open_h5(path, path)
    try:
        with opened as file:
            return _values(path, file, expected)
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        # What h5py raises for damaged structures, besides plain I/O errors.
        raise _corrupt(path, str(error)) from error


def _values(path: Path, file: h5py.File, expected: Sequence[ExpectedLayer]) -> list[LayerValues]:
    legacy = _legacy_group(path, file)
    entries = list(_entries(path, file)) if legacy is None else list(_legacy_entries(path, legacy))
    found = _match_by_name(entries, expected)
    if any(entry is None for entry in found):
        second = (
            _match_by_key(entries, expected)
            if legacy is None
            else _match_by_order(entries, expected)
        )
        found = [one or other for one, other in zip(found, second, strict=True)]
    used = {entry.key for entry in found if entry is not None}
    refuse_unmatched(
        path,
        missing=[
            layer.describe() for layer, entry in zip(expected, found, strict=True) if entry is None
        ],
        unused=(entry.describe() for entry in entries if entry.key not in used),
    )
    return [
        [_read(path, array) for array in entry.arrays[: len(layer.weights)]]
        for layer, entry in zip(expected, found, strict=True)
        if entry is not None
    ]


def _read(path: Path, array: h5py.Dataset) -> np.ndarray:
    values = np.asarray(array[()])
    if values.dtype.kind != "f":
        raise InvalidInput(
            f"weights file {path}: expected floating-point numbers at {array.name}, "
            f"found {values.dtype}"
        )
    return values.astype(np.float32)


def _match_by_name(
    entries: Sequence[_Entry], expected: Sequence[ExpectedLayer]
) -> list[_Entry | None]:
    named: dict[str, list[_Entry]] = {}
    for entry in entries:
        named.setdefault(entry.name or "", []).append(entry)
    found: list[_Entry | None] = []
    for layer in expected:
        fitting = [entry for entry in named.get(layer.name, ()) if entry.fits(layer)]
        found.append(fitting[0] if len(fitting) == 1 else None)
    return _all_or_named(found, expected)


def _all_or_named(
    found: list[_Entry | None], expected: Sequence[ExpectedLayer]
) -> list[_Entry | None]:
    """Drop matches of auto-numbered names unless every layer matched.

    ``conv2d_5`` of a file numbered from 1 is another layer than ``conv2d_5`` here.
    """
    if all(entry is not None for entry in found):
        return found
    return [
        None if _automatic(layer) else entry for layer, entry in zip(expected, found, strict=True)
    ]


def _match_by_key(
    entries: Sequence[_Entry], expected: Sequence[ExpectedLayer]
) -> list[_Entry | None]:
    keyed = {entry.key: entry for entry in entries}
    found: list[_Entry | None] = []
    for layer in expected:
        entry = keyed.get(layer.key)
        same = entry is not None and entry.fits(layer) and _may_be(entry.name, layer)
        found.append(entry if same else None)
    return found


def _match_by_order(
    entries: Sequence[_Entry], expected: Sequence[ExpectedLayer]
) -> list[_Entry | None]:
    """Match the n-th layer with weights to the n-th, all or nothing; a top may follow."""
    weighted = [entry for entry in entries if entry.arrays][: len(expected)]
    pairs = list(zip(weighted, expected, strict=False))
    if len(pairs) == len(expected) and all(
        entry.fits(layer) and _may_be(entry.name, layer) for entry, layer in pairs
    ):
        return list(weighted)
    return [None] * len(expected)


def _automatic(layer: ExpectedLayer) -> bool:
    """Whether Keras made up the layer's name from its class."""
    stem = layer.key.rpartition("/")[2]
    return _NUMBERED.sub("", layer.name) == _NUMBERED.sub("", stem)


def _may_be(name: str | None, layer: ExpectedLayer) -> bool:
    """Whether a file's layer of that name can be `layer` though the names may differ in number."""
    if name is None or name == layer.name:
        return True
    return _automatic(layer) and _NUMBERED.sub("", name) == _NUMBERED.sub("", layer.name)


def _entries(path: Path, group: h5py.Group, prefix: str = "") -> Iterator[_Entry]:
    """Walk a Keras 3 weights file: each group ``…/vars`` holds ``0``, ``1``, … of one layer."""
    for name in group:
        child = _child(path, group, name)
        key = f"{prefix}/{name}" if prefix else name
        if name == "vars" and isinstance(child, h5py.Group):
            arrays = [_child(path, child, str(number)) for number in range(len(child))]
            if arrays and all(isinstance(array, h5py.Dataset) for array in arrays):
                yield _Entry(prefix, _text(child.attrs.get("name")), tuple(arrays))
        elif isinstance(child, h5py.Group):
            yield from _entries(path, child, key)


def _legacy_group(path: Path, file: h5py.File) -> h5py.Group | None:
    """Return the group of a Keras 1 or 2 file that lists its layers, None for a Keras 3 file."""
    for group in (file, _descend(path, file, "model_weights")):
        if isinstance(group, h5py.Group) and _attribute(group, "layer_names") is not None:
            return group
    return None


def _legacy_entries(path: Path, group: h5py.Group) -> Iterator[_Entry]:
    """Walk the layers of a Keras 1 or 2 file in the model's order.

    A nested model is one layer there with the arrays of all its layers, named ``layer/kernel:0``.
    """
    for layer in _attribute(group, "layer_names") or []:
        holder = _descend(path, group, layer)
        if not isinstance(holder, h5py.Group):
            raise _corrupt(path, f"{layer} is listed as a layer and is not there")
        nested: dict[str, list[h5py.Dataset]] = {}
        names = _attribute(holder, "weight_names") or []
        owners = {name.split("/")[-2] if "/" in name else layer for name in names}
        for name in names:
            array = _descend(path, holder, name)
            if not isinstance(array, h5py.Dataset):
                raise _corrupt(path, f"{name} of {layer} is listed as a weight and is not there")
            owner = name.split("/")[-2] if len(owners) > 1 and "/" in name else layer
            nested.setdefault(owner, []).append(array)
        for owner, arrays in nested.items():
            yield _Entry(f"{layer}/{owner}", owner, tuple(arrays))


def _attribute(group: h5py.Group, name: str) -> list[str] | None:
    """Return a list of texts kept in an attribute, or in several numbered ones when it is long."""
    pieces = [name] if name in group.attrs else []
    if not pieces:
        numbered = (f"{name}{number}" for number in itertools.count())
        pieces = list(itertools.takewhile(lambda piece: piece in group.attrs, numbered))
    if not pieces:
        return None
    return [str(_text(one)) for piece in pieces for one in np.ravel(group.attrs[piece])]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _descend(path: Path, group: h5py.Group, name: str) -> Any:
    current: Any = group
    for part in name.split("/"):
        if not isinstance(current, h5py.Group) or part not in current:
            return None
        current = _child(path, current, part)
    return current


def _child(path: Path, group: h5py.Group, name: str) -> Any:
    """Return a member, refusing whatever would make HDF5 read another file or place."""
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
        raise _hostile(path, f"{group.name}/{name} is a link to {link.path}")
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise _hostile(path, f"{member.name} takes its values from another file")
    return member


@contextmanager
def _open_h5(path: Path, source: Path | IO[bytes]) -> Iterator[h5py.File]:
    try:
        file = h5py.File(source, "r")
    except FileNotFoundError as error:
        raise NotFound(f"weights file {path}: there is no such file") from error
    except PermissionError as error:
        raise InvalidInput(f"weights file {path}: it may not be read: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _corrupt(path, str(error)) from error
    with file:
        yield file


@contextmanager
def _open_archive(path: Path) -> Iterator[h5py.File]:
    """Open the weights inside a ``.keras`` archive, through a temporary file of its own."""
    with tempfile.TemporaryFile() as weights:
        try:
            with zipfile.ZipFile(path) as archive:
                _refuse_custom_code(path, archive)
                _extract(path, archive, weights)
        except FileNotFoundError as error:
            raise NotFound(f"weights file {path}: there is no such file") from error
        except (
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            EOFError,
            OSError,
            RuntimeError,
        ) as error:
            raise _corrupt(path, f"not a whole Keras archive: {error}") from error
        weights.seek(0)
        with _open_h5(path, weights) as file:
            yield file


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError:
        held = ", ".join(sorted(archive.namelist())[:8]) or "nothing"
        raise _corrupt(path, f"expected {name} in the archive, found {held}") from None


def _extract(path: Path, archive: zipfile.ZipFile, target: IO[bytes]) -> None:
    member = _member(path, archive, _MEMBER)
    # Declared sizes can lie, so the bytes written are counted as well.
    limit = max(_EXPANSION * member.compress_size, _PIECE_BYTES)
    written = 0
    with archive.open(member) as stream:
        while piece := stream.read(_PIECE_BYTES):
            written += len(piece)
            if written > limit:
                raise _hostile(
                    path,
                    f"{_MEMBER} unpacks to more than {_EXPANSION} times its size in the archive",
                )
            target.write(piece)


def _refuse_custom_code(path: Path, archive: zipfile.ZipFile) -> None:
    member = _member(path, archive, "config.json")
    if member.file_size > _CONFIG_BYTES:
        raise _hostile(path, f"config.json is {member.file_size:,} bytes")
    try:
        config = json.loads(archive.read(member))
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise _corrupt(path, "config.json is not a model's configuration")
    # How the model was trained is not read, and custom losses and metrics do no harm there.
    config.pop("compile_config", None)
    pending: list[Any] = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            _refuse_node(path, node)
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _refuse_node(path: Path, node: dict[str, Any]) -> None:
    kind, module = node.get("class_name"), node.get("module")
    if kind in ("__lambda__", "Lambda"):
        raise _hostile(path, "its model has a Lambda layer, which carries Python code")
    foreign = isinstance(module, str) and module.split(".")[0] not in _KERAS_MODULES
    if isinstance(kind, str) and "config" in node and foreign:
        raise _hostile(path, f"its model names {kind} of module {module}, which is custom code")


def _corrupt(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"weights file {path}: cannot be read as a Keras file: {reason}",
        next_step="copy or download the file again, or save it again with model.save_weights",
    )


def _hostile(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"weights file {path}: refused, nothing in it was run: {reason}",
        next_step="save only the weights, with model.save_weights('NAME.weights.h5'), where the "
        "file is trusted",
    )
