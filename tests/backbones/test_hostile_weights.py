"""Files that are damaged or built to harm: a sentence each, and nothing in them runs."""

import io
import json
import os
import pickle
import time
import zipfile

import h5py
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import featurestore.backbones.read_apart as read_apart_module
from featurestore.backbones.keras_files import read_keras_file
from featurestore.backbones.onnx_weights import read_onnx
from featurestore.backbones.read_apart import read_apart
from featurestore.backbones.weights import ExpectedLayer, ExpectedWeight
from featurestore.errors import InvalidInput, NotFound

LAYER = ExpectedLayer(
    name="dense",
    kind="Dense",
    key="layers/dense",
    weights=(ExpectedWeight("kernel", (2, 3)), ExpectedWeight("bias", (3,))),
)
KERNEL, BIAS = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)


def read(path):
    reader = read_onnx if path.suffix == ".onnx" else read_keras_file
    return reader(path, [LAYER])


def write_h5(target, *, kernel=KERNEL):
    with h5py.File(target, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["0"], group["1"] = kernel, BIAS


def h5_bytes():
    stream = io.BytesIO()
    write_h5(stream)
    return stream.getvalue()


CONFIG = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "layers": [
            {
                "module": "keras.layers",
                "class_name": "Dense",
                "config": {"name": "dense"},
                "registered_name": None,
            }
        ]
    },
    "registered_name": None,
}


