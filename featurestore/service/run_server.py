"""Runs the application: one process, one socket, until it is told to stop."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI
from prometheus_client import disable_created_metrics
from starlette.types import ASGIApp

from featurestore.errors import Conflict, InvalidInput
from featurestore.service.app import create_app
from featurestore.service.connections import Patience, PatientServer, patient_protocol
from featurestore.service.contract import ServiceSettings
from featurestore.service.logs import LogFormat, configure_logging
from featurestore.service.service import Service
from featurestore.service.sessions import checked_token

DEFAULT_PORT = 8000
_CONNECTIONS = 4096
_LEAST_CONNECTIONS = 64
_DESCRIPTORS = 2  # of one connection: its socket, and the file that it is sent
_FILES = 512  # for stores, pipes to workers and what libraries open
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_KEEP_ALIVE_S = 75  # longer than clients keep a connection idle, so that they close it, not we


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """Where a service listens; port 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def run_server(
    settings: ServiceSettings,
    address: Address = Address(),  # frozen
    *,
    log_format: LogFormat | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was accepted; a second signal ends at once.

    Clients that are not done 30 s after the signal are cut off, and the log says so.

    Parameters
    ----------
    log_format
        How this process logs from then on; None leaves that alone.
    ready
        Told the URL once connections are accepted.

    Raises
    ------
    InvalidInput
        The address is not this machine's to listen on, the token is too weak, or there is none and
        others can reach the address.
    Conflict
        Something else listens there.
    """
    if settings.token is None and not address.is_loopback:
        raise InvalidInput(
            f"{address.host} can be reached from other machines, and no token is asked for",
            next_step="give a token, or listen on 127.0.0.1",
        )
    if settings.token is not None:
        checked_token(settings.token)
    else:
        settings = dataclasses.replace(settings, hosts=(*_LOCAL_NAMES, _in_url(address.host)))
    listener = listen(address)
    url = url_of(address.host, listener.getsockname()[1])
    if log_format is not None:
        configure_logging(log_format)
    # When each series began would double what is scraped.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    app = create_app(settings)
    patience = Patience(head_s=settings.limits.head_seconds, connections=allow_connections())
    server = _Server(app, patience, ready=lambda: ready(url))
    server.run(sockets=[listener])


def server_config(app: ASGIApp, patience: Patience) -> uvicorn.Config:
    """Return how uvicorn runs `app`: one process, logging left alone, nothing read from outside."""
    return uvicorn.Config(
        app,
        http=patient_protocol(patience),
        ws="none",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_keep_alive=_KEEP_ALIVE_S,
    )


def url_of(host: str, port: int) -> str:
    """Return the URL under which a person reaches a service that listens on `host`."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
        host = socket.gethostname()
    return f"http://{_in_url(host)}:{port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(PatientServer):
    """Tells when it is ready, ends with exit code 0 when it was asked to, and at once if twice."""

    def __init__(self, app: FastAPI, patience: Patience, *, ready: Callable[[], None]) -> None:
        super().__init__(server_config(app, patience), patience)
        self._app = app
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again when all is done, so that the process dies of it.
        before = {name: signal.signal(name, self.handle_exit) for name in _SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True
        service: Service | None = getattr(self._app.state, "service", None)
        if service is not None:  # else it is still starting
            service.stopping = True
        for name in _SIGNALS:  # the system ends us then, whatever a thread is busy with
            signal.signal(name, signal.SIG_DFL)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OTHER = {
    errno.EADDRINUSE: "give another --port; 0 takes a free one",
    errno.EACCES: "give a --port above 1023",
    errno.EADDRNOTAVAIL: "give an address of this machine; 0.0.0.0 is all of them",
}


def allow_connections() -> int:
    """Raise this process's limit of open files; return how many connections it leaves room for."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows: sockets are not files there
        return _CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _DESCRIPTORS * _CONNECTIONS + _FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return max(_LEAST_CONNECTIONS, min(_CONNECTIONS, (soft - _FILES) // _DESCRIPTORS))


def listen(address: Address) -> socket.socket:
    """Return a socket that accepts connections at `address`.

    Raises
    ------
    InvalidInput
        The address is not this machine's to listen on.
    Conflict
        Something else listens there.
    """
    where = f"{address.host} port {address.port}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidInput(f"{where}: no address of this machine: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # Windows lets two processes share a port by it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and sys.platform != "win32" and address.host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        failure = Conflict if error.errno == errno.EADDRINUSE else InvalidInput
        step = _OTHER.get(error.errno or 0)
        raise failure(f"{where}: {error.strerror}", next_step=step) from error
    return listener
