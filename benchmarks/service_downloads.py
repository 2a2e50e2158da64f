"""(c) of benchmarks/service.py: the files of stores, beside a plain static file server."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

from commands import fs, run_json
from load import Plan, run_plan
from service_profile import profile as watch
from service_rounds import Timing, in_turns, median, ratio, share_of_cores
from service_scratch import Scratch
from service_servers import Served, bare_server, fs_serve, static_server

CONNECTIONS = (1, 8)
FORMATS = ("zarr", "hdf5")
OURS = "fs serve"
_BARE = "bare"


def measure_downloads(scratch: Scratch, folder: Path, timing: Timing, profile: Path | None) -> dict:
    """Return the medians of each cell, ``server format connections``, and of ``fs pull format``."""
    listed = {name: scratch.files(name) for name in FORMATS}
    with (
        fs_serve(scratch.cache, folder) as served,
        static_server(scratch.cache, folder) as (other, static),
        bare_server(folder, answers=folder, root=scratch.cache) as bare,
    ):
        servers = {OURS: (served, 0), other: (static, 1), _BARE: (bare, 1)}

        def plan(server: str, name: str, connections: int, seconds: float | None) -> Plan:
            process, column = servers[server]
            below = "/memory" if process is bare else ""
            targets = [below + str(file[column]) for file in listed[name]]
            return Plan(port=process.port, targets=targets, clients=connections, seconds=seconds)

        for server, name in itertools.product(servers, FORMATS):  # all of it, and warm
            whole = run_plan(plan(server, name, 1, None)).body_bytes
            expected = sum(size for _, _, size in listed[name])
            if whole != expected:
                raise RuntimeError(f"{server}, {name}: expected {expected} bytes, found {whole}")

        def measure(cell: tuple[str, str, int]) -> dict[str, float]:
            server, name, _ = cell
            if server == "fs pull":
                return _pull(served, scratch, folder / "pulled", store_format=name)
            process = servers[server][0]
            used = process.processor_seconds()
            load = run_plan(plan(*cell, timing.cell_s))
            return {
                "mb_per_s": load.mb_per_s,
                "p50_ms": load.p50_ms,
                "p99_ms": load.p99_ms,
                "generator_share": load.processor_share,
                "server_share": (process.processor_seconds() - used) / load.seconds,
            }

        cells = {
            f"{server} {name} {connections}": (server, name, connections)
            for server, name, connections in itertools.product(servers, FORMATS, CONNECTIONS)
        }
        cells |= {f"fs pull {name}": ("fs pull", name, 0) for name in FORMATS}
        found = in_turns(cells, timing.rounds, measure)
        if profile is not None:
            print("\nprofile of a Zarr store's files, 8 connections")
            watch(
                served.process.pid,
                profile / "downloads.txt",
                max(5.0, timing.cell_s),
                lambda seconds: run_plan(plan(OURS, "zarr", 8, seconds)),
            )
    _print(found, other, listed)
    return found | {"beside": other}


def _pull(served: Served, scratch: Scratch, cache: Path, *, store_format: str) -> dict[str, float]:
    began = time.perf_counter()
    pulled = run_json(
        fs(
            "pull", f"http://127.0.0.1:{served.port}", scratch.records[store_format].name,
            "--format", store_format, "--cache", cache, "--json",
        )
    )  # fmt: skip
    seconds = time.perf_counter() - began
    shutil.rmtree(cache)
    moved = pulled["moved_bytes"]
    return {"mb_per_s": moved / pulled["seconds"] / 1e6, "process_mb_per_s": moved / seconds / 1e6}


def _print(found: dict, other: str, listed: dict[str, list[tuple[str, str, int]]]) -> None:
    print(f"\n(c) downloads, MB/s, beside {other}")
    for name, connections in itertools.product(FORMATS, CONNECTIONS):
        sizes = [size for _, _, size in listed[name]]
        ours, theirs, bare = (
            found[f"{server} {name} {connections}"] for server in (OURS, other, _BARE)
        )
        middle, least, most = ratio(ours, theirs, "mb_per_s")
        print(
            f"{name}, {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, {connections} connections: "
            f"{median(ours, 'mb_per_s'):.0f} beside {median(theirs, 'mb_per_s'):.0f}, "
            f"{middle:.2f}, by round {least:.2f} to {most:.2f}; a file p50 "
            f"{median(ours, 'p50_ms'):.1f} ms, p99 {median(ours, 'p99_ms'):.1f} ms; "
            f"{share_of_cores(ours)}; {other}'s {share_of_cores(theirs)}; "
            f"{ratio(ours, bare, 'mb_per_s')[0]:.2f} of uvicorn and Starlette from memory"
        )
    for name in FORMATS:
        cell = found[f"fs pull {name}"]
        print(
            f"fs pull, {name}: {median(cell, 'mb_per_s'):.0f} MB/s, with the start of its process "
            f"{median(cell, 'process_mb_per_s'):.1f}"
        )
