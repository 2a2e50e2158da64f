"""URLs of services and of what lies at them."""

from __future__ import annotations

from urllib.parse import quote

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from featurestore.errors import InvalidInput
from featurestore.remote.answers import short

TOKEN_STEP = "set FS_TOKEN to the service's token, or give --token-file FILE"  # noqa: S105


def quoted(*segments: str) -> str:
    """Return a path of these segments, whatever characters they hold: ``/a/b%20c``."""
    return "".join(f"/{_quoted(segment)}" for segment in segments)


def _quoted(segment: str) -> str:
    if segment in (".", ".."):  # as they are, they would be taken for steps
        return segment.replace(".", "%2E")
    return quote(segment, safe="")


def parse_service_url(url: str) -> Url:
    """Return the URL of a service as its parts.

    Raises
    ------
    InvalidInput
        It is none, or holds a password, a query or a fragment.
    """
    wrong = InvalidInput(
        f"{short(url)!r} is no URL of a service", next_step="give one such as http://host:8000"
    )
    try:
        parsed = parse_url(url)
    except LocationParseError as error:
        raise wrong from error
    if "://" not in url or parsed.scheme not in ("http", "https") or not parsed.host:
        raise wrong
    if parsed.auth is not None:
        raise InvalidInput("the URL holds a user or password", next_step=TOKEN_STEP)
    if parsed.query is not None or parsed.fragment is not None:
        raise wrong
    return parsed


def parse_proxy_url(url: str, *, subject: str) -> Url:
    """Return the URL of an HTTP proxy as its parts; without a scheme it is one of ``http``.

    Parameters
    ----------
    subject
        What names the proxy, for the error: the URL itself may hold a password.

    Raises
    ------
    InvalidInput
        It is none, or one of another kind of proxy.
    """
    step = "give one such as http://host:3128, or http://user:password@host:3128"
    wrong = InvalidInput(f"{subject}: expected the URL of an HTTP proxy", next_step=step)
    try:
        parsed = parse_url(url if "://" in url else f"http://{url}")
    except LocationParseError as error:
        raise wrong from error
    if parsed.scheme not in ("http", "https"):
        raise InvalidInput(
            f"{wrong.message}, found scheme {short(str(parsed.scheme))}", next_step=step
        )
    if not parsed.host:
        raise wrong
    return parsed


def origin(url: Url) -> tuple[str | None, str | None, int]:
    """Return what tells one server from another: scheme, host and port."""
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)
