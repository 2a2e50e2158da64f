"""A service in a process of its own, and the memory that it and its children take."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 120.0
_SAMPLE_S = 0.1
_END_S = 30.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
# `fs serve` with settings that the command has no options for.
_TINY = """
    import dataclasses, json, sys
    from featurestore.service import run_server
    from featurestore.testing.backbones import TinyNetwork

    limits, pause_s = json.loads(sys.argv.pop(1))
    serve = run_server.run_server

    def serve_tiny(settings, *arguments, **options):
        tiny = dataclasses.replace(
            settings,
            limits=dataclasses.replace(settings.limits, **limits),
            network=lambda recipe: TinyNetwork(dtype=recipe.dtype, pause_s=pause_s),
        )
        serve(tiny, *arguments, **options)

    run_server.run_server = serve_tiny
    from featurestore_cli.main import main
    main()
"""
_REAL = "from featurestore_cli.main import main; main()"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny:
    """A service whose network is `TinyNetwork`, which needs neither TensorFlow nor weights.

    Parameters
    ----------
    limits
        Fields of `Limits` that are not at their defaults.
    pause_s
        Seconds that each pass through the network takes.
    """

    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pause_s: float = 0.0


class Memory:
    """Resident bytes of a process and all that descend from it, sampled (Linux only).

    Attributes
    ----------
    peak_bytes
        Largest sum at one time; memory that they share counts for each.
    largest_child_bytes
        Of any one descendant at any time.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak_bytes = 0
        self.largest_child_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    @staticmethod
    def is_known() -> bool:
        """Whether this system tells."""
        return Path("/proc/self/statm").exists()

    def now(self) -> dict[int, int]:
        """Return the resident bytes of each process, by its id."""
        parents, sizes = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(stat[1])
                sizes[int(folder.name)] = int(stat[21]) * _PAGE_BYTES
            except (OSError, IndexError):  # it has just ended
                continue
        family = {self._pid}
        grown = True
        while grown:
            found = {pid for pid, parent in parents.items() if parent in family} - family
            family |= found
            grown = bool(found)
        return {pid: sizes[pid] for pid in family if pid in sizes}

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            now = self.now()
            self.peak_bytes = max(self.peak_bytes, sum(now.values()))
            children = [size for pid, size in now.items() if pid != self._pid]
            self.largest_child_bytes = max([self.largest_child_bytes, *children])


class ServedProcess:
    """`fs serve` as it runs: its URL, its log and its memory.

    Attributes
    ----------
    lines
        What it has written to stderr.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.memory = Memory(process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for_url()

    def end(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.terminate()
        return self._ended()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.memory.end()
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line)

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in list(self.lines):
                if found := re.search(r"http://[^\s\"();]+", line):
                    return found[0]
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"fs serve did not start: {''.join(self.lines)}")


@contextmanager
def served_process(
    cache: Path,
    *options: str,
    tiny: Tiny | None = Tiny(),  # frozen
    token: str | None = None,
    port: int = 0,
) -> Iterator[ServedProcess]:
    """Run `fs serve` on one cache until the block is left; it must still run then, and end well.

    Parameters
    ----------
    tiny
        None: networks are what the cache's recipes name.

    Raises
    ------
    RuntimeError
        It did not start, ended by itself, or ended otherwise than it should.
    """
    served = start_served(cache, *options, tiny=tiny, token=token, port=port)
    try:
        yield served
    finally:
        alive = served.process.poll() is None
        code = served.end()
    if not alive or code:
        raise RuntimeError(f"fs serve ended with {code}: {''.join(served.lines[-50:])}")


def start_served(
    cache: Path,
    *options: str,
    tiny: Tiny | None = Tiny(),  # frozen
    token: str | None = None,
    port: int = 0,
) -> ServedProcess:
    """Run `fs serve` until it is ended or killed; as `served_process` otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "FS_TOKEN"}
    arguments = ["serve", "--cache", str(cache), "--port", str(port), *options]
    process = subprocess.Popen(
        _command(tiny, arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment if token is None else {**environment, "FS_TOKEN": token},
    )
    return ServedProcess(process)


def _command(tiny: Tiny | None, arguments: Sequence[str]) -> list[str]:
    if tiny is None:
        return [sys.executable, "-c", _REAL, *arguments]
    setting = json.dumps([dict(tiny.limits), tiny.pause_s])
    return [sys.executable, "-c", textwrap.dedent(_TINY), setting, *arguments]
