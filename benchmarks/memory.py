"""Peak memory of `fs embed` and its no-op time, against the number of images.

Writes small JPEG files, each with bytes of its own, and embeds them with the first convolution
block of a small random VGG16 at 32 pixels, pooled to nothing: features of (16, 16, 64) float16 are
32 KiB a row, twice those of the reference, so that rows kept in memory would show. Run from the
project's root:

    python benchmarks/memory.py [--images 2000 20000]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from commands import fs
from PIL import Image


def write_images(folder: Path, images: int) -> None:
    """Write that many distinct JPEG files, in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    for number in range(images):
        path = folder / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Bytes after the end of the image make another digest and the same picture.
        path.write_bytes(stream.getvalue() + number.to_bytes(8, "big"))


def embed(folder: Path, cache: Path) -> tuple[dict, float, float]:
    """Return what `fs embed` printed, its peak memory in MiB and its wall time (POSIX only)."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        fs(
            "embed", folder, "--layer", "block1_pool", "--size", "32", "--weights", "random:0",
            "--cache", cache, "--json",
        ),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"fs embed ended with status {status}")
    return json.loads(output), usage.ru_maxrss / 1024, time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    arguments = parser.parse_args()
    peaks = []
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as scratch:
            folder, cache = Path(scratch) / "images", Path(scratch) / "cache"
            write_images(folder, images)
            first, peak, wall = embed(folder, cache)
            again, idle, idle_wall = embed(folder, cache)
            assert (first["computed"], again["computed"]) == (images, 0)
            peaks.append(peak)
            print(
                f"{images} images: peak {peak:.0f} MiB in {wall:.1f} s; "
                f"no-op {idle:.0f} MiB in {idle_wall:.2f} s",
                flush=True,
            )
    print(f"peak, largest over smallest: {max(peaks) / min(peaks):.3f}")


if __name__ == "__main__":
    main()
