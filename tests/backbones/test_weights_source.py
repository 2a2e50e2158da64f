import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.backbones.random_weights import random_values
from featurestore.backbones.weights import (
    ExpectedLayer,
    ExpectedWeight,
    WeightsSource,
    parse_weights,
    source_signature,
    weights_digest,
)
from featurestore.errors import InvalidInput, NotFound


def test_imagenet_and_seeds_are_read():
    assert parse_weights("imagenet") == WeightsSource(kind="imagenet")
    assert parse_weights("random:7") == WeightsSource(kind="random", seed=7)
    assert parse_weights("random:7").label() == "random:7"
    assert parse_weights("imagenet").label() == "imagenet"


@pytest.mark.parametrize("name", ["a.weights.h5", "b.h5", "c.keras", "d.onnx", "e.Weights.H5"])
def test_a_file_is_known_by_its_suffix(tmp_path, name):
    path = tmp_path / name
    path.touch()
    source = parse_weights(str(path))
    assert (source.kind, source.path) == ("file", path)
    assert source.label() == str(path)


@pytest.mark.parametrize("text", ["random", "random:", "random:-1", "random:x", "random:1.5"])
def test_a_bad_seed_is_refused(text):
    with pytest.raises(InvalidInput, match="random:SEED"):
        parse_weights(text)


def test_an_unknown_suffix_lists_the_known_ones():
    with pytest.raises(InvalidInput) as error:
        parse_weights("model.pkl")
    for suffix in (".weights.h5", ".h5", ".keras", ".onnx"):
        assert suffix in str(error.value)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        parse_weights(str(tmp_path / "a.h5"))
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(NotFound, match="folder"):
        parse_weights(str(tmp_path / "folder.h5"))


def test_a_file_signature_changes_with_the_file(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"one")
    source = parse_weights(str(path))
    first = source_signature(source)
    assert first == source_signature(source)
    path.write_bytes(b"other")
    assert source_signature(source) != first
    os.replace(path, tmp_path / "b.h5")
    assert source_signature(source) is None


def test_a_seed_signature_is_the_seed():
    one, two = (source_signature(parse_weights(f"random:{seed}")) for seed in (1, 2))
    assert one is not None
    assert one != two


def test_an_imagenet_signature_is_that_of_the_cached_file(tmp_path):
    source = parse_weights("imagenet")
    assert source_signature(source) is None
    (tmp_path / "k.h5").write_bytes(b"x")
    assert source_signature(source, cached=tmp_path / "k.h5")["size"] == 1


def test_sources_are_read_without_tensorflow():
    code = (
        "import sys\n"
        "import featurestore.backbones, featurestore.backbones.table\n"
        "from featurestore.backbones.precision import native_bfloat16_cpu\n"
        "from featurestore.backbones.quiet import quiet_startup\n"
        "from featurestore.backbones.weights import parse_weights, source_signature\n"
        "source_signature(parse_weights('random:1')); native_bfloat16_cpu()\n"
        "print([m for m in ('tensorflow', 'keras', 'h5py', 'onnx') if m in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def conv(name="c", shape=(3, 3, 4, 8), **fields):
    weights = (ExpectedWeight("kernel", shape), ExpectedWeight("bias", shape[-1:]))
    return ExpectedLayer(name=name, kind="Conv2D", key="layers/conv2d", weights=weights, **fields)


def test_random_values_are_these_numbers_for_ever():
    kernel, bias = random_values(conv(), seed=7)
    expected = [-0.14863722026348114, 0.3659491539001465, 0.21273791790008545, -0.3263455629348755]
    np.testing.assert_array_equal(kernel.ravel()[:4], np.array(expected, np.float32))
    assert not bias.any()


def test_random_values_depend_on_seed_and_layer_alone():
    kernel = random_values(conv(), seed=7)[0]
    np.testing.assert_array_equal(random_values(conv(), seed=7)[0], kernel)
    assert not np.array_equal(random_values(conv(), seed=8)[0], kernel)
    assert not np.array_equal(random_values(conv(name="d"), seed=7)[0], kernel)
    state = np.random.get_state()[1].copy()
    random_values(conv(), seed=7)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_random_kernels_keep_the_variance():
    kernel = random_values(conv(shape=(3, 3, 64, 128)), seed=1)[0]
    fan_in = 3 * 3 * 64
    assert abs(kernel.mean()) < 1e-3
    assert kernel.var() == pytest.approx(2 / fan_in, rel=0.02)
    assert np.abs(kernel).max() <= np.sqrt(6 / fan_in)
    damped = random_values(conv(shape=(3, 3, 64, 128), ends_branch=True), seed=1)[0]
    np.testing.assert_allclose(damped, kernel * np.float32(0.3), rtol=1e-6)


def test_random_normalisation_is_the_identity():
    roles = ("gamma", "beta", "moving_mean", "moving_variance")
    layer = ExpectedLayer(
        name="bn",
        kind="BatchNormalization",
        key="layers/batch_normalization",
        weights=tuple(ExpectedWeight(role, (5,)) for role in roles),
    )
    assert [value.tolist() for value in random_values(layer, seed=3)] == [
        [1.0] * 5,
        [0.0] * 5,
        [0.0] * 5,
        [1.0] * 5,
    ]


arrays = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda shape: st.lists(
            st.floats(-8, 8, width=32), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
        ).map(lambda values: np.array(values, np.float32).reshape(shape))
    ),
    min_size=1,
    max_size=4,
)


@given(arrays, st.data())
def test_one_changed_value_changes_the_digest(values, data):
    before = weights_digest([values])
    assert weights_digest([[value.copy() for value in values]]) == before
    changed = [value.copy() for value in values]
    which = data.draw(st.integers(0, len(values) - 1))
    changed[which].flat[data.draw(st.integers(0, values[which].size - 1))] += np.float32(0.5)
    assert weights_digest([changed]) != before


@given(arrays)
def test_shape_and_order_are_in_the_digest(values):
    before = weights_digest([values])
    assert weights_digest([[value.reshape(-1, 1, 1) for value in values]]) != before
    assert weights_digest([[*values, values[0]]]) != before


def test_the_digest_does_not_depend_on_memory_layout_or_byte_order():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    before = weights_digest([[values]])
    assert weights_digest([[np.asfortranarray(values)]]) == before
    assert weights_digest([[values.astype(">f4")]]) == before
