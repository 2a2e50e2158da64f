"""`fs serve`: one cache over HTTP."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from pathlib import Path
from typing import Any

import click

from featurestore.errors import MissingDependency, NotFound
from featurestore_cli.options import BytesType, cache_option
from featurestore_cli.output import say
from featurestore_cli.token_option import read_token, token_option

_LIMITS = {  # option: field of Limits
    "max_body": "body_bytes",
    "max_images": "images",
    "max_pixels": "pixels",
    "requests": "requests",
    "queue": "queued_images",
}
# Of the extra, by the names under which they are imported.
_EXTRA = ("fastapi", "httptools", "jinja2", "prometheus_client", "python_multipart", "starlette")


def _number(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, which is in every range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("expected a number, found nan", context, option)
    return value


@click.command()
@cache_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; others than this machine's own ask for a token.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."
)
@token_option
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Where the images are now; default: where they were embedded from.",
)
@click.option("--max-body", type=BytesType(1), show_default="64MiB", help="Of one request.")
@click.option("--max-images", type=click.IntRange(1), show_default="256", help="In one request.")
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    show_default="50 million",
    help="Of one image; fs embed takes more. A decoder may have 16 bytes a pixel, and 1 GiB.",
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    show_default="64",
    help="That compute at once; others are told to come again.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    show_default="1024",
    help="Images that wait for the network.",
)
@click.option(
    "--latency",
    type=click.FloatRange(0, 60_000),
    callback=_number,
    metavar="MS",
    show_default="10",
    help="Longest that an image waits for others to share its batch.",
)
@click.option("--online-bytes", type=BytesType(), help="Bound of the cache of single images.")
@click.option(
    "--heads-bytes", type=BytesType(), show_default="1GiB", help="Of heads that stay loaded."
)
@click.option("--workers", type=click.IntRange(1), help="Decoding processes; default: one a core.")
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    show_default="text on a terminal, else json",
    help="One line a request, on stderr.",
)
def serve(
    cache: Path,
    host: str,
    port: int,
    *,
    token_file: Path | None,
    log_format: str | None,
    **options: Any,
) -> None:
    """Serve a cache: browse and pull its feature sets, embed and classify images, over HTTP.

    On another address than this machine's own a token is required: in FS_TOKEN or --token-file, of
    at least 16 characters. Programs send it as "Authorization: Bearer"; in a browser one signs in
    with it. What goes over the network is not encrypted: put a server that speaks HTTPS in front
    where others can listen.

    Ends at Ctrl-C or SIGTERM, when it has finished what it accepted; at a second one, at once.
    """
    try:
        from featurestore.images import MAX_PIXELS
        from featurestore.service.contract import Limits, ServiceSettings
        from featurestore.service.run_server import Address, run_server
        from featurestore.service.sessions import HOW_TO_MAKE_ONE
    except ModuleNotFoundError as error:
        if error.name not in (*_EXTRA, "uvicorn"):
            raise
        raise MissingDependency(
            f"fs serve needs {error.name}", next_step="pip install 'featurestore[service]'"
        ) from error

    if not cache.is_dir():
        raise NotFound(
            f"no cache {cache}", next_step="name one by --cache, or fs embed DATASET makes it"
        )
    token = read_token(token_file)
    address = Address(host=host, port=port)
    if token is None and not address.is_loopback:
        raise click.UsageError(
            f"--host {host}: other machines can reach it, so a token is required, in FS_TOKEN or "
            f"--token-file; {HOW_TO_MAKE_ONE}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    limits = {field: given.pop(name) for name, field in _LIMITS.items() if name in given}
    if limits.get("pixels", 1) > MAX_PIXELS:
        raise click.BadParameter(
            f"expected at most {MAX_PIXELS}, beyond which no image is decoded",
            param_hint="--max-pixels",
        )
    if "latency" in given:
        given["latency_s"] = given.pop("latency") / 1000
    settings = ServiceSettings(
        cache=cache, token=token, limits=dataclasses.replace(Limits(), **limits), **given
    )
    as_json = (log_format or ("text" if sys.stderr.isatty() else "json")) == "json"

    def ready(url: str) -> None:
        signs_in = "" if token is None else f"; in a browser sign in at {url}/login"
        message = f"serving {cache} at {url} (Ctrl-C ends it{signs_in})"
        if as_json:  # so that each line of the log is JSON
            logging.getLogger("featurestore.service").info(message, extra={"url": url})
        else:
            say(message)

    run_server(settings, address, log_format="json" if as_json else "text", ready=ready)
