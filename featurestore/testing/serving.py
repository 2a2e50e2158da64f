"""A service on a real socket for the length of a `with`: what a test client alone cannot show."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp

from featurestore.service.app import create_app
from featurestore.service.connections import Patience, PatientServer
from featurestore.service.contract import ServiceSettings
from featurestore.service.run_server import server_config

_START_S = 30.0
_STOP_S = 10.0


@contextmanager
def serve(settings: ServiceSettings) -> Iterator[str]:
    """Serve one cache on a free port of the loopback address; yields ``http://127.0.0.1:PORT``.

    The application runs in a thread of this process, with the connections of `fs serve`, and is
    stopped, its lifespan ended, when the block is left. Several may run at once.
    """
    with serve_app(create_app(settings)) as url:
        yield url


@contextmanager
def serve_app(app: ASGIApp) -> Iterator[str]:
    """As `serve`, for an application of one's own: such as one that counts what is sent.

    Raises
    ------
    RuntimeError
        The application did not start, or did not end.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    patience = Patience(grace_s=5.0)
    server = PatientServer(server_config(app, patience), patience)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name=f"service-{port}", daemon=True
    )
    thread.start()
    try:
        deadline = time.monotonic() + _START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the service on port {port} did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(_STOP_S)
        listening.close()
        if thread.is_alive():
            raise RuntimeError(f"the service on port {port} did not end")
