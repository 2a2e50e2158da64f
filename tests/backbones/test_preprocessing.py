import numpy as np
import pytest

from featurestore.backbones.table import BACKBONES

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from featurestore.backbones.preprocessing import preprocess  # noqa: E402

PIXEL = (10, 20, 30)  # red, green, blue

# By hand: caffe (30 - 103.939, 20 - 116.779, 10 - 123.68); tf x / 127.5 - 1;
# torch (x / 255 - mean) / deviation with the ImageNet means and deviations.
KNOWN = {
    "caffe": (-73.939, -96.779, -113.68),
    "tf": (-0.92156863, -0.84313725, -0.76470588),
    "torch": (-1.94665639, -1.68557423, -1.28156863),
    "none": (10.0, 20.0, 30.0),
}


def through_graph(pixels, mode):
    @tf.function
    def graph(images):
        return preprocess(tf.cast(images, tf.float32), mode=mode)

    return graph(tf.constant(pixels)).numpy()


@pytest.mark.parametrize("mode", KNOWN)
def test_a_known_pixel_becomes_known_numbers(mode):
    found = through_graph(np.array([[[PIXEL]]], np.uint8), mode)
    assert found.shape == (1, 1, 1, 3)
    np.testing.assert_allclose(found[0, 0, 0], KNOWN[mode], rtol=0, atol=2e-6 * 113)


@pytest.mark.parametrize(
    ("mode", "black", "white"),
    [
        ("caffe", (-103.939, -116.779, -123.68), (151.061, 138.221, 131.32)),
        ("tf", (-1, -1, -1), (1, 1, 1)),
        ("torch", (-2.11790393, -2.03571429, -1.80444444), (2.2489083, 2.42857143, 2.64)),
        ("none", (0, 0, 0), (255, 255, 255)),
    ],
)
def test_black_and_white_end_where_they_should(mode, black, white):
    pixels = np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8)
    found = through_graph(pixels, mode)
    np.testing.assert_allclose(found[0, 0], [black, white], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("module", sorted({spec.module for spec in BACKBONES.values()}))
def test_the_table_names_the_mode_of_each_keras_module(module):
    modes = {spec.preprocessing for spec in BACKBONES.values() if spec.module == module}
    assert len(modes) == 1
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.float32)
    theirs = getattr(keras.applications, module).preprocess_input(images.copy())
    np.testing.assert_allclose(through_graph(images, modes.pop()), theirs, rtol=1e-5, atol=1e-5)
