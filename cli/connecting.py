"""A service as commands reach it: its URL, its token, and the proxy that the environment names."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from featurestore.remote.connection import Connection
from featurestore.remote.urls import parse_proxy_url
from featurestore_cli.token_option import read_token


def connect(url: str, *, token_file: Path | None) -> Connection:
    """Return a connection to a service; nothing is sent yet.

    Proxies are those of `http_proxy`, `https_proxy` and `no_proxy`, or of the system's settings.

    Raises
    ------
    InvalidInput
        The URL or the token is none, or a variable names no HTTP proxy.
    """
    return Connection(url, token=read_token(token_file), proxy=_proxy(url))


def _proxy(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if not host or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    return proxy and parse_proxy_url(proxy, subject=f"{parts.scheme}_proxy").url
