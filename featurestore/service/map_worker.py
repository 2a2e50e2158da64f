"""Makes the map of one feature set, in a process of its own.

The process has one thread, gives way to others and ends with whoever started it, so that laying
out a large set for minutes slows nobody. It says what it is at on its output, a line of JSON each.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import FeatureStoreError, IntegrityError
from featurestore.features import FeatureSet, open_record
from featurestore.service.map_files import DRAFT, POINTS, VECTORS, read_array, write_array
from featurestore.service.projection import (
    Layout,
    Progress,
    flat_points,
    neighbour_points,
    principal_scores,
    unit_vectors,
)

Said = Mapping[str, Any]
"""``{"step", "done"}``, ``{"written": name}``, or ``{"failed": reason}`` as the last."""

_log = logging.getLogger("featurestore.service")

_BLOCK_ROWS = 256
_NICENESS = 10
_TAIL_LINES, _LINE_CHARACTERS = 30, 1000
_MOST_NAMED = 5
_CHILD = (
    "import json, sys; request = json.loads(sys.stdin.readline()); sys.path[:] = request['path'];"
    "from featurestore.service.map_worker import serve; serve(request, sys.stdin, sys.stdout)"
)


def make_map(
    record: Record, folder: Path, *, layout: Layout, tell: Progress, written: Callable[[str], None]
) -> None:
    """Write what is missing of a map: the vectors first, then a draft, then the layout.

    What an earlier call has written whole is used, so one that was stopped is gone on with.

    Raises
    ------
    IntegrityError
        The feature set's store is missing or damaged, or a row in it is not finite.
    OSError
        The folder cannot be written.
    """
    vectors = read_array(folder, VECTORS)
    if vectors is None:
        folder.mkdir(parents=True, exist_ok=True)
        with open_record(record) as features:
            shape = (sum(record.rows.values()), record.feature_shape[-1])
            write_array(folder, VECTORS, _vectors(features, tell), shape=shape, dtype="<f2")
        vectors = read_array(folder, VECTORS)
        assert vectors is not None, "an array that was just written is whole"
    written(VECTORS)
    scores = principal_scores(vectors, seed=layout.seed, tell=tell)
    draft = flat_points(scores)
    write_array(folder, DRAFT, [draft], shape=draft.shape, dtype="<f4")
    written(DRAFT)
    points = neighbour_points(scores, layout, tell=tell)
    write_array(folder, POINTS, [points], shape=points.shape, dtype="<f4")
    written(POINTS)


def make_map_apart(record: Record, folder: Path, layout: Layout) -> subprocess.Popen[str]:
    """Start `make_map` in a process of its own; `read_said` tells what it says."""
    request = {
        "path": sys.path,
        "record": str(record.path),
        "folder": str(folder),
        "layout": vars(layout),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()  # it stays open: that it ends tells the child that we have
    except BrokenPipeError:
        pass  # it has ended already, which its output tells
    return child


def read_said(child: subprocess.Popen[str]) -> Iterator[Said]:
    """Yield what a child says until it ends; last of all why, where it has failed.

    Where its code is not 0, the end of what it wrote to its error output is logged.
    """
    assert child.stdout is not None
    complaints: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
    # A thread of its own reads them: a full pipe would halt the child.
    reader = threading.Thread(target=_collect, args=[child.stderr, complaints], daemon=True)
    reader.start()
    failed = False
    for line in child.stdout:
        said = json.loads(line)
        failed = failed or "failed" in said
        yield said
    code = child.wait()
    reader.join()
    if code != 0:
        _log.warning("a map's process ended with code %d: %s", code, "".join(complaints).strip())
    if code != 0 and not failed:
        yield {"failed": f"the process that makes the map ended with code {code}"}


def _collect(stream: IO[str] | None, complaints: collections.deque[str]) -> None:
    if stream is not None:
        complaints.extend(iter(lambda: stream.readline(_LINE_CHARACTERS), ""))


def serve(request: Mapping[str, Any], given: IO[str], output: IO[str]) -> None:
    """Make the map of one request; runs in the child."""
    threading.Thread(target=_end_with_parent, args=[given], daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    from threadpoolctl import threadpool_limits

    def say(said: Said) -> None:
        output.write(json.dumps(said) + "\n")
        output.flush()

    try:
        with threadpool_limits(1):
            make_map(
                Record.read(Path(request["record"])),
                Path(request["folder"]),
                layout=Layout(**request["layout"]),
                tell=lambda step, done: say({"step": step, "done": round(done, 3)}),
                written=lambda name: say({"written": name}),
            )
    except FeatureStoreError as error:
        say({"failed": error.message})
    except OSError as error:
        say({"failed": f"its files cannot be read or written: {error.strerror or error}"})
    except MemoryError:
        say({"failed": "there is not enough memory"})


def _end_with_parent(given: IO[str]) -> None:
    given.read()
    os._exit(1)


def _vectors(features: FeatureSet, tell: Progress) -> Iterator[np.ndarray]:
    total = sum(features.record.rows.values())
    done = 0
    for name in features.splits:
        split = features[name]
        for start in range(0, len(split), _BLOCK_ROWS):
            tell("reading", done / total)
            block = split.read(start, min(start + _BLOCK_ROWS, len(split)))
            done += len(block)
            with np.errstate(invalid="ignore", over="ignore"):  # it is told below
                vectors = unit_vectors(block)
            wrong = start + np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if len(wrong):
                more = ", …" if len(wrong) > _MOST_NAMED else ""
                raise IntegrityError(
                    f"features of split {name} are not finite numbers, in rows "
                    f"{', '.join(map(str, wrong[:_MOST_NAMED]))}{more}",
                    next_step="embed the dataset again",
                )
            yield vectors
