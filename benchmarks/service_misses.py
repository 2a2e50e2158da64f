"""(b) of benchmarks/service.py: images that the service has never seen."""

from __future__ import annotations

import statistics
from pathlib import Path

from embed import Bare
from load import Plan, percentile, run_plan
from service_rounds import Timing, in_turns, median, ratio, share_of_cores
from service_scratch import Scratch, encoded_anew
from service_servers import Served, fs_serve
from service_traced import waits_ms

from featurestore.service.contract import ServiceSettings

_BATCH = 32  # of the bare network
_BARE = "bare network"
# clients, images a request
MODES = {"one by one": (1, 1), "32 clients": (32, 1), "4 clients x 16": (4, 16)}
_STEP, _TRIAL_STEP = 64, 32  # divide into full batches, and into 4 forms of 16 or 2
_ALONE = 4  # one by one takes longer, so it gets fewer


class _Fresh:
    """Images with new bytes, each handed out once."""

    def __init__(self, scratch: Scratch, folder: Path) -> None:
        self._scratch, self._folder, self._parts = scratch, folder, 0

    def take(self, count: int) -> list[str]:
        self._parts += 1
        target = self._folder / f"{self._parts}"
        return [str(each) for each in encoded_anew(self._scratch.photographs, target, count)]


def measure_misses(scratch: Scratch, weights: Path, folder: Path, timing: Timing) -> dict:
    """Return the medians of each mode, beside the bare network's."""
    trace = folder / "batches.jsonl"
    fresh = _Fresh(scratch, folder / "fresh")
    bare = Bare(list(scratch.photographs), weights, scratch.recipe.precision, _BATCH)
    per_s = len(bare.images) / bare.seconds()
    step = _TRIAL_STEP if timing.trial else _STEP
    count = max(step, step * round(per_s * timing.cell_s / step))
    bare.images = bare.images[[index % len(bare.images) for index in range(count)]]
    with fs_serve(scratch.cache, folder, trace=trace) as served:
        served.get("/healthz")
        _warm(served, scratch, fresh)

        def measure(mode: str) -> dict[str, float]:
            served.rest(0.3)
            if mode == _BARE:
                return {"per_s": count / bare.seconds()}
            return _measure(served, scratch, fresh, trace, mode=mode, count=count)

        names = (_BARE, *MODES)
        found = in_turns(dict(zip(names, names, strict=True)), timing.rounds, measure)
    _print(found, count)
    return found


def _warm(served: Served, scratch: Scratch, fresh: _Fresh) -> None:
    """Let the network be built and compiled, and its smaller batch sizes be tried."""
    for mode in ("one by one", "32 clients"):
        clients, _ = MODES[mode]
        run_plan(_plan(served, scratch, fresh.take(clients), mode=mode))
        served.rest()


def _plan(served: Served, scratch: Scratch, images: list[str], *, mode: str) -> Plan:
    clients, a_request = MODES[mode]
    return Plan(
        port=served.port,
        targets=[f"/v1/embed?recipe={scratch.recipe.name}"],
        images=images,
        images_a_request=a_request,
        accept="application/x-npy",
        clients=clients,
    )


def _measure(
    served: Served, scratch: Scratch, fresh: _Fresh, trace: Path, *, mode: str, count: int
) -> dict[str, float]:
    clients, a_request = MODES[mode]
    images = count if clients > 1 else count // _ALONE
    plan = _plan(served, scratch, fresh.take(images), mode=mode)
    seen, used = len(trace.read_text().splitlines()), served.processor_seconds()
    load = run_plan(plan)
    used = served.processor_seconds() - used
    if load.caches != {"miss": images // a_request}:
        raise RuntimeError(f"expected misses alone, found {load.caches}")
    waits = waits_ms(trace.read_text().splitlines()[seen:])
    return {
        "per_s": images / load.seconds,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "batch_images": statistics.mean(waits["images"]),
        "company_p50_ms": percentile(waits["company_ms"], 50),
        "company_p99_ms": percentile(waits["company_ms"], 99),
        "company_most_ms": max(waits["company_ms"]),
        "queued_p50_ms": percentile(waits["queued_ms"], 50),
        "queued_p99_ms": percentile(waits["queued_ms"], 99),
        "generator_share": load.processor_share,
        "server_share": used / load.seconds,
    }


def _print(found: dict, count: int) -> None:
    bound = 1000 * ServiceSettings.latency_s
    print(f"\n(b) misses, {count} images a round, one by one {count // _ALONE}")
    print(f"{_BARE:15s} {median(found[_BARE], 'per_s'):6.1f} images/s, batches of {_BATCH}")
    for mode in MODES:
        cell = found[mode]
        middle, least, most = ratio(cell, found[_BARE], "per_s")
        print(
            f"{mode:15s} {median(cell, 'per_s'):6.1f} images/s, {middle:.2f} of bare, by round "
            f"{least:.2f} to {most:.2f}; a request p50 {median(cell, 'p50_ms'):.0f} ms, "
            f"p99 {median(cell, 'p99_ms'):.0f} ms; {share_of_cores(cell)}"
        )
        print(
            f"{'':15s} batches of {median(cell, 'batch_images'):.1f}; with the network idle a "
            f"batch waited for company p50 {median(cell, 'company_p50_ms'):.1f} ms, "
            f"p99 {median(cell, 'company_p99_ms'):.1f}, at most "
            f"{max(cell['company_most_ms']):.1f} (bound {bound:.0f}); an image until its batch "
            f"left, p50 {median(cell, 'queued_p50_ms'):.0f} ms, p99 "
            f"{median(cell, 'queued_p99_ms'):.0f} ms"
        )
