"""`fs serve` that writes down when each batch left: how long its images waited, and for what.

    python benchmarks/service_traced.py TRACE serve --cache DIR …

One line of JSON a batch, with the clock of `time.monotonic`. The service is the same but for two
functions that tell the time when they are called.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def traced(trace: Path) -> None:
    """Wrap what takes a batch from the queue, and what sends it through the network."""
    from featurestore.service.batcher import Image, Queue
    from featurestore.service.ladder import Ladder

    stream = trace.open("w", buffering=1)
    take, embed, check = Queue.take, Ladder.embed, Ladder.check
    idle_since = [0.0]

    def taken(self: Queue, most: int) -> list[Image]:
        images = take(self, most)
        batch = {
            "left": time.monotonic(),
            "idle_since": idle_since[0],
            "ready": [image.ready_at for image in images],
            "accepted": [image.accepted_at for image in images],
        }
        stream.write(json.dumps(batch) + "\n")
        return images

    def embedded(self: Ladder, pixels: np.ndarray) -> np.ndarray:
        try:
            return embed(self, pixels)
        finally:
            idle_since[0] = time.monotonic()

    def checked(self: Ladder) -> None:
        try:
            check(self)
        finally:
            idle_since[0] = time.monotonic()

    Queue.take, Ladder.embed, Ladder.check = taken, embedded, checked  # type: ignore[method-assign]


def waits_ms(lines: Iterable[str]) -> dict[str, list[float]]:
    """Return what a trace tells, a number for each batch; for `queued_ms`, for each image.

    ``company_ms`` is what the stated bound is of: from when the batch's first image was ready and
    the network idle until it left. ``queued_ms`` is all that an image waited, decoding included.
    """
    found: dict[str, list[float]] = {"images": [], "company_ms": [], "queued_ms": []}
    for line in lines:
        batch = json.loads(line)
        could = max(min(batch["ready"]), batch["idle_since"])
        found["images"].append(len(batch["ready"]))
        found["company_ms"].append(1000 * (batch["left"] - could))
        found["queued_ms"] += [1000 * (batch["left"] - each) for each in batch["accepted"]]
    return found


def main() -> None:
    traced(Path(sys.argv.pop(1)))
    from featurestore_cli.main import main as fs

    fs()


if __name__ == "__main__":
    main()
