"""The servers that are measured, each a process of its own on a free port of the loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from commands import fs

HERE = Path(__file__).parent
_STARTS_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_NGINX_CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
worker_processes {cores};
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root "{root}"; }}
}}
"""


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    process: subprocess.Popen
    port: int

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read()

    def images_by_origin(self) -> dict[str, int]:
        """Return what `/metrics` counts: images answered, by where they came from."""
        found = re.findall(
            r'^featurestore_images_total{origin="([^"]+)"} ([0-9.e+]+)$',
            self.get("/metrics").decode(),
            re.MULTILINE,
        )
        return {origin: int(float(count)) for origin, count in found}

    def processor_seconds(self) -> float:
        """Return what the process and those it started have used; 0 where there is no /proc."""
        return sum(_ticks(pid) for pid in _family(self.process.pid)) / _TICKS_PER_S

    def rest(self, still_s: float = 1.5) -> None:
        """Return once it has done nothing for a while: it tries smaller batches when it is idle."""
        before, since = self.processor_seconds(), time.monotonic()
        while time.monotonic() - since < still_s:
            time.sleep(0.1)
            now = self.processor_seconds()
            if now - before > 0.05:
                before, since = now, time.monotonic()


@contextmanager
def fs_serve(cache: Path, folder: Path, *, trace: Path | None = None) -> Iterator[Served]:
    """Run `fs serve`; with `trace`, the same with its batches written down (service_traced.py)."""
    command = fs("serve", "--cache", cache, "--port", "0", "--log-format", "json")
    if trace is not None:
        program = str(HERE / "service_traced.py")
        command = [sys.executable, program, str(trace), *command[3:]]

    def port(log: str) -> int | None:
        for line in log.splitlines():
            if '"url"' in line:
                return int(json.loads(line)["url"].rpartition(":")[2])
        return None

    with _running(command, folder / "serve.log", port) as served:
        yield served


@contextmanager
def bare_server(
    folder: Path, *, answers: Path, root: Path, log: str = "bare.log"
) -> Iterator[Served]:
    """Run uvicorn and Starlette with next to nothing in them; see service_bare.py."""
    command = [sys.executable, str(HERE / "service_bare.py"), str(answers), str(root)]

    def port(said: str) -> int | None:
        found = re.search(r"^port (\d+)$", said, re.MULTILINE)
        return None if found is None else int(found[1])

    with _running(command, folder / log, port) as served:
        yield served


@contextmanager
def static_server(root: Path, folder: Path) -> Iterator[tuple[str, Served]]:
    """Run nginx, or where it is not installed Starlette's static files; yield its name, too."""
    if NGINX is None:
        with bare_server(folder, answers=folder, root=root, log="static.log") as served:
            yield "Starlette's StaticFiles (nginx is not installed)", served
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    text = _NGINX_CONFIGURATION.format(folder=folder, root=root, port=number, cores=os.cpu_count())
    if os.geteuid() == 0:  # its workers would else be nobody, who may not read the scratch folder
        text = "user root;" + text
    configuration = folder / "nginx.conf"
    configuration.write_text(text)

    def port(log: str) -> int | None:
        del log
        with socket.socket() as trial:
            return number if trial.connect_ex(("127.0.0.1", number)) == 0 else None

    command = [NGINX, "-c", str(configuration), "-e", str(folder / "nginx.log")]
    with _running(command, folder / "nginx.out", port) as served:
        yield "nginx", served


@contextmanager
def _running(
    command: Sequence[str], log: Path, port_of: Callable[[str], int | None]
) -> Iterator[Served]:
    # A token in the environment would be asked of the generator.
    environment = {name: value for name, value in os.environ.items() if name != "FS_TOKEN"}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    try:
        yield Served(process, _wait_for_port(process, log, port_of))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(
    process: subprocess.Popen, log: Path, port_of: Callable[[str], int | None]
) -> int:
    ends = time.monotonic() + _STARTS_S
    while time.monotonic() < ends and process.poll() is None:
        port = port_of(log.read_text())
        if port is not None:
            return port
        time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} did not start: {log.read_text()[-2000:]}")


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _family(int(child)))]


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
