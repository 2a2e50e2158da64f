"""What the OpenAPI description says of routes that take images: bodies, formats, refusals."""

from __future__ import annotations

from typing import Any, Literal

from featurestore.service.formats import ARROW, JSON, NPY
from featurestore.service.problems import MEDIA_TYPE

RECIPE = ("recipe", "Name of a recipe or feature set, or the start of a recipe's fingerprint.")
RUN = ("run", "Id of a run, or the start of one.")

_BYTES = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": {**_TEXT, "description": "What failed: expected against found."},
        "next_step": {**_TEXT, "description": "What to change."},
    },
}
_REFUSALS = {
    400: "The form is malformed.",
    404: "There is no such recipe or run, or weights for a new image are nowhere to be found.",
    406: "Accept names none of the formats.",
    408: "The body came too slowly.",
    409: "The weights are not those of the recipe, or a newer version's.",
    413: "More bytes, images or pixels than the service's limits allow.",
    415: "The body is encoded, or a multipart that is no form.",
    422: "No recipe or run is named, or several are meant; no image came; or an .npy file was "
    "asked for and an image cannot be read.",
    429: "As much is being done as the service takes on: come again after Retry-After seconds.",
    500: "What the service needs for it, such as a run's model, is damaged; its log says how.",
}
_ORIGIN = {"enum": ["feature set", "online cache", "computed"]}
_COUNT = {"type": "integer", "minimum": 0}


def described(
    column: Literal["features", "probabilities"], *, asked: tuple[str, str]
) -> dict[str, Any]:
    """Return what a route's decorator is told, by what it answers and the query that it needs."""
    name, meaning = asked
    return {
        "openapi_extra": {
            "parameters": [
                {
                    "name": name,
                    "in": "query",
                    "required": True,
                    "description": meaning,
                    "schema": {"type": "string", "minLength": 1},
                }
            ],
            "requestBody": {
                "required": True,
                "description": "One image as it is, under any type but a form's, or a form with an "
                "image in each part that has a file name. JPEG, PNG, WebP, BMP, GIF, TIFF.",
                "content": {
                    "application/octet-stream": {"schema": {**_BYTES, "minLength": 1}},
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "images": {"type": "array", "items": _BYTES, "minItems": 1}
                            },
                            "required": ["images"],
                        }
                    },
                },
            },
        },
        "responses": {
            200: {
                "description": f"The {column}, in the order of the images.",
                "headers": {
                    "X-Featurestore-Cache": {"schema": {"enum": ["hit", "miss", "mixed"]}},
                    "X-Featurestore-Hits": {"schema": _COUNT},
                    "X-Featurestore-Misses": {"schema": _COUNT},
                },
                "content": {
                    JSON: {"schema": _json_schema(column)},
                    NPY: {"schema": {**_BYTES, "description": f"(n, *shape) {column}."}},
                    ARROW: {
                        "schema": {
                            **_BYTES,
                            "description": "A row an image, columns as the fields of JSON; what "
                            "holds for all, and the shape, in the schema's metadata.",
                        }
                    },
                },
            },
            **{
                status: {"description": why, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
                for status, why in _REFUSALS.items()
            },
        },
        # Ours is the only answer: no model that FastAPI would look for in the return type.
        "response_model": None,
    }


def _json_schema(column: Literal["features", "probabilities"]) -> dict[str, Any]:
    numbers = {"type": "array", "items": {"type": "number"}}
    image: dict[str, Any] = {"name": _TEXT_OR_NULL, "sha256": _TEXT}
    good = {**image, "origin": _ORIGIN, column: numbers}
    if column == "features":
        recipe = {"type": "object", "properties": {"name": _TEXT, "fingerprint": _TEXT}}
        about: dict[str, Any] = {
            "recipe": {**recipe, "required": ["name", "fingerprint"]},
            "feature_shape": {"type": "array", "items": {"type": "integer"}},
            "dtype": {"enum": ["float16", "float32"]},
        }
    else:
        good["predicted"] = _TEXT
        about = {"run": _TEXT, "class_names": {"type": "array", "items": _TEXT}}
    results = {"oneOf": [_object(good), _object({**image, "reason": _TEXT})]}
    return _object({**about, "results": {"type": "array", "items": results, "minItems": 1}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
