"""The Python client against a real service with a tiny backbone: embed, predict, list, refuse."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scripted_server import Scripted, scripted

import featurestore as fs
from featurestore.errors import Conflict, InvalidInput, NotFound
from featurestore.recipe import Recipe
from featurestore.remote import images as images_module
from featurestore.remote.images import MOST_BYTES, MOST_IMAGES, Source, cut, form, sources
from featurestore.service.contract import Limits, ServiceSettings
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.testing.serving import serve
from featurestore.training.heads import LogisticSettings
from featurestore.training.train import train

TOKEN = "a-token-of-enough-characters"
NOT_AN_IMAGE = b"words"


def tiny(recipe):
    return TinyNetwork(dtype=recipe.dtype)


def fresh(index):
    """The bytes of a photograph that no feature set has."""
    return encode(photograph(0, index=7000 + index))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs, a served cache with their features and a run; tests add nothing but images."""
    root = tmp_path_factory.mktemp("client")
    paths = write_image_folder(root / "photos")
    cache = root / "cache"
    TinyEmbedder(root / "photos", cache)()
    with fs.open("photos", cache=cache) as features:
        run = train(features, LogisticSettings(), cache=cache)
    with serve(ServiceSettings(cache=cache, network=tiny)) as url:
        yield cache, url, paths, run


@pytest.fixture
def there(made):
    with fs.connect(made[1]) as there:
        yield there


@pytest.fixture(scope="module")
def expected(made):
    """Features of the photographs by path."""
    root = made[2][0].parents[2]
    with fs.open("photos", cache=made[0]) as features:
        return {
            root / str(sample_id): row
            for split in features.splits
            for sample_id, row in zip(
                features[split].sample_ids, features[split].load()[0], strict=True
            )
        }


def test_sets_and_runs_are_listed(made, there):
    (found,) = there.feature_sets()
    with fs.open("photos", cache=made[0]) as features:
        assert (found.name, found.fingerprint) == (features.name, features.fingerprint)
    (listed,) = there.runs()
    assert listed["id"] == made[3].id
    assert there.run(made[3].id[:12])["features"]["fingerprint"] == found.fingerprint


def test_images_of_any_kind_come_back_in_their_order(made, there, expected, monkeypatch):
    monkeypatch.setattr(images_module, "MOST_IMAGES", 3)
    paths = made[2][::-1][:10]
    with paths[2].open("rb") as stream:
        given = [paths[0], str(paths[1]), stream, paths[3].read_bytes()]
        given += [io.BytesIO(paths[4].read_bytes()), *paths[5:]]
        found = there.embed(iter(given), recipe="photos")
    assert found.dtype == np.float16
    assert found.flags.writeable
    np.testing.assert_array_equal(found, [expected[path] for path in paths])


@pytest.mark.parametrize("by", ["set", "recipe name", "fingerprint", "recipe", "recipe with views"])
def test_a_recipe_is_meant_in_several_ways(made, there, expected, by, tmp_path):
    with fs.open("photos", cache=made[0]) as features:
        recipe = features.recipe
        meant: dict[str, str | Recipe] = {
            "set": features.name,
            "recipe name": recipe.name,
            "fingerprint": recipe.fingerprint[:12],
            "recipe": recipe,
        }
    if by == "recipe with views":
        TinyEmbedder(made[2][0].parents[2], tmp_path)(views=1)
        with fs.open("photos", cache=tmp_path) as features:
            meant[by] = features.recipe
    path = made[2][0]
    np.testing.assert_array_equal(there.embed([path], recipe=meant[by])[0], expected[path])


