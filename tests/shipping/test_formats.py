"""The three formats on disk, read back as their users read them."""

import json

import keras
import numpy as np
import pytest
from shipped import IMAGES, SIZE, backbone, features, fitted, many, recipe

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.shipping.formats import read_model, write_model
from featurestore.shipping.head_layers import head_layers
from featurestore.shipping.network import assemble

NAMES = {"keras": "model.keras", "savedmodel": "model", "onnx": "model.onnx"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The three files of one model, and the probabilities they must give for IMAGES."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    tiny, wanted = backbone(), recipe(preprocessing="torch")
    head = fitted("dense", features(tiny, many(40), wanted), n_classes=3)
    model = assemble(tiny, head_layers(head, name="dense"), recipe=wanted)
    folder = tmp_path_factory.mktemp("models")
    for kind, name in NAMES.items():
        write_model(
            model, folder / name, model_format=kind, metadata={"run": "r1", "class_names": ["a"]}
        )
    return folder, head.predict_proba(features(tiny, IMAGES, wanted))


@pytest.mark.parametrize("kind", NAMES)
def test_what_was_written_is_read_back_and_takes_batches_of_any_size(written, kind):
    folder, expected = written
    predict = read_model(folder / NAMES[kind], model_format=kind)
    for count in (7, 1, 3):
        found = predict(IMAGES[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:count], atol=1e-6)


def test_onnx_has_one_named_input_any_batch_and_says_what_it_is(written):
    import onnx

    model = onnx.load(written[0] / "model.onnx")
    shapes = {
        one.name: [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", *SIZE, 3], "probabilities": ["batch", 3]}
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 17
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["run"] == "r1"
    assert json.loads(told["class_names"]) == ["a"]


def test_onnx_takes_no_floats(written):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(written[0] / "model.onnx"))
    with pytest.raises(Exception, match="uint8"):
        session.run(None, {"images": IMAGES.astype(np.float32) / 255})


def test_what_tf2onnx_does_not_know_is_refused(tmp_path, caplog):
    pytest.importorskip("tf2onnx")
    images = keras.Input((*SIZE, 3), dtype="uint8", name="images")
    pixels = keras.layers.Rescaling(1.0)(images)
    model = keras.Model(images, keras.layers.Activation("gelu")(pixels))
    with pytest.raises(InvalidInput, match="tf2onnx does not know Erfc") as raised:
        write_model(model, tmp_path / "model.onnx", model_format="onnx", metadata={})
    assert ".keras" in raised.value.next_step
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""


def test_saved_model_holds_each_weight_once(written):
    import tensorflow as tf

    path = written[0] / "model" / "variables" / "variables"
    shapes = [
        tuple(shape)
        for name, shape in tf.train.list_variables(str(path))
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    assert shapes.count((3, 3, 3, 5)) == 1


@pytest.mark.parametrize("kind", NAMES)
def test_damaged_file_is_an_integrity_error(written, kind, tmp_path):
    path = tmp_path / NAMES[kind]
    if kind == "savedmodel":
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"no model")
    else:
        whole = (written[0] / NAMES[kind]).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="cannot be read back"):
        read_model(path, model_format=kind)
