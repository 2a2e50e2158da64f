"""What a service answers in a second: known images, new images, and files of stores.

(a) hits: one image a request, known from the store, from the online cache and from memory, beside
    uvicorn and Starlette answering the same bytes and doing nothing else;
(b) misses: one by one and micro-batched, beside the bare network of embed.py;
(c) downloads: the files of a Zarr and of an HDF5 store, and `fs pull`, beside nginx, and
    uvicorn and Starlette sending the same bytes from memory.

`fs serve`, what it is compared with and the load generator are processes of their own on this
machine; how much of a core each took is printed. Cells take turns, round by round, and medians are
printed. Makes its own cache in a scratch folder. Run from the project's root:

    python benchmarks/service.py PHOTOGRAPHS WEIGHTS [--only hits] [--seconds 10] [--json FILE]

PHOTOGRAPHS is a folder of splits of class folders, WEIGHTS a VGG16 weights file. `--profile FOLDER`
lets py-spy, if it is installed, watch the service answer hits and send files. `--trial` only shows
that all of it works: what it calls known from the store or the online cache is mostly from memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from service_downloads import CONNECTIONS, OURS, measure_downloads
from service_downloads import FORMATS as STORES
from service_hits import CLIENTS, FORMATS, SOURCES, measure_hits
from service_misses import measure_misses
from service_rounds import Timing, judged, median
from service_scratch import prepare

HITS_PER_S, OF_BARE_NETWORK, OF_STATIC = 1000.0, 0.85, 0.5
PARTS = ("hits", "misses", "downloads")
_TRIAL_IMAGES = 32


def main() -> None:
    """Measure, print, judge, and write the numbers."""
    arguments = parsed()
    trial = arguments.trial
    timing = Timing(0.3, 1, trial=True) if trial else Timing(arguments.seconds, arguments.rounds)
    parts = arguments.only or PARTS
    numbers: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch_folder:
        folder = Path(scratch_folder)
        scratch = prepare(
            arguments.photographs,
            arguments.weights,
            folder,
            images=_TRIAL_IMAGES if trial else arguments.images,
            trial=trial,
        )
        print(
            f"{os.cpu_count()} cores; {len(scratch.photographs)} photographs embedded, "
            f"{len(scratch.stored)} rows served, as many in the online cache; "
            f"{scratch.recipe.name}",
            flush=True,
        )
        if "hits" in parts:
            numbers["hits"] = measure_hits(scratch, folder, timing, arguments.profile)
        if "downloads" in parts:
            numbers["downloads"] = measure_downloads(scratch, folder, timing, arguments.profile)
        if "misses" in parts:  # last, as it loads TensorFlow into this process
            numbers["misses"] = measure_misses(scratch, arguments.weights, folder, timing)
    print()
    for line in verdicts(numbers, trial=trial):
        print(line)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


def verdicts(numbers: dict[str, dict], *, trial: bool) -> list[str]:
    """Return a line for each target, of the parts that were measured."""
    lines = []
    if hits := numbers.get("hits"):
        for answer in FORMATS:
            for source in SOURCES:
                rate = max(median(hits[f"{source} {answer} {many}"], "per_s") for many in CLIENTS)
                lines.append(
                    f"hits, {source}, {answer}: {rate:.0f}/s, target {HITS_PER_S:.0f}: "
                    + judged(rate, HITS_PER_S, trial=trial)
                )
    if misses := numbers.get("misses"):
        bare = median(misses["bare network"], "per_s")
        for mode in ("32 clients", "4 clients x 16"):
            share = median(misses[mode], "per_s") / bare
            lines.append(
                f"misses, {mode}: {share:.2f} of the bare network, target {OF_BARE_NETWORK}: "
                + judged(share, OF_BARE_NETWORK, trial=trial)
            )
    if downloads := numbers.get("downloads"):
        other = downloads["beside"]
        for name in STORES:
            for many in CONNECTIONS:
                ours, theirs = (
                    median(downloads[f"{server} {name} {many}"], "mb_per_s")
                    for server in (OURS, other)
                )
                lines.append(
                    f"downloads, {name}, {many} connections: {ours / theirs:.2f} of {other}, "
                    f"target {OF_STATIC}: " + judged(ours / theirs, OF_STATIC, trial=trial)
                )
    return lines


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be given twice")
    parser.add_argument("--images", type=int, default=256, help="photographs to embed")
    parser.add_argument("--seconds", type=float, default=10, help="a cell, over all rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="by py-spy")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.profile is not None:
        if shutil.which("py-spy") is None:
            parser.error("--profile needs py-spy: pip install py-spy")
        arguments.profile.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    main()