def test_new_images_are_computed_as_fs_embed_computes_them(made, there, tmp_path):
    contents = [fresh(index) for index in range(6)]
    for index, content in enumerate(contents):
        path = tmp_path / "new" / "train" / ("cats", "dogs")[index // 3] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    TinyEmbedder(tmp_path / "new", tmp_path / "cache")()
    with fs.open("new", cache=tmp_path / "cache") as features:
        np.testing.assert_array_equal(
            there.embed(contents, recipe="photos"), features["train"].load()[0]
        )


def test_unreadable_images_are_named_or_left_out(made, there, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(images_module, "MOST_IMAGES", 2)
    bad = tmp_path / "bad\n.jpg"
    bad.write_bytes(NOT_AN_IMAGE)
    good = made[2][:3]
    given = [good[0], bad, good[1], NOT_AN_IMAGE, b"", good[2]]
    with pytest.raises(InvalidInput, match=r"bad\\n\.jpg: not an image(.|\n)*embed_readable"):
        there.embed(given, recipe="photos")
    found = there.embed_readable(given, recipe="photos")
    np.testing.assert_array_equal(found.places, [0, 2, 5])
    np.testing.assert_array_equal(found.features, [expected[path] for path in good])
    assert found.features.dtype == np.float16
    assert [(each.place, each.name) for each in found.unreadable] == [
        (1, str(bad)), (3, "image 3"), (4, "image 4")
    ]  # fmt: skip
    assert all(each.reason for each in found.unreadable)
    nothing = there.embed_readable([NOT_AN_IMAGE], recipe="photos")
    assert (len(nothing.features), len(nothing.places), len(nothing.unreadable)) == (0, 0, 1)


def test_a_run_predicts_as_it_does_here(made, there, monkeypatch):
    monkeypatch.setattr(images_module, "MOST_IMAGES", 4)
    run = made[3]
    recorded = run.predictions("test")
    root = made[2][0].parents[2]
    paths = [root / str(sample_id) for sample_id in recorded.sample_ids]
    found = there.predict([*paths, NOT_AN_IMAGE], run=run.id[:20])
    assert (found.run, found.class_names) == (run.id, ("cats", "dogs"))
    *images, unreadable = found.images
    np.testing.assert_allclose(
        [image.probabilities for image in images], recorded.probabilities, atol=1e-6
    )
    assert [image.name for image in images] == [str(path) for path in paths]
    assert all(
        image.predicted == found.class_names[int(np.argmax(image.probabilities))]
        for image in images
    )
    assert {image.origin for image in images} == {"feature set"}
    assert (unreadable.predicted, unreadable.probabilities, unreadable.origin) == (None,) * 3
    assert "not an image" in unreadable.reason


def test_less_is_sent_to_a_service_that_takes_less(made, expected):
    large = encode(photograph(1, index=8000, size=(300, 300)))
    limits = Limits(images=3, pixels=64 * 64)
    settings = ServiceSettings(cache=made[0], network=tiny, limits=limits)
    with serve(settings) as url, fs.connect(url) as there:
        paths = made[2][:8]
        np.testing.assert_array_equal(
            there.embed(paths, recipe="photos"), [expected[path] for path in paths]
        )
        given = [*paths[:4], large]
        with pytest.raises(InvalidInput, match=r"image 4: .*pixels"):
            there.embed(given, recipe="photos")
        (unreadable,) = there.embed_readable(given, recipe="photos").unreadable
        assert (unreadable.place, unreadable.name) == (4, "image 4")
        predicted = there.predict(given, run=made[3].id)
        assert [image.predicted is None for image in predicted.images] == [False] * 4 + [True]
        assert "pixels" in predicted.images[4].reason


def test_several_threads_use_one_client(made, there, expected):
    def work(number):
        paths = made[2][number : number + 5]
        found = there.embed(paths, recipe="photos")
        with there.open("photos") as features:
            features["train"].load()
        return np.array_equal(found, [expected[path] for path in paths])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


@pytest.mark.parametrize(
    ("ask", "error", "match"),
    [
        (lambda there: there.embed([], recipe="photos"), InvalidInput, "no images"),
        (lambda there: there.embed(b"one", recipe="photos"), InvalidInput, "give a list"),
        (lambda there: there.embed(["none.jpg"], recipe="photos"), NotFound, "none.jpg"),
        (lambda there: there.embed([fresh(0)], recipe="nothing"), NotFound, "nothing"),
        (lambda there: there.predict([fresh(0)], run="nothing"), NotFound, "nothing"),
        (lambda there: there.open("nothing"), NotFound, "nothing"),
        (lambda there: there.open(""), NotFound, "fs ls --remote"),
        (lambda there: there.open("../photos"), NotFound, "photos"),
        (lambda there: there.run("nothing"), NotFound, "nothing"),
        (lambda there: there.run("a/b"), InvalidInput, "no id"),
        (lambda there: there.embed([io.StringIO("text")], recipe="photos"), TypeError, "binary"),
    ],
)
def test_what_cannot_be_is_refused(there, ask, error, match):
    with pytest.raises(error, match=match):
        ask(there)


def test_a_token_is_asked_for_and_sent(made):
    settings = ServiceSettings(cache=made[0], network=tiny, token=TOKEN)
    with serve(settings) as url:
        with fs.connect(url) as there, pytest.raises(InvalidInput, match="FS_TOKEN"):
            there.feature_sets()
        with fs.connect(url, token=settings.token) as there:
            assert len(there.feature_sets()) == 1
            assert there.embed([made[2][0]], recipe="photos").shape == (1, 4, 4, 3)
            assert len(there.open("photos")["train"].load()[0]) == 16


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", NPY.ljust(128) + b"\x80\x04N.", b"[1]", b'{"results": 3}', b'{"dtype": "O"}'],
)
def test_what_is_no_answer_is_told(body):
    answer = Scripted(body=body, headers={"Content-Type": "application/json"})
    with scripted(lambda asked: answer) as server, fs.connect(server.url) as there:
        for ask in (
            lambda: there.embed([fresh(0)], recipe="photos"),
            lambda: there.embed_readable([fresh(0)], recipe="photos"),
            lambda: there.predict([fresh(0)], run="run"),
            lambda: there.runs(),
        ):
            with pytest.raises(InvalidInput, match="no featurestore service"):
                ask()


@pytest.mark.parametrize(("status", "times"), [(401, 1), (400, 1), (422, 2)])
def test_only_what_may_be_an_image_is_asked_about_again(status, times):
    body = json.dumps({"status": status, "detail": "it says why"}).encode()
    answer = Scripted(status, body, {"Content-Type": "application/problem+json"})
    with scripted(lambda asked: answer) as server, fs.connect(server.url) as there:
        with pytest.raises(InvalidInput, match="it says why"):
            there.embed([fresh(0)], recipe="photos")
        assert len(server.asked) == times


def test_rows_of_other_shapes_than_one_recipe_gives_are_refused(monkeypatch):
    monkeypatch.setattr(images_module, "MOST_IMAGES", 1)
    arrays = iter([np.zeros((1, 4), np.float16), np.zeros((1, 5), np.float16)])

    def answer(asked):
        stream = io.BytesIO()
        np.save(stream, next(arrays))
        return Scripted(body=stream.getvalue())

    with (
        scripted(answer) as server,
        fs.connect(server.url) as there,
        pytest.raises(Conflict, match="several recipes"),
    ):
        there.embed([fresh(0), fresh(1)], recipe="photos")


def source(place, size_bytes=10):
    return Source(place, f"image {place}", size_bytes, b"")


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([], []),
        ([10] * MOST_IMAGES, [MOST_IMAGES]),
        ([10] * (MOST_IMAGES + 1), [MOST_IMAGES, 1]),
        ([MOST_BYTES, 1, 1], [1, 2]),
        ([1, MOST_BYTES, 1], [1, 1, 1]),
        ([3 * MOST_BYTES, 3 * MOST_BYTES], [1, 1]),
        ([MOST_BYTES // 2] * 5, [2, 2, 1]),
    ],
)
def test_images_are_cut_by_number_and_bytes(sizes, lengths):
    images = [source(place, size) for place, size in enumerate(sizes)]
    batches = cut(images)
    assert [len(batch) for batch in batches] == lengths
    assert [image for batch in batches for image in batch] == images


def test_a_form_keeps_bytes_and_closes_no_name_early():
    content = bytes(range(256)) + b"\r\n--"
    kind, body = form([Source(0, 'a"; name="b\r\n\udcff.jpg', len(content), content)])
    boundary = re.fullmatch(r"multipart/form-data; boundary=(\w+)", kind)[1].encode()
    assert body.count(b"--" + boundary) == 2
    head, _, rest = body.partition(b"\r\n\r\n")
    assert rest == content + b"\r\n--" + boundary + b"--\r\n"
    assert b'filename="a%22; name=%22b%0D%0A\\xff.jpg"' in head


def test_a_file_that_goes_away_is_named(tmp_path):
    path = tmp_path / "here.jpg"
    path.write_bytes(b"x")
    (image,) = sources([path])
    path.unlink()
    with pytest.raises(NotFound, match=r"here\.jpg"):
        image.read()
