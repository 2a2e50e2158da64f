"""What the second embedding costs: nothing changed, three files changed, and training from cache.

Copies the photographs, embeds them once, and then measures whole processes: `fs embed` with nothing
to do (median of five), `fs embed` after three files were replaced, and `fs train` with both heads.
Run from the project's root:

    python benchmarks/reuse.py PHOTOGRAPHS WEIGHTS [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from commands import embed_reference, fs, run_json
from PIL import Image, ImageOps


def timed(command: list[str]) -> tuple[dict, float]:
    """Run one command; return its JSON and the seconds of the whole process."""
    begun = time.perf_counter()
    return run_json(command), time.perf_counter() - begun


def main() -> None:
    """Measure, print, and write the numbers for the plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photographs, cache = Path(scratch) / "photographs", str(Path(scratch) / "cache")
        shutil.copytree(arguments.photographs, photographs, copy_function=shutil.copyfile)
        embed = embed_reference(photographs, arguments.weights, cache)
        first, whole = timed(embed)
        name = first["feature_set"]
        print(f"embedded {first['computed']} images in {whole:.1f} s", flush=True)
        again = [timed(embed) for _ in range(5)]
        assert all(result["computed"] == 0 for result, _ in again)
        idle = statistics.median(seconds for _, seconds in again)
        print(f"nothing changed: {idle:.2f} s, {100 * idle / whole:.2f} % of the first", flush=True)
        for path in sorted(photographs.glob("train/*/*.jpg"))[::700][:3]:
            ImageOps.mirror(Image.open(path)).save(path)
        changed, few = timed(embed)
        print(f"three files changed: computed {changed['computed']} in {few:.1f} s", flush=True)
        seconds = {"embed": whole, "three changed": few, "nothing changed": idle}
        accuracy = {}
        for head in ("logistic", "dense"):
            run, process = timed(fs("train", name, "--head", head, "--cache", cache, "--json"))
            seconds[f"train {head}"] = process
            accuracy[head] = {split: run["metrics"][split]["accuracy"] for split in run["metrics"]}
            print(
                f"{head}: fit {run['fit_seconds']:.1f} s, process {process:.1f} s, test accuracy "
                f"{accuracy[head]['test']:.3f}, validation {accuracy[head]['validation']:.3f}",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"seconds": seconds, "accuracy": accuracy}, indent=1))


if __name__ == "__main__":
    main()
