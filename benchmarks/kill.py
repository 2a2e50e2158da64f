"""Kills one embedding at twenty random moments, and compares the end with an undisturbed one.

Every run but the last is ended by SIGKILL after a random time, from before TensorFlow is loaded to
the middle of the commit; the next goes on. At the end every file of both stores is compared, byte
for byte, but for the attributes, which hold the time of the commit. Run from the project's root:

    python benchmarks/kill.py PHOTOGRAPHS WEIGHTS [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from commands import embed_reference


def store_files(cache: Path) -> dict[str, bytes]:
    """Return every file of the only store of a cache, without its attributes."""
    (store,) = cache.glob("*/*.zarr")
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path != store / "zarr.json"
    }


def main() -> None:
    """Kill, resume, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, help="seconds; default: the undisturbed run's / 6")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        calm, stormy = Path(scratch) / "calm", Path(scratch) / "stormy"
        begun = time.monotonic()
        subprocess.run(
            embed_reference(arguments.photographs, arguments.weights, calm),
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        whole = time.monotonic() - begun
        longest = arguments.longest or whole / 6
        print(f"undisturbed: {whole:.0f} s; kills within {longest:.0f} s of each start", flush=True)
        killed = 0
        while True:
            child = subprocess.Popen(
                embed_reference(arguments.photographs, arguments.weights, stormy),
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            if killed == arguments.kills:
                output, _ = child.communicate()
                break
            delay = draw.uniform(0.1, longest)
            try:
                child.wait(delay)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
                killed += 1
                staged = len(list(stormy.glob(".staging/*/*")))
                print(f"kill {killed} after {delay:.1f} s; {staged} shards staged", flush=True)
            else:
                raise SystemExit(f"it ended after {killed} kills: choose a smaller --longest")
        result = json.loads(output)
        print(f"last run: computed {result['computed']}, reused {result['reused']}")
        expected, found = store_files(calm), store_files(stormy)
        different = [name for name in expected if expected[name] != found.get(name)]
        if set(expected) != set(found) or different:
            raise SystemExit(f"the stores differ: {different or set(expected) ^ set(found)}")
        print(f"{killed} kills: {len(expected)} files equal, byte for byte")


if __name__ == "__main__":
    main()
