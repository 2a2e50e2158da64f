import socket
import time

import numpy as np
import pytest

from featurestore.backbones.table import get_spec
from featurestore.backbones.weights import parse_weights, source_signature
from featurestore.errors import NotFound

keras = pytest.importorskip("keras")
from keras.src.backend import config as keras_config  # noqa: E402
from weights_files import write_legacy_h5  # noqa: E402

from featurestore.backbones import imagenet  # noqa: E402
from featurestore.backbones.architecture import (  # noqa: E402
    build_model,
    construct,
    in_fresh_session,
    weighted_layers,
)
from featurestore.backbones.network import NetworkSettings, load_network  # noqa: E402

SIZE = (32, 32)


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    """Keras's home folder, empty."""
    home = tmp_path / "home" / ".keras"
    (home / "models").mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(home))
    return home


@pytest.fixture
def offline(monkeypatch):
    """No name is found and no connection is made."""

    def refuse(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(backbone="mobilenet", **fields):
    settings = NetworkSettings(
        spec=get_spec(backbone), weights=parse_weights("imagenet"), size=SIZE, **fields
    )
    return load_network(settings)


def test_offline_without_a_cached_copy_the_two_ways_on_are_said_in_seconds(keras_home, offline):
    started = time.monotonic()
    with pytest.raises(NotFound) as error:
        load("vgg16")
    assert time.monotonic() - started < 5
    name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert str(keras_home / "models" / name) in str(error.value)
    assert "name resolution" in str(error.value)
    assert "--weights FILE" in error.value.next_step
    assert "--weights random:SEED" in error.value.next_step


def test_a_network_that_swallows_everything_is_given_up_on(monkeypatch):
    def swallow(*_, **__):
        time.sleep(3)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", swallow)
    started = time.monotonic()
    reason = imagenet.probe_host(timeout_s=0.3)
    assert time.monotonic() - started < 2
    assert "within 0.3 s" in reason


def test_any_answer_means_the_host_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        import threading

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert imagenet.probe_host(url, timeout_s=5) is None


def test_a_download_that_fails_midway_is_the_same_error(keras_home, offline, monkeypatch):
    monkeypatch.setattr(imagenet, "probe_host", lambda: None)
    with pytest.raises(NotFound, match="name resolution"):
        load("vgg16")


def write_cached(keras_home, spec):
    """Put a file where Keras caches MobileNet's; it is the one that Keras holds to no hash."""
    model = build_model(spec, size=(224, 224), top=False)
    random = np.random.default_rng(3)
    for layer in weighted_layers(model):
        layer.set_weights([random.uniform(0.1, 1, w.shape) for w in layer.get_weights()])
    path = keras_home / "models" / spec.weights_file_no_top
    write_legacy_h5(model, path)
    return model, path


def test_a_cached_file_is_used_offline_and_named(keras_home, offline, capsys):
    model, path = write_cached(keras_home, get_spec("mobilenet"))
    network = load()
    assert network.weights_path == path
    np.testing.assert_array_equal(
        network._model.get_layer("conv_pw_13").get_weights()[0],
        model.get_layer("conv_pw_13").get_weights()[0],
    )
    same = load_network(
        NetworkSettings(spec=get_spec("mobilenet"), weights=parse_weights(str(path)), size=SIZE)
    )
    assert same.weights_sha256 == network.weights_sha256
    assert source_signature(parse_weights("imagenet"), cached=network.weights_path) is not None
    assert capsys.readouterr().out == ""


def test_what_keras_prints_stays_off_stdout(keras_home, offline, monkeypatch, capsys):
    monkeypatch.setattr(imagenet, "probe_host", lambda: None)
    with pytest.raises(NotFound):
        load()
    assert capsys.readouterr().out == ""


def test_efficientnet_files_give_what_keras_computes_for_imagenet(
    keras_home, tmp_path, monkeypatch
):
    """Keras divides by sqrt(standard deviation) for "imagenet" only; a file must not differ."""
    from keras.src.utils import file_utils

    spec = get_spec("efficientnet_b0")
    model = build_model(spec, size=SIZE, top=False)
    random = np.random.default_rng(3)
    for layer in weighted_layers(model):
        arrays = layer.get_weights()
        if layer.name == "normalization":
            arrays[0][:], arrays[1][:] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        else:
            arrays = [random.normal(1, 0.2, w.shape) / max(1, np.sqrt(w.size)) for w in arrays]
        layer.set_weights(arrays)
    path = tmp_path / "efficientnetb0_notop.h5"
    write_legacy_h5(model, path)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    theirs = in_fresh_session(lambda: construct(spec, size=SIZE, top=False, weights="imagenet"))
    assert any(layer.name == "rescaling_1" for layer in theirs.layers)

    ours = load_network(
        NetworkSettings(
            spec=spec,
            weights=parse_weights(str(path)),
            size=SIZE,
            dtype="float32",
            layer="stem_activation",
        )
    )
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    stem = keras.Model(theirs.input, theirs.get_layer("stem_activation").output)
    expected = np.asarray(stem(images.astype(np.float32)))
    assert expected.std() > 0.01
    np.testing.assert_allclose(ours.embed(images), expected, rtol=1e-4, atol=1e-5)
