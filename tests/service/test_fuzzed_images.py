"""Damaged, disguised and far too large images take no service down, and change no feature.

`benchmarks/fuzz_service.py` sends ten thousand.
"""

import io
import time

import numpy as np
import pytest

from featurestore.features import open_features
from featurestore.images import UnreadableImage, decode_image
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.fuzzing import NPY, Fuzzer, good_image
from featurestore.testing.images import write_image_folder
from featurestore.testing.mutated_images import bombs, large_images, mutated_image, whole_images
from featurestore.testing.served_process import Memory, served_process
from featurestore.training.sklearn_settings import NearestCentroidSettings
from featurestore.training.train import train

MUTATED = 300
# A second decoder, and what allocators keep. One bomb that was decoded after all would be more:
# 178,956,970 pixels are 512 MiB, and as much again over white.
MOST_MORE_BYTES = 250 * 2**20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service in a process of its own, and the clients that send to it."""
    root = tmp_path_factory.mktemp("fuzzed")
    write_image_folder(root / "photos")
    TinyEmbedder(root / "photos", root / "cache")()
    with open_features("photos", cache=root / "cache") as features:
        run = train(features, NearestCentroidSettings(), cache=root / "cache")
    options = ("--workers", "2", "--max-pixels", "4000000")
    with served_process(root / "cache", *options) as process:
        yield process, Fuzzer(process.url, feature_set=features.name, run=run.id)


def features_of(fuzzer: Fuzzer, number: int) -> np.ndarray:
    status, body = fuzzer.post(good_image(number), accept=NPY)
    assert status == 200
    return np.load(io.BytesIO(body), allow_pickle=False)


def test_mutated_images_are_answered_and_good_ones_embedded_as_before(served):
    process, fuzzer = served
    fuzzer.warm_up()
    before = features_of(fuzzer, 1)
    resident = sum(process.memory.now().values())
    report = fuzzer.send(range(MUTATED))
    assert report.failures == []
    assert sum(report.statuses.values()) == MUTATED
    assert {status for _, status in report.statuses} == {200, 413, 422}
    np.testing.assert_array_equal(features_of(fuzzer, 2), before)
    assert process.process.poll() is None
    if Memory.is_known():
        more = process.memory.peak_bytes - resident
        assert more < MOST_MORE_BYTES
    assert not any("Traceback" in line for line in process.lines)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
def test_a_bomb_of_any_format_is_too_large(served, image_format):
    _, fuzzer = served
    began = time.monotonic()
    for content in (bombs()[image_format], large_images(2100)[image_format]):
        for form in (False, True):
            assert fuzzer.post(content, form=form)[0] == 413
    assert time.monotonic() - began < 60


def test_an_image_just_below_the_limit_is_embedded(served):
    _, fuzzer = served
    for content in large_images(1900).values():
        assert fuzzer.post(content)[0] == 200


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_the_files_are_what_they_say():
    for content in whole_images().values():
        decode_image(content, size=(8, 8), interpolation="bilinear")
    assert mutated_image(5) == mutated_image(5)
    made = [mutated_image(number).content for number in range(MUTATED)]
    assert len(set(made)) > 0.9 * MUTATED
    readable = 0
    for content in made:
        try:
            decode_image(content, size=(8, 8), interpolation="bilinear", max_pixels=4_000_000)
            readable += 1
        except UnreadableImage:
            pass
    assert 0.2 * MUTATED < readable < 0.8 * MUTATED
