"""uvicorn and Starlette with next to nothing in them: as fast as a service of theirs can be here.

    python benchmarks/service_bare.py ANSWERS ROOT

`POST /NAME` reads the body and answers the bytes of the file NAME in ANSWERS. Other paths are files
below ROOT; below `/memory` they are read once. Prints the port that it took.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles


def bare_app(answers: Path, root: Path) -> Starlette:
    known = {path.name: path.read_bytes() for path in answers.iterdir() if path.is_file()}

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(known[request.path_params["name"]], media_type="application/octet-stream")

    read: dict[str, bytes] = {}

    async def from_memory(request: Request) -> Response:
        path = request.path_params["path"]
        if path not in read:
            read[path] = (root / path).read_bytes()
        return Response(read[path], media_type="application/octet-stream")

    return Starlette(
        routes=[
            Route("/memory/{path:path}", from_memory),
            Route("/{name}", answer, methods=["POST"]),
            Mount("/", StaticFiles(directory=root)),
        ]
    )


def main() -> None:
    answers, root = map(Path, sys.argv[1:])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    print("port", listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        bare_app(answers, root), access_log=False, log_level="warning", ws="none", lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
