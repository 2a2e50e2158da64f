"""Compute image features once; train any number of classifiers on identical features.

>>> import featurestore as fs
>>> fs.embed("photos", fs.EmbedSettings(backbone="vgg16", size=(150, 150)))  # doctest: +SKIP
>>> features = fs.open("photos/vgg16")  # doctest: +SKIP
>>> X, y = features["train"].load()  # doctest: +SKIP

Importing this package loads neither TensorFlow nor scikit-learn; its names load what they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.embedding.embed import embed
    from featurestore.embedding.settings import EmbedResult, EmbedSettings
    from featurestore.errors import (
        Conflict,
        FeatureStoreError,
        IntegrityError,
        InvalidInput,
        MissingDependency,
        NotFound,
    )
    from featurestore.features import FeatureSet, Split
    from featurestore.features import open_features as open
    from featurestore.recipe import Recipe
    from featurestore.remote.client import RemoteCache, connect

__all__ = [
    "Conflict",
    "EmbedResult",
    "EmbedSettings",
    "FeatureSet",
    "FeatureStoreError",
    "IntegrityError",
    "InvalidInput",
    "MissingDependency",
    "NotFound",
    "Recipe",
    "RemoteCache",
    "Split",
    "connect",
    "embed",
    "open",
]

_HOMES = {
    "embed": ("embedding.embed", "embed"),
    "EmbedResult": ("embedding.settings", "EmbedResult"),
    "EmbedSettings": ("embedding.settings", "EmbedSettings"),
    "FeatureSet": ("features", "FeatureSet"),
    "Split": ("features", "Split"),
    "open": ("features", "open_features"),
    "Recipe": ("recipe", "Recipe"),
    "RemoteCache": ("remote.client", "RemoteCache"),
    "connect": ("remote.client", "connect"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    module, attribute = _HOMES.get(name, ("errors", name))
    return getattr(importlib.import_module(f"featurestore.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
