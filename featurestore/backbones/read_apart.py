"""Reads a weights file in a process of its own, so that no damaged file can take this one down.

HDF5 is a C library that crashes or hangs on some damaged files (of 12,000 files with a few flipped
bytes, one ended the interpreter with HDF5 1.14). The child reads with `keras_files` or
`onnx_weights`, without TensorFlow, and sends the arrays through a pipe: about 0.3 s for each load.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from featurestore.backbones.weights import ExpectedLayer, ExpectedWeight, LayerValues
from featurestore.errors import FeatureStoreError, InvalidInput, NotFound

# Reading takes a moment; a child that is still at it then hangs. Generous for slow network disks.
TIMEOUT_S = 30.0
_BYTES_PER_S = 5e6

_CHILD = (
    "import json, sys; request = json.loads(sys.stdin.readline()); sys.path[:] = request['path'];"
    "from featurestore.backbones.read_apart import serve; serve(request, sys.stdout.buffer)"
)
_KINDS: Mapping[str, type[FeatureStoreError]] = {
    kind.__name__: kind for kind in (InvalidInput, NotFound)
}


def read_apart(
    path: Path, expected: Sequence[ExpectedLayer], *, timeout_s: float | None = None
) -> list[LayerValues]:
    """Return the arrays of each expected layer from a weights file of any kind.

    Parameters
    ----------
    timeout_s
        After which the file is given up on; None is half a minute and what 5 MB/s take.

    Raises
    ------
    InvalidInput
        As the readers say; or reading the file crashed or hung.
    NotFound
        The file is gone.
    """
    if timeout_s is None:
        timeout_s = TIMEOUT_S + (path.stat().st_size / _BYTES_PER_S if path.exists() else 0.0)
    request = {
        "path": sys.path,
        "file": str(path),
        "expected": [dataclasses.asdict(layer) for layer in expected],
    }
    with tempfile.TemporaryFile() as errors, _child(timeout_s, errors) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.close()
            return _receive(child.stdout, expected)
        except (EOFError, BrokenPipeError) as error:
            raise _ended(path, child.wait(), errors) from error


def serve(request: Mapping[str, Any], output: IO[bytes]) -> None:
    """Answer one request of `read_apart`; runs in the child."""
    path = Path(request["file"])
    expected = [
        ExpectedLayer(
            **{
                **layer,
                "weights": tuple(
                    ExpectedWeight(weight["role"], tuple(weight["shape"]))
                    for weight in layer["weights"]
                ),
            }
        )
        for layer in request["expected"]
    ]
    try:
        values = _reader(path)(path, expected)
    except FeatureStoreError as error:
        said = {
            "kind": type(error).__name__,
            "message": error.message,
            "next_step": error.next_step,
        }
        output.write(json.dumps(said).encode() + b"\n")
        return
    output.write(b"{}\n")
    for arrays in values:
        for array in arrays:
            output.write(np.ascontiguousarray(array, "<f4").data)
    output.flush()


def _reader(path: Path) -> Any:
    if path.name.lower().endswith(".onnx"):
        from featurestore.backbones.onnx_weights import read_onnx

        return read_onnx
    from featurestore.backbones.keras_files import read_keras_file

    return read_keras_file


def _receive(stream: IO[bytes], expected: Sequence[ExpectedLayer]) -> list[LayerValues]:
    head = stream.readline()
    if not head.endswith(b"\n"):
        raise EOFError
    said = json.loads(head)
    if said:
        raise _KINDS[said["kind"]](said["message"], next_step=said["next_step"])
    return [[_array(stream, weight.shape) for weight in layer.weights] for layer in expected]


def _array(stream: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, "<f4")
    view = array.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view):
        piece = stream.readinto(view[filled:])  # type: ignore[attr-defined]  # IO lacks readinto
        if not piece:
            raise EOFError
        filled += piece
    return array


@contextmanager
def _child(timeout_s: float, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    timer = threading.Timer(timeout_s, child.kill)
    timer.start()
    try:
        yield child
    finally:
        timer.cancel()
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _ended(path: Path, code: int, errors: IO[bytes]) -> Exception:
    """Say why the child ended early: Python's own errors end with 1, crashes and hangs do not."""
    if code == 1:
        errors.seek(0)
        text = errors.read().decode(errors="replace")
        return RuntimeError(f"the process that reads weights file {path} failed:\n{text}")
    return InvalidInput(
        f"weights file {path}: it is damaged: the process that read it ended with code {code} "
        f"before it had read all",
        next_step="copy or download the file again, or save it again with model.save_weights",
    )
