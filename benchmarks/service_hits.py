"""(a) of benchmarks/service.py: images that the service knows, one to a request."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from load import Load, Plan, run_plan
from service_profile import profile as watch
from service_rounds import Timing, in_turns, median, share_of_cores
from service_scratch import Scratch
from service_servers import Served, bare_server, fs_serve

CLIENTS = (1, 8, 32)
FORMATS = {"npy": "application/x-npy", "json": "application/json"}
# The store and the online cache are asked for more images than memory holds, one after the other.
SOURCES = ("store", "online", "memory")
BARE = "bare"
_IN_MEMORY = 32
_ORIGINS = {"store": "feature set", "online": "online cache"}


class _Sources:
    """Which images to send for each source; each goes on where it stopped."""

    def __init__(self, scratch: Scratch, served: Served, bare: Served) -> None:
        self.images = {
            "store": scratch.stored,
            "online": scratch.online,
            "memory": scratch.stored[:_IN_MEMORY],
            BARE: scratch.stored[:_IN_MEMORY],
        }
        self.target = f"/v1/embed?recipe={scratch.recipe.name}"
        self.served, self.bare = served, bare
        self.at = dict.fromkeys(self.images, 0)

    def plan(self, source: str, answer: str, clients: int, *, seconds: float | None) -> Plan:
        bare = source == BARE
        return Plan(
            port=(self.bare if bare else self.served).port,
            targets=[f"/{answer}" if bare else self.target],
            images=[str(path) for path in self.images[source]],
            accept=FORMATS[answer],
            clients=clients,
            start=self.at[source],
            seconds=seconds,
        )

    def run(self, source: str, answer: str, clients: int, *, seconds: float | None) -> dict:
        server = self.bare if source == BARE else self.served
        if source == "memory" and seconds is not None:  # others may have driven them out
            self.run(source, answer, 1, seconds=None)
        before = self.served.images_by_origin()
        used = server.processor_seconds()
        load = run_plan(self.plan(source, answer, clients, seconds=seconds))
        used = server.processor_seconds() - used
        self.at[source] = load.next
        if source != BARE:
            self._check(source, load, before)
        return {
            "per_s": load.requests_per_s,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "generator_share": load.processor_share,
            "server_share": used / load.seconds,
        }

    def _check(self, source: str, load: Load, before: dict[str, int]) -> None:
        """Refuse to call what came from elsewhere by the wrong name."""
        if load.caches != {"hit": load.requests}:
            raise RuntimeError(f"expected hits alone, found {load.caches}")
        now = Counter(self.served.images_by_origin())
        now.subtract(before)
        origin = _ORIGINS.get(source)
        if origin is not None and now[origin] != load.requests:
            raise RuntimeError(f"expected {load.requests} images of {origin!r}, found {now}")


def measure_hits(scratch: Scratch, folder: Path, timing: Timing, profile: Path | None) -> dict:
    """Return the medians of each cell, ``source format clients``."""
    answers = folder / "answers"
    answers.mkdir()
    with fs_serve(scratch.cache, folder) as served:
        for name, accept in FORMATS.items():
            (answers / name).write_bytes(_one_answer(served, scratch, accept))
        with bare_server(folder, answers=answers, root=scratch.cache) as bare:
            sources = _Sources(scratch, served, bare)
            for source in sources.images:  # opens what is opened at first
                sources.run(source, "npy", 1, seconds=timing.warm_s)
            cells = {
                f"{source} {answer} {clients}": (source, answer, clients)
                for source, answer, clients in itertools.product(sources.images, FORMATS, CLIENTS)
            }
            found = in_turns(
                cells, timing.rounds, lambda cell: sources.run(*cell, seconds=timing.cell_s)
            )
            if profile is not None:
                print("\nprofile of hits from the store, .npy, 8 clients")
                watch(
                    served.process.pid,
                    profile / "hits.txt",
                    max(5.0, timing.cell_s),
                    lambda seconds: sources.run("store", "npy", 8, seconds=seconds),
                )
    _print(found, answers)
    return found


def _one_answer(served: Served, scratch: Scratch, accept: str) -> bytes:
    import urllib.request

    request = urllib.request.Request(
        f"http://127.0.0.1:{served.port}/v1/embed?recipe={scratch.recipe.name}",
        data=scratch.stored[0].read_bytes(),
        headers={"Accept": accept, "Content-Type": "image/jpeg"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read()


def _print(found: dict, answers: Path) -> None:
    sizes = ", ".join(f"{path.name} {path.stat().st_size:,} bytes" for path in answers.iterdir())
    print(f"\n(a) hits, requests/s; p50 and p99 in ms; cores used by the server ({sizes})")
    for answer, clients in itertools.product(FORMATS, CLIENTS):
        ceiling = median(found[f"{BARE} {answer} {clients}"], "per_s")
        for source in (*SOURCES, BARE):
            cell = found[f"{source} {answer} {clients}"]
            rate = median(cell, "per_s")
            print(
                f"{answer:5s} {clients:2d} clients  {source:7s} {rate:7.0f}/s "
                f"{rate / ceiling:5.2f} of bare  p50 {median(cell, 'p50_ms'):6.2f}  "
                f"p99 {median(cell, 'p99_ms'):6.2f}  {share_of_cores(cell)}"
            )
