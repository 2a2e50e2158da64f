"""A small feature set of generated photographs, and the network that it was embedded with."""

import featurestore as fs
from featurestore.features import open_features
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder

ROWS = {"train": 24, "validation": 8, "test": 8}  # of each class


def tiny_network(recipe):
    """Return the network of `TinyChoice`, which NumPy computes."""
    return TinyNetwork(dtype=recipe.dtype)


def embed_photographs(folder, *, rows=ROWS):
    """Write photographs to ``folder/photos`` and embed them into ``folder/cache``; open the set."""
    write_image_folder(folder / "photos", splits=rows)
    fs.embed(folder / "photos", fs.EmbedSettings(), cache=folder / "cache", choose=TinyChoice)
    return open_features("photos", cache=folder / "cache")
