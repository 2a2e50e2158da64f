"""A cache whose names are hostile, with runs that disagree: what the pages are opened on."""

import dataclasses
import os

from featurestore.catalogue import Catalogue
from featurestore.features import open_record
from featurestore.service.contract import ServiceSettings
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import write_image_folder
from featurestore.training.sklearn_settings import NearestCentroidSettings, SgdSettings
from featurestore.training.train import TrainOptions, train

SCRIPT = "<script>alert(1)<b>"
ONERROR = '"><img src=x onerror=alert(2)>'
DATASET = "x&y#z%2e'q"
ODD_FILE = "<b onmouseover=alert(3)>&amp;.jpg"


@dataclasses.dataclass(frozen=True)
class Browsed:
    """The cache, its feature set, and the runs on it, oldest first."""

    cache: os.PathLike
    record: object
    runs: tuple

    @property
    def settings(self):
        return ServiceSettings(cache=self.cache, network=tiny, workers=1)


def tiny(recipe):
    return TinyNetwork(dtype=recipe.dtype)


def make_browsed(root):
    """Embed photographs below `root` and train three heads: two that differ, one a control."""
    splits = {"train": 12, "validation": 6, "test": 16}
    write_image_folder(root / "photos", splits=splits, classes=(SCRIPT, ONERROR), size=(60, 90))
    folder = root / "photos" / "test" / SCRIPT
    next(folder.iterdir()).rename(folder / ODD_FILE)
    (folder / "broken<i>.jpg").write_bytes(b"\xff\xd8\xff nothing")
    TinyEmbedder(root / "photos", root / "cache")(name=DATASET)
    record = Catalogue(root / "cache").find(DATASET)
    with open_record(record) as features:
        runs = [
            train(features, settings, cache=root / "cache", options=TrainOptions(**options))
            for settings, options in (
                (NearestCentroidSettings(), {}),
                (SgdSettings(epochs=3), {}),
                (NearestCentroidSettings(), {"shuffle_labels": True, "seed": 5}),
            )
        ]
    return Browsed(root / "cache", record, tuple(runs))
