import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurestore.backbones.table import get_spec
from featurestore.backbones.weights import parse_weights, weights_digest
from featurestore.errors import InvalidInput, NotFound

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from weights_files import with_head, write_legacy_h5, write_onnx  # noqa: E402

from featurestore.backbones.architecture import (  # noqa: E402
    build_model,
    expected_layers,
    in_fresh_session,
    weighted_layers,
)
from featurestore.backbones.keras_files import read_keras_file  # noqa: E402
from featurestore.backbones.network import NetworkSettings, load_network  # noqa: E402
from featurestore.backbones.read_apart import read_apart  # noqa: E402

SIZE = (32, 32)


def filled(backbone, *, top=False, size=SIZE, seed=0):
    """Return a network whose every weight is random, so that no mix-up goes unseen."""
    model = build_model(get_spec(backbone), size=size, top=top)
    random = np.random.default_rng(seed)
    for layer in weighted_layers(model):
        layer.set_weights(
            [
                random.uniform(0.1, 1, array.shape).astype(array.dtype)
                for array in layer.get_weights()
            ]
        )
    return model


def load(path, backbone="mobilenet", **fields):
    return load_network(
        NetworkSettings(
            spec=get_spec(backbone), weights=parse_weights(str(path)), size=SIZE, **fields
        )
    )


@pytest.fixture(scope="module")
def model():
    return filled("mobilenet", top=True)


@pytest.fixture(scope="module")
def base(model):
    base = build_model(get_spec("mobilenet"), size=SIZE, top=False)
    for layer in base.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    return base


WRITERS = {
    "keras 3 weights": lambda model, folder: save_weights(model, folder / "a.weights.h5"),
    "keras 2 weights": lambda model, folder: returns(folder / "b.h5", write_legacy_h5, model),
    "keras 2 model": lambda model, folder: returns(folder / "c.h5", lambda m, p: m.save(p), model),
    "keras archive": lambda model, folder: returns(
        folder / "d.keras", lambda m, p: m.save(p), model
    ),
    "archive with a head": lambda model, folder: returns(
        folder / "e.keras", lambda m, p: with_head(m).save(p), model
    ),
    "weights with a head": lambda model, folder: save_weights(
        with_head(model), folder / "f.weights.h5"
    ),
    "keras 2 model with a head": lambda model, folder: returns(
        folder / "g.h5", lambda m, p: with_head(m).save(p), model
    ),
    "onnx": lambda model, folder: returns(folder / "h.onnx", write_onnx, model),
    "onnx, numbered": lambda model, folder: returns(
        folder / "i.onnx", lambda m, p: write_onnx(m, p, suffix="_1"), model
    ),
    "onnx, bias added": lambda model, folder: returns(
        folder / "j.onnx", lambda m, p: write_onnx(m, p, bias_as_add=True), model
    ),
}


def returns(path, write, model):
    write(model, path)
    return path


def save_weights(model, path):
    model.save_weights(path)
    return path


