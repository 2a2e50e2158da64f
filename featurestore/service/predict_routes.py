"""`POST /v1/predict`: class probabilities of the images in a request, by a trained head."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from featurestore.service.embed_routes import CLIENT_LEFT, PlainRoute, named
from featurestore.service.formats import Result, Results, accepted, respond
from featurestore.service.service import Service
from featurestore.service.upload_description import RUN, described
from featurestore.service.uploads import UntilGone

router = APIRouter(prefix="/v1", tags=["embed and predict"], route_class=PlainRoute)


@router.post("/predict", **described("probabilities", asked=RUN))
async def predict(request: Request) -> Response:
    """Return the predicted class and the probabilities of one or several images.

    `run` is the id of a run, or the start of one. Bodies and formats are those of `/v1/embed`:

        curl --data-binary @photo.jpg 'http://…/v1/predict?run=dense-flowers-2026…'
        curl -F a=@1.jpg -F b=@2.jpg 'http://…/v1/predict?run=dense-flowers-2026…'

    Probabilities are those of `fs predict`, in the order of `class_names`. A run's model is loaded
    at its first request. An image that cannot be read has a reason instead of a class.
    """
    service: Service = request.app.state.service
    media_type = accepted(request.headers.get("accept"))
    run = await service.runs.find(named(request, "run"))
    try:
        async with (
            service.uploads.receive(request) as uploads,
            UntilGone(request),
            service.heads.lease(run) as head,
        ):
            answers = await service.embedder.embed(
                head.recipe,
                [each.content for each in uploads],
                other_weights=await head.other_weights(service.catalogue.records()),
            )
            probabilities = await head.probabilities([each.features for each in answers])
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    names = run.features.class_names
    found = Results(
        about={"run": run.id, "class_names": list(names)},
        column="probabilities",
        shape=(len(names),),
        dtype="float32",
        results=[
            Result(upload.name, answer, row, None if row is None else names[int(row.argmax())])
            for upload, answer, row in zip(uploads, answers, probabilities, strict=True)
        ],
    )
    return await respond(found, media_type)