def write_archive(path, *, config=CONFIG, weights=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("model.weights.h5", h5_bytes() if weights is None else weights)
    return path


def write_onnx_file(path, *, edit=lambda model: None):
    nodes = [helper.make_node("Gemm", ["x", "dense/k", "dense/b"], ["y"], "dense")]
    tensors = [
        helper.make_tensor("dense/k", TensorProto.FLOAT, KERNEL.shape, KERNEL.ravel()),
        helper.make_tensor("dense/b", TensorProto.FLOAT, BIAS.shape, BIAS),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, None)],
        [value("y", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def good(tmp_path):
    write_h5(tmp_path / "good.weights.h5")
    write_archive(tmp_path / "good.keras")
    write_onnx_file(tmp_path / "good.onnx")
    return tmp_path


NAMES = ("good.weights.h5", "good.keras", "good.onnx")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_below_are_good_before_they_are_spoilt(good, name):
    kernel, bias = read(good / name)[0]
    np.testing.assert_array_equal(kernel, KERNEL)
    np.testing.assert_array_equal(bias, BIAS)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_anywhere_is_refused_or_whole(good, name):
    whole = (good / name).read_bytes()
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path = good / f"cut-{name}"
        path.write_bytes(whole[:length])
        try:
            kernel, bias = read(path)[0]
        except InvalidInput as error:
            refused += 1
            assert path.name in str(error)
        else:
            np.testing.assert_array_equal(kernel, KERNEL)
            np.testing.assert_array_equal(bias, BIAS)
    assert refused >= 55


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras", ".onnx"])
@pytest.mark.parametrize("content", ["empty", "random", "text", "pickle", "zip"])
def test_something_else_under_the_name_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("hello.txt", "hello")
    path.write_bytes(
        {
            "empty": b"",
            "random": np.random.default_rng(0).bytes(5000),
            "text": b"weights\n" * 100,
            "pickle": pickle.dumps(Bomb(str(tmp_path / "exploded"))),
            "zip": archive.getvalue(),
        }[content]
    )
    with pytest.raises(InvalidInput, match=path.name):
        read(path)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_the_bomb_of_these_tests_is_live(tmp_path):
    pickle.loads(pickle.dumps(Bomb(str(tmp_path / "exploded"))))
    assert (tmp_path / "exploded").exists()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_flipped_bytes_are_refused_or_read(good, data, name):
    """Without checksums in these formats a flipped value goes through; nothing else may escape."""
    whole = bytearray((good / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = good / f"flipped-{name}"
    path.write_bytes(bytes(whole))
    try:
        ((kernel, bias),) = read_apart(path, [LAYER])
    except InvalidInput as error:
        assert path.name in str(error)
    else:
        assert (kernel.shape, bias.shape) == ((2, 3), (3,))


@pytest.mark.parametrize("name", NAMES)
def test_a_process_apart_reads_the_same(good, name):
    kernel, bias = read_apart(good / name, [LAYER])[0]
    np.testing.assert_array_equal(kernel, KERNEL)
    np.testing.assert_array_equal(bias, BIAS)


def test_a_process_apart_passes_errors_on(good):
    with pytest.raises(NotFound, match="absent"):
        read_apart(good / "absent.h5", [LAYER])
    (good / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"bad\.h5") as error:
        read_apart(good / "bad.h5", [LAYER])
    assert error.value.next_step


def test_a_crash_of_the_reader_is_an_error_and_not_ours(good, monkeypatch):
    monkeypatch.setattr(read_apart_module, "_CHILD", "import os; os.abort()")
    with pytest.raises(InvalidInput, match=r"damaged.*ended with code"):
        read_apart(good / "good.keras", [LAYER])


def test_a_reader_that_hangs_is_given_up_on(good, monkeypatch):
    monkeypatch.setattr(read_apart_module, "_CHILD", "import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(InvalidInput, match="damaged"):
        read_apart(good / "good.keras", [LAYER], timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_a_bug_in_the_reader_is_not_blamed_on_the_file(good, monkeypatch):
    monkeypatch.setattr(read_apart_module, "_CHILD", "raise ZeroDivisionError('mine')")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: mine"):
        read_apart(good / "good.keras", [LAYER])


def with_layer(entry):
    config = json.loads(json.dumps(CONFIG))
    config["config"]["layers"].append(entry)
    return config


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {
                "module": "keras.layers",
                "class_name": "Lambda",
                "config": {
                    "name": "lambda",
                    "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}},
                },
            },
            "Lambda",
        ),
        (
            {"module": "os", "class_name": "system", "config": {"command": "touch exploded"}},
            "system of module os",
        ),
        (
            {"module": "mine.layers", "class_name": "Swish", "config": {}, "registered_name": "x"},
            "Swish of module mine.layers",
        ),
        (
            {
                "module": "keras.layers",
                "class_name": "Activation",
                "config": {
                    "activation": {"module": "subprocess", "class_name": "run", "config": "run"}
                },
            },
            "run of module subprocess",
        ),
        (
            {"module": "kerasx.layers", "class_name": "Dense", "config": {}},
            "module kerasx.layers",
        ),
    ],
)
def test_an_archive_with_code_is_refused(tmp_path, monkeypatch, entry, said):
    monkeypatch.chdir(tmp_path)
    path = write_archive(tmp_path / "a.keras", config=with_layer(entry))
    with pytest.raises(InvalidInput, match=said) as error:
        read(path)
    assert "nothing in it was run" in str(error.value)
    assert not (tmp_path / "exploded").exists()


def test_a_real_lambda_layer_is_refused_and_not_called(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Lambda(lambda x: x + 1, name="payload"),
            keras.layers.Dense(3, name="dense"),
        ]
    )
    model.save(tmp_path / "a.keras")
    with pytest.raises(InvalidInput, match="Lambda"):
        read(tmp_path / "a.keras")


def test_how_a_model_was_trained_does_no_harm(tmp_path):
    config = {
        **CONFIG,
        "compile_config": {"loss": {"module": "mine", "class_name": "Loss", "config": {}}},
    }
    assert read(write_archive(tmp_path / "a.keras", config=config))


@pytest.mark.parametrize(
    "config", ["not json", "[1, 2]", "[" * 100_000], ids=["text", "list", "deep"]
)
def test_a_configuration_that_is_none_is_refused(tmp_path, config):
    with pytest.raises(InvalidInput, match=r"config\.json"):
        read(write_archive(tmp_path / "a.keras", config=config))


def test_an_archive_bomb_is_refused_before_it_fills_the_disk(tmp_path):
    path = write_archive(
        tmp_path / "a.keras", weights=bytes(64 << 20), compression=zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidInput, match="unpacks to more than"):
        read(path)


def test_a_configuration_bomb_is_refused(tmp_path):
    path = write_archive(
        tmp_path / "a.keras", config=" " * (65 << 20), compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(InvalidInput, match=r"config\.json is"):
        read(path)


def test_a_compressed_archive_of_real_weights_is_read(tmp_path):
    assert read(write_archive(tmp_path / "a.keras", compression=zipfile.ZIP_DEFLATED))


def test_an_array_bomb_is_never_read(tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group.create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
        group["1"] = BIAS
    with pytest.raises(InvalidInput, match=r"dense \(2, 3\)"):
        read(path)


def linked(kind, folder):
    outside = folder / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = KERNEL
    np.asarray(KERNEL).tofile(folder / "secret.bin")
    path = folder / "a.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group["1"] = BIAS
        if kind == "external link":
            group["0"] = h5py.ExternalLink(str(outside), "secret")
        elif kind == "soft link":
            file["elsewhere"] = KERNEL
            group["0"] = h5py.SoftLink("/elsewhere")
        elif kind == "external storage":
            group.create_dataset(
                "0", KERNEL.shape, "f4", external=[(str(folder / "secret.bin"), 0, KERNEL.nbytes)]
            )
        else:
            layout = h5py.VirtualLayout(KERNEL.shape, "f4")
            layout[:] = h5py.VirtualSource(str(outside), "secret", KERNEL.shape)
            group.create_virtual_dataset("0", layout)
    return path


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_hdf5_that_reaches_elsewhere_is_refused(tmp_path, kind):
    with pytest.raises(InvalidInput, match=r"link to|another file"):
        read(linked(kind, tmp_path))


def test_a_legacy_model_that_reaches_elsewhere_is_refused(tmp_path):
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_group("weights").attrs["layer_names"] = [b"dense"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "weights")
    with pytest.raises(InvalidInput, match="link to"):
        read(tmp_path / "a.h5")


def test_a_legacy_list_in_pieces_is_read(tmp_path):
    """Keras splits a list of names that is too long for one HDF5 attribute."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"input"], [b"dense"]
        file.create_group("input").attrs["weight_names"] = np.empty(0, "f4")
        group = file.create_group("dense")
        group.attrs["weight_names"] = [b"dense_W:0", b"dense_b:0"]
        group["dense_W:0"], group["dense_b:0"] = KERNEL, BIAS
    np.testing.assert_array_equal(read(tmp_path / "a.h5")[0][0], KERNEL)


@pytest.mark.parametrize("values", [np.zeros((2, 3), "i4"), np.full((2, 3), b"x")])
def test_arrays_that_are_no_numbers_are_refused(tmp_path, values):
    write_h5(tmp_path / "a.weights.h5", kernel=values)
    with pytest.raises(InvalidInput, match="floating-point"):
        read(tmp_path / "a.weights.h5")


def test_a_legacy_file_that_lists_what_it_lacks_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
    with pytest.raises(InvalidInput, match="dense/kernel:0"):
        read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
    with pytest.raises(InvalidInput, match="dense is listed"):
        read(tmp_path / "b.h5")


def test_onnx_arrays_in_other_files_are_refused(tmp_path):
    def outside(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../secret")

    with pytest.raises(InvalidInput, match="another file"):
        read(write_onnx_file(tmp_path / "a.onnx", edit=outside))


def test_an_onnx_array_of_another_length_than_stated_is_refused(tmp_path):
    def short(model):
        del model.graph.initializer[0].float_data[3:]

    with pytest.raises(InvalidInput, match="dense/k"):
        read(write_onnx_file(tmp_path / "a.onnx", edit=short))


def test_an_onnx_file_without_a_graph_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(InvalidInput, match="no graph"):
        read(tmp_path / "a.onnx")