@pytest.fixture(scope="module")
def expected(base, tmp_path_factory):
    """The network that the simplest file gives."""
    return load(save_weights(base, tmp_path_factory.mktemp("plain") / "plain.weights.h5"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_equal_values_are_equal_weights_whatever_file(kind, top, model, base, expected, tmp_path):
    if top and "head" in kind:
        pytest.skip("a head takes the place of the top")
    found = load(WRITERS[kind](model if top else base, tmp_path))
    assert found.weights_sha256 == expected.weights_sha256


def test_the_values_land_where_they_belong(base, expected):
    for layer in expected._model.layers:
        for ours, theirs in zip(
            layer.get_weights(), base.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["keras 3 weights", "keras 2 weights", "keras archive", "onnx"])
def test_the_top_is_read_where_the_cut_needs_it(kind, model, tmp_path):
    network = load(WRITERS[kind](model, tmp_path), layer="predictions", dtype="float32")
    assert network.feature_shape == (1000,)
    for ours, theirs in zip(
        network._model.get_layer("conv_preds").get_weights(),
        model.get_layer("conv_preds").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["keras 3 weights", "keras 2 weights", "keras archive", "onnx"])
def test_a_file_without_top_does_not_serve_a_cut_in_the_top(kind, base, tmp_path):
    with pytest.raises(InvalidInput, match=r"1 layer\(s\).*conv_preds \(1, 1, 1024, 1000\)"):
        load(WRITERS[kind](base, tmp_path), layer="predictions")


def change(base, name, path):
    """Write the base with one value of one layer changed; put the value back."""
    layer = base.get_layer(name)
    before = layer.get_weights()
    after = [array.copy() for array in before]
    after[0].flat[5] += 1e-3
    layer.set_weights(after)
    try:
        return save_weights(base, path)
    finally:
        layer.set_weights(before)


def test_one_changed_value_is_another_digest(base, expected, tmp_path):
    assert load(change(base, "conv1", tmp_path / "a.weights.h5")).weights_sha256 != (
        expected.weights_sha256
    )


def test_a_value_above_the_cut_does_not_count(base, tmp_path):
    plain = save_weights(base, tmp_path / "a.weights.h5")
    other = change(base, "conv_pw_9", tmp_path / "b.weights.h5")
    cut, other_cut = (load(path, layer="conv_pw_5_relu") for path in (plain, other))
    assert cut.weights_sha256 == other_cut.weights_sha256
    assert load(plain).weights_sha256 != load(other).weights_sha256


@pytest.fixture(scope="module")
def inception():
    return filled("inception_v3", size=(75, 75))


@pytest.fixture(scope="module")
def late_inception(inception):
    """The same network whose automatic names start from another number, as late in a session."""

    def build():
        for _ in range(3):
            keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
        late = keras.applications.InceptionV3(
            weights=None, include_top=False, input_shape=(75, 75, 3)
        )
        for ours, theirs in zip(weighted_layers(late), weighted_layers(inception), strict=True):
            ours.set_weights(theirs.get_weights())
        return late

    late = in_fresh_session(build)
    assert (inception.layers[1].name, late.layers[1].name) == ("conv2d", "conv2d_3")
    return late


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["a.weights.h5", "b.h5", "c.keras"])
def test_automatic_names_of_another_session_are_understood(
    name, inception, late_inception, tmp_path
):
    path = tmp_path / name
    if name == "b.h5":
        write_legacy_h5(late_inception, path)
    elif name == "c.keras":
        late_inception.save(path)
    else:
        late_inception.save_weights(path)
    found = read_keras_file(path, expected_layers(inception, inception))
    theirs = [[w.numpy() for w in layer.weights] for layer in weighted_layers(inception)]
    assert weights_digest(found) == weights_digest(theirs)


@pytest.mark.parametrize("name", ["a.weights.h5", "b.h5", "c.keras", "d.onnx"])
def test_every_layer_without_weights_is_named(name, tmp_path):
    other = filled("vgg16")
    path = tmp_path / name
    if name == "a.weights.h5":
        other.save_weights(path)
    elif name == "b.h5":
        write_legacy_h5(other, path)
    elif name == "c.keras":
        other.save(path)
    else:
        write_onnx(other, path)
    with pytest.raises(InvalidInput) as error:
        load(path)
    text = str(error.value)
    assert path.name in text
    for missing in ("conv1 (3, 3, 3, 32)", "conv_dw_1 (3, 3, 32, 1)", "conv_pw_13_bn (1024,)"):
        assert missing in text
    assert "block1_conv1" in text  # what the file holds instead
    assert "--backbone" in error.value.next_step


def test_a_layer_of_another_shape_is_missing(base, tmp_path):
    path = save_weights(base, tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        group = next(
            group["vars"]
            for group in file["layers"].values()
            if group["vars"].attrs.get("name") == "conv_pw_7"
        )
        values = group["0"][()]
        del group["0"]
        group["0"] = values[..., :-1]
    with pytest.raises(InvalidInput, match=r"1 layer\(s\).*: conv_pw_7 \(1, 1, 512, 512\)"):
        load(path)


def test_a_wrongly_ordered_file_is_not_matched_by_position(base, tmp_path):
    """Names that a person gave count: position alone would swap layers of one shape."""
    path = tmp_path / "a.h5"
    write_legacy_h5(base, path, rename=lambda name: name.replace("conv_pw_7", "conv_pw_x"))
    with pytest.raises(InvalidInput, match=r"conv_pw_7 \(1, 1, 512, 512\)"):
        load(path)


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.onnx"])
def test_a_file_that_went_away_is_not_found(name, tmp_path):
    with pytest.raises(NotFound, match=name):
        read_apart(tmp_path / name, [])


@pytest.fixture(scope="module")
def evidence():
    root = os.environ.get("FS_TEST_DATA")
    folder = Path(root) if root else Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "weights" / "vgg16_notop.weights.h5").is_file():
        pytest.skip("the real weights are not here; set FS_TEST_DATA to the folder that has them")
    return folder


def test_real_weights_on_real_photographs(evidence):
    from PIL import Image

    network = load_network(
        NetworkSettings(
            spec=get_spec("vgg16"),
            weights=parse_weights(str(evidence / "weights" / "vgg16_notop.weights.h5")),
            size=(150, 150),
        )
    )
    assert network.feature_shape == (4, 4, 512)
    photographs = sorted((evidence / "dogs_vs_cats_small" / "test").glob("*/*.jpg"))[::125]
    pixels = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB").resize((150, 150), Image.BILINEAR))
            for path in photographs
        ]
    )
    features = network.embed(pixels)
    assert features.dtype == np.float16
    assert 0.80 < (features == 0).mean() < 0.88
    assert 50 < features.max() < 1000
    # Cats are nearer to cats than to dogs, on the whole.
    flat = features.reshape(len(features), -1).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = flat @ flat.T
    cats, dogs = slice(0, 4), slice(4, 8)
    within = (alike[cats, cats].sum() + alike[dogs, dogs].sum() - 8) / 24
    assert within > alike[cats, dogs].mean()


def test_the_reader_alone_needs_no_keras(base, tmp_path):
    from featurestore.backbones.weights import ExpectedLayer, ExpectedWeight

    path = save_weights(base, tmp_path / "a.weights.h5")
    layer = ExpectedLayer(
        name="conv1",
        kind="Conv2D",
        key="layers/conv2d",
        weights=(ExpectedWeight("kernel", (3, 3, 3, 32)),),
    )
    (found,) = read_keras_file(path, [layer])
    np.testing.assert_array_equal(found[0], base.get_layer("conv1").get_weights()[0])
