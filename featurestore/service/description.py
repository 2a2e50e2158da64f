"""The OpenAPI description: what FastAPI makes of the routes, with what holds for all of them."""

from __future__ import annotations

from typing import Any

from featurestore.service.problems import MEDIA_TYPE

Description = dict[str, Any]

ABOUT = """\
One cache over HTTP: its feature sets and runs, the files of their stores, and features and class
probabilities of images that are sent.

Errors are problem documents (RFC 9457): `detail` says what failed, `next_step` what to do. Status
429 says in `Retry-After` when to come again. Every answer has an `X-Request-Id`, which the log
of the service names; a client may send its own. HEAD is answered wherever GET is.
"""
ABOUT_SIGNING_IN = """
This service asks for its token, as `Authorization: Bearer`. In a browser one signs in with it at
`/login`.
"""
TAGS = (
    ("catalogue", "Feature sets: names, recipes, rows."),
    ("store files", "Files of one version of a set, for readers such as Zarr and for `fs pull`."),
    ("runs", "Trained heads and fine-tuned networks."),
    ("embed and predict", "Features and classes of images that are sent."),
    ("maps", "A set laid out in the plane, and nearest neighbours."),
    ("photographs", "Small pictures of a set's images."),
    ("health", "For load balancers and Prometheus."),
)
OPEN = ("/healthz", "/readyz")
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What failed, expected against found."},
        "next_step": {"type": "string", "description": "What to do about it."},
    },
}
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def completed(description: Description, *, asks_for_token: bool) -> Description:
    """Return a description with problem documents, the token, and what the tags mean, added."""
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # ours are problem documents
        schemas.pop(unused, None)
    schemas["Problem"] = _PROBLEM
    description["info"]["description"] = ABOUT + (ABOUT_SIGNING_IN if asks_for_token else "")
    description["tags"] = [{"name": name, "description": text} for name, text in TAGS]
    if asks_for_token:
        description["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"}
        }
        description["security"] = [{"token": []}]
    for path, operations in description["paths"].items():
        closed = asks_for_token and path not in OPEN
        for method in set(operations).intersection(_METHODS):
            _complete(operations[method], method, closed=closed)
            if asks_for_token and not closed:
                operations[method]["security"] = []
    return description


def _complete(operation: Description, method: str, *, closed: bool) -> None:
    responses = operation["responses"]
    if "422" in responses:
        responses["422"]["description"] = "A parameter or the body is not as expected."
    if closed:
        responses.setdefault("401", {"description": "The token is missing or wrong."})
    if method != "get":
        responses.setdefault("403", {"description": "A page of another site sent the request."})
    responses.setdefault("default", {"description": "Whatever else went wrong."})
    for status, response in responses.items():
        if status == "default" or int(status) >= 400:
            response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
