"""Connections kept alive to one service, straight or through a proxy."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3.util import Timeout, make_headers

from featurestore.remote.urls import parse_proxy_url

_KEPT_CONNECTIONS = 32  # idle ones; more may be in use at once
_CONNECT_S = 10.0


class Pool:
    """urllib3's pool, of which a forked child has its own.

    Parameters
    ----------
    timeout_s
        Longest wait for the next bytes of an answer.
    proxy
        As `parse_proxy_url` takes it; None goes straight.

    Raises
    ------
    InvalidInput
        The proxy's URL is none.
    """

    def __init__(self, *, timeout_s: float, proxy: str | None) -> None:
        timeout = Timeout(connect=min(_CONNECT_S, timeout_s), read=timeout_s)
        self._options: dict[str, Any] = {"maxsize": _KEPT_CONNECTIONS, "timeout": timeout}
        self._proxy = None if proxy is None else parse_proxy_url(proxy, subject="the proxy")
        self._made = os.getpid(), self._make()

    def here(self) -> urllib3.PoolManager:
        """Return this process's pool: on its parent's connections a child reads its answers."""
        process, pool = self._made
        if process != os.getpid():
            pool = self._make()
            self._made = os.getpid(), pool
        return pool

    def clear(self) -> None:
        """Let go of idle connections."""
        self.here().clear()

    def _make(self) -> urllib3.PoolManager:
        if self._proxy is None:
            return urllib3.PoolManager(**self._options)
        auth = self._proxy.auth
        headers = None if auth is None else make_headers(proxy_basic_auth=unquote(auth))
        url = self._proxy._replace(auth=None).url
        return urllib3.ProxyManager(url, proxy_headers=headers, **self._options)
