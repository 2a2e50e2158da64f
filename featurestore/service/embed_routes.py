"""`POST /v1/embed`: features of the images in a request, under the recipe of a feature set."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from featurestore.errors import InvalidInput
from featurestore.service.formats import Result, Results, accepted, respond
from featurestore.service.service import Service
from featurestore.service.upload_description import RECIPE, described
from featurestore.service.uploads import UntilGone


class PlainRoute(APIRoute):
    """A route whose function takes the request and returns the response, and is only described.

    FastAPI would solve dependencies that there are none of, and look at the response once more.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(prefix="/v1", tags=["embed and predict"], route_class=PlainRoute)
# The client has left, so nobody reads it; the log does (nginx's number for it).
CLIENT_LEFT = 499


@router.post("/embed", **described("features", asked=RECIPE))
async def embed(request: Request) -> Response:
    """Return the features of one or several images under one recipe.

    `recipe` is the name of a recipe or of a feature set, or the start of a recipe's fingerprint.
    The body is one image, or a form with an image in each file part:

        curl --data-binary @photo.jpg 'http://…/v1/embed?recipe=flowers/vgg16-150-block5_pool-…'
        curl -F a=@1.jpg -F b=@2.jpg -H 'Accept: application/x-npy' -o rows.npy 'http://…'

    Features are those of `fs embed` for the same bytes, in C order, of `feature_shape` and
    `dtype`; JSON numbers and Arrow columns read back exactly. What was embedded before, here or in
    a feature set, is a hit and needs no network: `X-Featurestore-Cache` is hit, miss or mixed, and
    `X-Featurestore-Hits` and `-Misses` count images. An image that cannot be read has a reason
    instead of features; an `.npy` file is given only where every image could be read.
    """
    service: Service = request.app.state.service
    media_type = accepted(request.headers.get("accept"))
    under = await service.recipes.find(named(request, "recipe"))
    try:
        async with service.uploads.receive(request) as uploads, UntilGone(request):
            answers = await service.embedder.embed(under.recipe, [each.content for each in uploads])
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    found = Results(
        about=under.about,
        column="features",
        shape=under.feature_shape,
        dtype=under.recipe.dtype,
        results=[
            Result(upload.name, answer, answer.features)
            for upload, answer in zip(uploads, answers, strict=True)
        ],
    )
    return await respond(found, media_type)


def named(request: Request, what: str) -> str:
    """Return what the query names, which decides everything else.

    Raises
    ------
    InvalidInput
        It names none.
    """
    wanted = request.query_params.get(what, "")
    if not wanted:
        where = {"recipe": "GET /v1/feature-sets", "run": "GET /v1/runs"}[what]
        raise InvalidInput(
            f"which {what}? expected ?{what}=NAME after the path", next_step=f"see {where}"
        )
    return wanted
