import numpy as np
import pytest

from featurestore.backbones.table import get_spec
from featurestore.backbones.weights import parse_weights
from featurestore.errors import InvalidInput
from featurestore.testing.backbones import BackboneConformance, TinyNetwork

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from featurestore.backbones.architecture import in_fresh_session  # noqa: E402
from featurestore.backbones.network import (  # noqa: E402
    NetworkSettings,
    UnstorableFeatures,
    load_network,
)

SIZE = (32, 32)


def load(backbone="mobilenet", weights="random:5", size=SIZE, **fields):
    return load_network(
        NetworkSettings(
            spec=get_spec(backbone), weights=parse_weights(weights), size=size, **fields
        )
    )


def images(count, size=SIZE, seed=0):
    """Smooth random pictures: noise alone would give every row much the same features."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, size[0] // 4, 1), size[1] // 4, 2)


class TestMobileNet(BackboneConformance):
    def make_network(self, batch_size):
        return load(batch_size=batch_size)


class TestMobileNetInBfloat16Pooled(BackboneConformance):
    def make_network(self, batch_size):
        return load(batch_size=batch_size, precision="bfloat16", pooling="avg", dtype="float32")


class TestTinyNetwork(BackboneConformance):
    def make_network(self, batch_size):
        return TinyNetwork(batch_size=batch_size)


@pytest.fixture(scope="module")
def network():
    return load(dtype="float32")


def test_the_graph_computes_what_keras_computes(network):
    model = in_fresh_session(
        lambda: keras.applications.MobileNet(
            weights=None, include_top=False, input_shape=(*SIZE, 3)
        )
    )
    by_layer = {layer.name: layer for layer in network._model.layers}
    for layer in model.layers:
        layer.set_weights(by_layer[layer.name].get_weights())
    batch = images(5)
    inputs = keras.applications.mobilenet.preprocess_input(batch.astype(np.float32))
    np.testing.assert_allclose(
        network.embed(batch), model.predict(inputs, verbose=0), rtol=1e-4, atol=1e-5
    )


def test_another_batch_size_shares_the_weights(network):
    batch = images(5)
    two = network.sized(2)
    np.testing.assert_array_equal(two.embed(batch), network.embed(batch))
    assert (two.batch_size, network.batch_size) == (2, 32)
    assert two.model is network.model


def test_defaults_are_filled_in(network):
    assert network.layer == "conv_pw_13_relu"
    assert network.feature_shape == (1, 1, 1024)
    assert network.size == SIZE
    assert network.weights_path is None
    assert network.batch_size == (32 if network.device == "cpu" else 256)


def test_size_is_height_then_width():
    network = load(size=(64, 32), layer="conv_pw_1_relu")
    assert network.size == (64, 32)
    assert network.feature_shape == (32, 16, 64)
    assert network.embed(images(2, (64, 32))).shape == (2, 32, 16, 64)


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_is_over_the_two_spatial_axes(pooling, reduce):
    layer = "conv_pw_3_relu"
    whole = load(layer=layer, dtype="float32")
    pooled = load(layer=layer, dtype="float32", pooling=pooling)
    batch = images(3)
    assert pooled.feature_shape == whole.feature_shape[-1:]
    np.testing.assert_allclose(
        pooled.embed(batch), reduce(whole.embed(batch), axis=(1, 2)), rtol=1e-5, atol=1e-6
    )


def test_a_layer_of_the_top_can_be_cut():
    network = load(layer="predictions", dtype="float32")
    assert network.feature_shape == (1000,)
    np.testing.assert_allclose(network.embed(images(3)).sum(axis=1), 1, rtol=1e-4)


def test_pooling_without_spatial_axes_is_refused():
    with pytest.raises(InvalidInput, match=r"predictions.*\(1000,\)"):
        load(layer="predictions", pooling="avg")


def test_an_unknown_layer_says_what_was_meant():
    with pytest.raises(InvalidInput, match="conv_pw_13_relu") as error:
        load(layer="conv_pw_13_rel")
    assert error.value.next_step == "fs summary mobilenet --top"


def test_a_dense_top_takes_its_own_size_only():
    with pytest.raises(InvalidInput, match=r"fc1.*224x224.*150x150") as error:
        load("vgg16", layer="fc1", size=(150, 150))
    assert "block5_pool" in error.value.next_step


def test_layer_names_do_not_depend_on_what_was_built_before():
    first = load("mobilenet_v3_small")
    keras.layers.Conv2D(3, 3), keras.layers.Activation("relu")
    second = load("mobilenet_v3_small")
    assert first.layer == second.layer == "activation_17"
    assert first.weights_sha256 == second.weights_sha256
    np.testing.assert_array_equal(first.embed(images(2)), second.embed(images(2)))


def test_the_session_of_the_caller_is_left_as_it_was():
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_image_data_format("channels_first")
    before = keras.layers.Dense(1).name
    try:
        network = load(precision="bfloat16")
        assert network.feature_shape == (1, 1, 1024)
        assert keras.config.dtype_policy().name == "mixed_float16"
        assert keras.config.image_data_format() == "channels_first"
        number = int(before.rpartition("_")[2]) if "_" in before else 0
        assert keras.layers.Dense(1).name == f"dense_{number + 1}"
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")


def test_precision_changes_values_a_little_and_the_digest_not(network):
    batch = images(4)
    reference = network.embed(batch).reshape(4, -1)
    for precision in ("bfloat16", "float16"):
        other = load(precision=precision, dtype="float32")
        assert other.weights_sha256 == network.weights_sha256
        found = other.embed(batch).reshape(4, -1)
        assert not np.array_equal(found, reference)
        cosine = (found * reference).sum(1) / (
            np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
        )
        assert cosine.min() > 0.998


def test_float16_storage_is_the_rounded_float32(network):
    batch = images(4)
    stored = load(dtype="float16").embed(batch)
    np.testing.assert_array_equal(stored, network.embed(batch).astype(np.float16))


def test_the_digest_is_that_of_the_layers_up_to_the_cut():
    whole, smaller = load(), load(size=(64, 64))
    assert whole.weights_sha256 == smaller.weights_sha256
    cut = load(layer="conv_pw_3_relu")
    assert cut.weights_sha256 != whole.weights_sha256
    # A layer without weights above the cut changes nothing.
    assert load(layer="conv_pw_13_bn").weights_sha256 == whole.weights_sha256
    assert load(layer="global_average_pooling2d").weights_sha256 == whole.weights_sha256
    assert load(layer="predictions").weights_sha256 != whole.weights_sha256
    assert load(weights="random:6").weights_sha256 != whole.weights_sha256


def scale_output(network, factor):
    kernel = next(
        weight
        for layer in network._model.layers
        if layer.name == "conv_pw_13"
        for weight in layer.weights
    )
    kernel.assign(kernel * factor)


def test_a_value_beyond_float16_is_an_error_that_names_the_way_out():
    network = load(batch_size=2, layer="conv_pw_13")
    scale_output(network, 1e7)
    batch = images(3)
    batch[:2] = 128  # mid-grey is nearly 0 after preprocessing, so its features stay small
    with pytest.raises(UnstorableFeatures, match=r"±65504.*float16") as error:
        network.embed(batch)
    assert error.value.rows == (2,)
    assert "--dtype float32" in error.value.next_step


def test_padding_is_not_held_against_a_batch():
    network = load(batch_size=4, layer="conv_pw_13")
    scale_output(network, 1e7)  # black padding is at -1 and overflows, the grey image does not
    grey = np.full((1, *SIZE, 3), 128, np.uint8)
    assert np.isfinite(network.embed(grey)).all()
    with pytest.raises(UnstorableFeatures):
        network.embed(np.zeros_like(grey))


def test_a_value_that_is_no_number_is_an_error_in_float32_too():
    network = load(dtype="float32")
    scale_output(network, np.nan)
    with pytest.raises(InvalidInput, match="not a number"):
        network.embed(images(1))


def limit_memory(network, largest):
    """Let passes of more than `largest` images run out of memory, as a full GPU would."""
    compile_for = network.compile
    tried = []

    def compile_within(batch_size):
        tried.append(batch_size)
        if batch_size <= largest:
            return compile_for(batch_size)

        def forward(_):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

        return forward

    network.compile = compile_within
    return tried


def test_a_batch_that_does_not_fit_is_halved_and_tried_again(network):
    small = load(dtype="float32", batch_size=32)
    tried = limit_memory(small, 8)
    batch = images(40)
    np.testing.assert_array_equal(small.embed(batch), network.embed(batch))
    assert tried == [32, 16, 8]
    assert small.batch_size == 8
    small.embed(batch)
    assert tried == [32, 16, 8]


def test_one_image_that_does_not_fit_is_an_error():
    small = load(batch_size=3)
    tried = limit_memory(small, 0)
    with pytest.raises(InvalidInput, match="one image does not fit"):
        small.embed(images(3))
    assert tried == [3, 1]


def test_settings_can_be_sent_to_another_process():
    import pickle

    settings = NetworkSettings(spec=get_spec("vgg16"), weights=parse_weights("random:1"))
    assert pickle.loads(pickle.dumps(settings)) == settings
