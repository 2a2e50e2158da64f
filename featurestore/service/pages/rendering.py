"""Pages as HTTP answers: templates filled in, and errors that are pages too."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from featurestore.errors import FeatureStoreError
from featurestore.report.templating import (
    ChoiceLoader,
    Environment,
    Markup,
    PackageLoader,
    page_environment,
)
from featurestore.report.text import bytes_text, percent_text, seconds_text, shown
from featurestore.service import problems
from featurestore.service.contract import Busy
from featurestore.service.outward import told
from featurestore.service.pages import addresses
from featurestore.service.pages.assets import asset_url
from featurestore.service.pages.words import time_text

_log = logging.getLogger("featurestore.service")
_HEADERS = {"Cache-Control": "private, no-cache"}


@functools.cache
def environment() -> Environment:
    """Return what renders the pages' templates, those of the report among them."""
    loader = ChoiceLoader(
        [PackageLoader("featurestore.service.pages"), PackageLoader("featurestore.report")]
    )
    made = page_environment(loader)
    made.filters |= {
        "breakable": _breakable,
        "bytes": bytes_text,
        "percent": percent_text,
        "seconds": seconds_text,
        "shown_lines": _shown_lines,
        "time": time_text,
    }
    made.globals |= {
        "asset": asset_url,
        "map_page": addresses.map_page,
        "row_image": addresses.row_image,
        "run_page": addresses.run_page,
        "set_page": addresses.set_page,
    }
    return made


def _shown_lines(text: str) -> str:
    return "\n".join(map(shown, text.split("\n")))


def _breakable(text: str) -> Markup:
    """Let a line break behind the signs that join the words of a name."""
    return Markup("<wbr>").join(re.split(r"(?<=[_=/.,-])", text))  # it escapes what it joins


def page(
    request: Request,
    template: str,
    *,
    values: dict[str, object],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a page: `template` extends ``base.html.j2`` and shows `values`."""
    path = request.url.path
    frame = {
        "path": path,
        "section": path.split("/")[1],
        "may_sign_out": request.app.state.door is not None and bool(request.cookies),
    }
    text = environment().get_template(template).render(**frame, **values)
    return HTMLResponse(text, status, headers={**_HEADERS, **(headers or {})})


def error_page(request: Request, error: FeatureStoreError) -> Response:
    """Return an error of the library as a page that says what can be done."""
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Busy) else None
    status = problems.status_of(error)
    cache = request.app.state.service.settings.cache
    message, next_step = told(error, status=status, cache=cache)
    return message_page(request, status, message, next_step=next_step, headers=headers)


def message_page(
    request: Request,
    status: int,
    message: str,
    *,
    next_step: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a page that says why there is no other."""
    values: dict[str, object] = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "message": message,
        "next_step": next_step,
    }
    return page(request, "message.html.j2", values=values, status=status, headers=headers)


class PageRoute(APIRoute):
    """A route whose errors are pages: whoever opened it in a browser reads no problem document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except FeatureStoreError as error:
                if problems.status_of(error) >= 500:
                    _log.error("%s", error)
                return error_page(request, error)
            except RequestValidationError as error:
                fields = ", ".join(str(each["loc"][-1]) for each in error.errors())
                return message_page(request, 422, f"the address has a wrong value: {fields}")

        return answer
