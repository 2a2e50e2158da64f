"""Near duplicates that were found by hand among the real photographs are found by the command."""

import json
import os
import shutil
from pathlib import Path

import pytest

from featurestore_cli.main import run

DATA = Path(os.environ.get("FS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "vgg16_notop.weights.h5"
PHOTOS = DATA / "dogs_vs_cats_small"
# Each pair is one scene in other bytes; looked at. No two of the others are.
LEAK = ["validation/cats/cat.4126.jpg", "test/cats/cat.4575.jpg"]
WITHIN = ["train/dogs/dog.180.jpg", "train/dogs/dog.74.jpg"]

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.exists() and PHOTOS.exists()),
    reason=f"no real photographs and weights in {DATA} (FS_TEST_DATA names another place)",
)


def fs_json(capsys, *arguments):
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_default_threshold_parts_near_duplicates_from_photographs_alike(tmp_path, capsys):
    some = [
        str(path.relative_to(PHOTOS))
        for split in ("train", "validation", "test")
        for label in ("cats", "dogs")
        for path in sorted((PHOTOS / split / label).iterdir())[:12]
    ]
    for name in [*some, *LEAK, *WITHIN]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PHOTOS / name, tmp_path / "photos" / name)
    cache = ["--cache", str(tmp_path / "cache")]
    embed = ["embed", str(tmp_path / "photos"), "--weights", str(WEIGHTS), "--size", "150"]
    for pooling in ("none", "avg"):
        code, embedded = fs_json(capsys, *embed, "--pooling", pooling, *cache)
        assert code == 0
        code, found = fs_json(capsys, "audit", embedded["feature_set"], *cache)
        assert code == 1
        pairs = [
            {pair["first"]["sample_id"], pair["second"]["sample_id"]}
            for pair in found["near"]["pairs"]
        ]
        assert pairs == [set(LEAK), set(WITHIN)]
        assert found["near"]["next_similarity"] < 0.93
        assert found["remove"] == {"validation": [LEAK[0]]}
