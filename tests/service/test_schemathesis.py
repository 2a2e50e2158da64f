"""The service keeps what its OpenAPI description says, whatever is sent to it.

Requests are made from the description: some as it asks for, some that break it in one place. They
reach the application in this process, without a socket. `benchmarks/fuzz_service.py --schemathesis`
sends more of them to a served process, and chains of them.
"""

import copy

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.transport.serialization import Binary
from serving_images import make_cache, tiny

from featurestore.catalogue import Catalogue
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import open_features
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import encode, photograph
from featurestore.training.sklearn_settings import NearestCentroidSettings
from featurestore.training.train import train

TOKEN = "a-token-for-schemathesis"
RECIPE = TinyChoice(EmbedSettings()).recipe(None, dataset="photos", records=()).name
RUN = "nearest-centroid-photos"
# Stands for the start of the set's fingerprint, which is known when the images are encoded.
FINGERPRINT = "f0f1f2f3"
STORE = f"{RECIPE}-{FINGERPRINT}"
# Without them, Schemathesis would meet no feature set in a thousand years.
NAMES = {
    "dataset": ["photos"],
    "recipe": [RECIPE],
    "run": [RUN],
    "start": ["photos", FINGERPRINT],
    "store": [f"{STORE}.h5", f"{STORE}.zarr.json", f"{STORE}.zarr.sha256", f"{STORE}.zarr"],
    "path": ["zarr.json", "test/labels/c/0", "test"],
    "name": ["run.json", "probabilities-test.npz", "model.skops"],
    "split": ["train", "test"],
}
# A number is refused as none of them, though its digits may well begin a fingerprint.
EXAMPLES = {"fingerprint": FINGERPRINT, "positions": "0,1,2", "row": 3}
# What any operation may answer besides what is described for it alone.
ANYWHERE = {401, 405}
REFUSALS = [400, 401, 404, 405, 410, 413, 415, 422, 429]


class Application:
    """An ASGI application that is made when tests run; the description is needed before."""

    def __init__(self) -> None:
        self.app = None
        self.fingerprint = FINGERPRINT

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            here, there = FINGERPRINT, self.fingerprint
            path = scope["path"].replace(here, there)
            query = scope["query_string"].replace(here.encode(), there.encode())
            scope = {**scope, "path": path, "query_string": query}
        await self.app(scope, receive, send)


def settings_of(cache) -> ServiceSettings:
    return ServiceSettings(cache=cache, token=TOKEN, network=tiny, workers=1)


def with_names(description: dict) -> dict:
    """Return a description in which parameters are `NAMES`, or may be `EXAMPLES`."""
    description = copy.deepcopy(description)
    for operations in description["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if known := NAMES.get(parameter["name"]):
                    parameter["schema"] = {"type": "string", "enum": known}
                if example := EXAMPLES.get(parameter["name"]):
                    parameter["example"] = example
    return description


def images():
    """Return images in several formats, damaged ones, and bytes that are none."""
    good = [encode(photograph(0, index=77), name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    return st.sampled_from([*good, good[0][:300], b"no image"]) | st.binary(min_size=1, max_size=40)


def described():
    schemathesis.openapi.media_type("application/octet-stream", images())
    schemathesis.openapi.format("binary", images().map(Binary))
    config = {
        "cache": {"enabled": False},
        "base-url": "http://127.0.0.1",
        "generation": {"with-security-parameters": False},  # the token goes with every request
        "checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}},
    }
    schema = schemathesis.openapi.from_dict(
        with_names(create_app(settings_of("none")).openapi()),
        config=SchemathesisConfig.from_dict(config),
    )
    schema.app = Application()
    return schema


schema = described()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A feature set in two formats and a run, behind `schema.app`."""
    root = tmp_path_factory.mktemp("described")
    embed = make_cache(root)
    with open_features("photos", cache=root / "cache") as features:
        run = train(features, NearestCentroidSettings(), cache=root / "cache")
        run.path.rename(run.path.with_name(RUN))
    embed(store="hdf5")
    schema.app.fingerprint = Catalogue(root / "cache").records()[0].fingerprint[:8]
    schema.app.app = create_app(settings_of(root / "cache"))


def check(case) -> None:
    # An image that cannot be read is as the description asks for: bytes.
    left_out = [positive_data_acceptance] if case.method == "POST" else []
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = case.call_and_validate(headers=headers, excluded_checks=left_out)
    documented = case.operation.definition.raw["responses"]
    assert str(answer.status_code) in documented or answer.status_code in ANYWHERE
    assert answer.status_code < 500


@schema.parametrize()
@hypothesis.settings(max_examples=3, derandomize=True, deadline=None)
def test_answers_are_as_described(case, served):
    check(case)


@pytest.mark.slow
@pytest.mark.rare
@schema.parametrize()
@hypothesis.settings(max_examples=150, deadline=None)
def test_many_more_answers_are_as_described(case, served):
    check(case)
