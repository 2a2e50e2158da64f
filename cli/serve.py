"""`fs serve`: one cache over HTTP."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from featurestore.errors import MissingDependency
from featurestore_cli.options import BytesType, cache_option
from featurestore_cli.output import say

_LIMITS = {  # option: field of Limits
    "max_body": "body_bytes",
    "max_images": "images",
    "max_pixels": "pixels",
    "requests": "requests",
    "queue": "queued_images",
}


@click.command()
@cache_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."
)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Where the images are now; default: where they were embedded from.",
)
@click.option("--max-body", type=BytesType(), show_default="64MiB", help="Of one request.")
@click.option("--max-images", type=click.IntRange(1), show_default="256", help="In one request.")
@click.option("--max-pixels", type=click.IntRange(1), help="Of one image.")
@click.option("--requests", type=click.IntRange(1), show_default="64", help="At work at once.")
@click.option("--queue", type=click.IntRange(1), show_default="1024", help="Images that wait.")
@click.option(
    "--latency",
    type=click.FloatRange(0),
    metavar="MS",
    show_default="10",
    help="Longest that an image waits for others to share its batch.",
)
@click.option("--online-bytes", type=BytesType(), help="Bound of the cache of single images.")
@click.option(
    "--heads-bytes", type=BytesType(), show_default="1GiB", help="Of heads that stay loaded."
)
@click.option("--workers", type=click.IntRange(1), help="Decoding processes; default: one a core.")
def serve(cache: Path, host: str, port: int, **options: Any) -> None:
    """Serve a cache: browse and pull its feature sets, embed and classify images, over HTTP.

    Ends at Ctrl-C, when it has finished what it accepted; at the second one, at once.
    """
    try:
        from featurestore.service.contract import Limits, ServiceSettings
        from featurestore.service.run_server import Address, run_server
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"fs serve needs {error.name}", next_step="pip install 'featurestore[service]'"
        ) from error

    given = {name: value for name, value in options.items() if value is not None}
    limits = {field: given.pop(name) for name, field in _LIMITS.items() if name in given}
    if "latency" in given:
        given["latency_s"] = given.pop("latency") / 1000
    settings = ServiceSettings(cache=cache, limits=dataclasses.replace(Limits(), **limits), **given)
    run_server(
        settings,
        Address(host=host, port=port),
        ready=lambda url: say(f"serving {cache} at {url} (Ctrl-C ends it)"),
    )
