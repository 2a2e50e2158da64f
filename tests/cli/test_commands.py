"""The commands as they are typed, on a real small network with random weights."""

import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore_cli.main import run

EMBED = ["--backbone", "mobilenet", "--size", "32", "--weights", "random:0", "--pooling", "avg"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of photographs and a cache that holds its features."""
    root = tmp_path_factory.mktemp("cli")
    write_image_folder(root / "photos", splits={"train": 12, "validation": 4, "test": 4})
    assert run(["embed", str(root / "photos"), *EMBED, "--cache", str(root / "cache")]) == 0
    return root


@pytest.fixture
def cache(made):
    return ["--cache", str(made / "cache")]


def fs_json(capsys, *arguments):
    capsys.readouterr()
    code = run([*arguments, "--json"])
    output = capsys.readouterr().out
    return code, json.loads(output)


def in_process(*code, expect=0):
    """Run Python code in a fresh interpreter and return what it prints."""
    found = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True)
    assert found.returncode == expect, found.stderr
    return found.stdout


def test_embed_again_prints_one_object_and_computes_nothing(made, cache, capsys):
    code, found = fs_json(capsys, "embed", str(made / "photos"), *EMBED, *cache)
    assert code == 0
    assert found["rows"] == {"train": 24, "validation": 8, "test": 8}
    assert (found["computed"], found["reused"], found["quarantined"]) == (0, 40, 0)
    assert found["feature_set"].startswith("photos/mobilenet-32-")
    assert len(found["fingerprint"]) == 64
    assert set(found) >= {"path", "seconds", "images_per_s"}


HEAVY = "('tensorflow', 'keras', 'sklearn', 'onnx', 'pyarrow', 'matplotlib', 'rich')"


def loaded(*code):
    return in_process(*code, f"import sys; print([m for m in {HEAVY} if m in sys.modules])").strip()


def test_a_no_op_loads_no_tensorflow(made):
    arguments = ["embed", str(made / "photos"), *EMBED, "--cache", str(made / "cache"), "--json"]
    output = loaded("from featurestore_cli.main import run", f"assert run({arguments!r}) == 0")
    assert output.splitlines()[-1] == "[]"


def test_importing_the_package_and_asking_for_help_load_nothing_heavy():
    assert loaded("import featurestore; featurestore.open; featurestore.embed") == "[]"
    output = loaded(
        "from featurestore_cli.main import run",
        "assert run(['--help']) == 0",
        "run(['embed', '-h'])",
    )
    assert output.splitlines()[-1] == "[]"
    assert "Compute the features of a dataset, once." in output


def test_ls_names_the_set_and_its_rows(cache, capsys):
    assert run(["ls", *cache]) == 0
    output = capsys.readouterr().out
    assert "photos/mobilenet-32-" in output
    assert "train 24, validation 8, test 8" in output
    code, found = fs_json(capsys, "ls", *cache)
    assert (code, [entry["quarantined"] for entry in found["feature_sets"]]) == (0, [0])


def test_ls_tells_of_a_damaged_record_and_lists_the_rest(made, tmp_path, capsys):
    cache = tmp_path / "cache"
    shutil.copytree(made / "cache", cache)
    (cache / "other").mkdir()
    (cache / "other" / "x.zarr.json").write_text("{")
    assert run(["ls", "--cache", str(cache)]) == 5
    captured = capsys.readouterr()
    assert "photos/mobilenet-32-" in captured.out
    assert "x.zarr.json is not a feature set record" in captured.err


def test_show_prints_recipe_classes_provenance_and_quarantine(cache, capsys):
    assert run(["show", "photos", *cache]) == 0
    output = capsys.readouterr().out
    for expected in ("mobilenet", "random:0", "cats, dogs", "zstd", "quarantine: none", "avg"):
        assert expected in output
    _, found = fs_json(capsys, "show", "photos", *cache)
    assert found["recipe"]["pooling"] == "avg"
    assert found["storage"]["logical_bytes"] == 40 * 1024 * 2


def test_a_name_that_is_not_there_ends_with_4_and_says_what_is(cache, capsys):
    assert run(["show", "nothing", *cache]) == 4
    assert "it holds photos/mobilenet-32-" in capsys.readouterr().err


def test_verify_passes_and_recomputes(cache, capsys):
    code, found = fs_json(capsys, "verify", "photos", "--recompute", "3", *cache)
    assert (code, found["rows"], found["recomputed"]) == (0, 40, 3)
    assert 0 <= found["largest_distance"] <= found["tolerance"]


def test_verify_finds_a_flipped_bit_a_lost_file_and_an_added_one(made, tmp_path, capsys):
    for damage in ("flip", "lose", "add"):
        cache = tmp_path / damage
        shutil.copytree(made / "cache", cache)
        (store,) = cache.glob("*/*.zarr")
        chunk = next(path for path in sorted((store / "test" / "features").rglob("*"))
                     if path.is_file() and path.name != "zarr.json")  # fmt: skip
        if damage == "flip":
            content = bytearray(chunk.read_bytes())
            content[len(content) // 2] ^= 1
            chunk.write_bytes(content)
        elif damage == "lose":
            chunk.unlink()
        else:
            (store / "stray").write_text("x")
        assert run(["verify", "photos", "--cache", str(cache)]) == 5
        assert "error: " in capsys.readouterr().err


def test_recomputing_with_other_weights_is_a_conflict(cache, capsys):
    arguments = ["verify", "photos", "--recompute", "1", "--weights", "random:1", *cache]
    assert run(arguments) == 6
    assert "expected digest" in capsys.readouterr().err


def test_quarantine_ends_with_1_and_names_the_file_on_stderr(made, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(made / "photos", folder)
    (folder / "train" / "cats" / "broken.jpg").write_bytes(b"")
    code = run(["embed", str(folder), *EMBED, "--cache", str(tmp_path / "cache"), "--json"])
    captured = capsys.readouterr()
    assert code == 1
    assert "train/cats/broken.jpg: " in captured.err
    found = json.loads(captured.out)
    assert found["quarantined"] == 1
    assert found["quarantine"][0]["sample_id"] == "train/cats/broken.jpg"


def test_gc_removes_a_superseded_version_but_not_one_that_a_run_needs(made, tmp_path, capsys):
    folder, cache = tmp_path / "photos", ["--cache", str(tmp_path / "cache")]
    shutil.copytree(made / "photos", folder)
    run(["embed", str(folder), *EMBED, *cache])
    run(["train", "photos", "--head", "logistic", *cache])
    for number in range(2):
        new = encode(photograph(0, index=800 + number))
        (folder / "train" / "cats" / f"new{number}.jpg").write_bytes(new)
        run(["embed", str(folder), *EMBED, *cache])
    _, planned = fs_json(capsys, "gc", "--dry-run", *cache)
    assert (len(planned["removed"]), len(planned["kept"])) == (1, 1)
    assert len(list((tmp_path / "cache").glob("*/*.zarr"))) == 3
    _, done = fs_json(capsys, "gc", *cache)
    assert done["removed"] == planned["removed"]
    assert len(list((tmp_path / "cache").glob("*/*.zarr"))) == 2
    assert run(["verify", "photos", *cache]) == 0


def test_views_are_embedded_listed_shown_and_verified(made, tmp_path, capsys):
    cache = tmp_path / "cache"
    shutil.copytree(made / "cache", cache)
    cache = ["--cache", str(cache)]
    arguments = ["embed", str(made / "photos"), *EMBED, "--augment", "only:flip=true", *cache]
    _, planned = fs_json(capsys, *arguments, "--views", "2", "--dry-run")
    assert (planned["computed"], planned["views_computed"]) == (0, 48)
    _, found = fs_json(capsys, *arguments, "--views", "2")
    assert [found[name] for name in ("computed", "reused", "views_computed", "views_reused")] == [
        0, 40, 48, 0,
    ]  # fmt: skip
    assert run([*arguments, "--views", "3"]) == 0
    output = capsys.readouterr()
    assert "0 images and 24 views at" in output.out
    assert "40 images and 48 views" in output.out
    assert f"next: fs train {found['feature_set']} --head dense --views all" in output.err
    assert run(["ls", *cache]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert "views" in header
    assert len([line for line in lines if "photos/" in line]) == 2
    _, listed = fs_json(capsys, "ls", *cache)
    assert [entry["views"] for entry in listed["feature_sets"]] == [3, 0]
    name = found["feature_set"]
    assert run(["show", name, *cache]) == 0
    assert "3 of each training image: flip, fill 0, seed 0" in capsys.readouterr().out
    _, shown = fs_json(capsys, "show", name, *cache)
    assert shown["recipe"]["augmentation"]["views"] == shown["views"] == 3
    _, clean = fs_json(capsys, "show", "photos", *cache)
    assert clean["views"] == 0
    code, verified = fs_json(capsys, "verify", name, "--recompute", "20", *cache)
    assert (code, verified["rows"], verified["views"]) == (0, 40, 72)
    assert (verified["recomputed"], verified["largest_distance"] <= 0.002) == (20, True)
    _, health = fs_json(capsys, "doctor", *cache)
    assert (health["cache"]["feature_sets"], health["cache"]["problems"]) == (2, [])
    _, collected = fs_json(capsys, "gc", *cache)
    assert [name in item["path"] for item in collected["removed"]] == [True]


def test_export_as_npz_loads_without_pickle(cache, tmp_path):
    path = tmp_path / "out.npz"
    assert run(["export", "photos", str(path), *cache]) == 0
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["train_features"].shape == (24, 1024)
        assert arrays["class_names"].tolist() == ["cats", "dogs"]
        assert len(arrays["test_sample_ids"]) == 8
    assert run(["export", "photos", str(path), *cache]) == 6
    assert run(["export", "photos", str(path), "--overwrite", *cache]) == 0


def test_every_export_holds_the_same_features(made, cache, tmp_path):
    import h5py
    import pyarrow.parquet as pq
    import zarr

    import featurestore as fs

    with fs.open("photos", cache=made / "cache") as features:
        expected, labels = features["train"].load()
    for ending in ("h5", "zarr", "parquet"):
        assert run(["export", "photos", str(tmp_path / f"out.{ending}"), *cache]) == 0
    np.testing.assert_array_equal(
        zarr.open_group(tmp_path / "out.zarr", mode="r")["train/features"][:], expected
    )
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["train/features"][:], expected)
    table = pq.read_table(tmp_path / "out.parquet")
    train = table.filter(np.array(table["split"].to_pylist()) == "train")
    rows = np.array(train["features"].to_pylist(), np.float16)
    np.testing.assert_array_equal(rows, expected)
    assert train["label"].to_pylist() == labels.tolist()


@pytest.mark.parametrize("ending", ["npz", "zarr"])
def test_an_overwriting_export_that_fails_anywhere_leaves_a_whole_file(cache, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    arguments = ["export", "photos", str(path), "--overwrite", *cache]
    assert run(arguments) == 0
    whole = contents(path)
    operations = count_operations(lambda: run(arguments))
    assert operations >= 3  # a sync, a rename, a sync of the folder
    for k in range(operations):
        with fail_operation(k, lasting=False):
            assert run(arguments) == 6
        assert contents(path) == whole
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def contents(path):
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes()
                for file in path.rglob("*") if file.is_file()}  # fmt: skip
    with np.load(path) as arrays:
        return {name: values.tobytes() for name, values in arrays.items()}


def test_a_folder_that_cannot_be_written_is_bad_input_and_not_a_bug(cache, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run(["export", "photos", str(tmp_path / "file" / "out.npz"), *cache]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(tmp_path / "file") in said
    assert "bug" not in said


def test_a_full_disk_says_what_to_do(cache, tmp_path, capsys):
    with fail_operation(0, errno.ENOSPC):
        assert run(["export", "photos", str(tmp_path / "out.npz"), *cache]) == 6
    assert "next: free some space" in capsys.readouterr().err


def test_export_to_an_unknown_ending_lists_the_known(cache, tmp_path, capsys):
    assert run(["export", "photos", str(tmp_path / "out.mat"), *cache]) == 3
    assert ".npz, .parquet, .h5, .zarr" in capsys.readouterr().err


def test_train_both_heads_from_the_cache(cache, capsys):
    for head, options in (("logistic", []), ("dense", ["--epochs", "2"])):
        code, found = fs_json(capsys, "train", "photos", "--head", head, *options, *cache)
        assert code == 0
        assert found["head"] == head
        assert set(found["metrics"]) == {"train", "validation", "test"}
        assert 0 <= found["metrics"]["test"]["accuracy"] <= 1
        assert set(found) >= {"run", "feature_set", "fingerprint", "fit_seconds"}


def test_doctor_reports_and_finds_a_missing_store(made, cache, tmp_path, capsys):
    code, found = fs_json(capsys, "doctor", *cache)
    assert (code, found["cache"]["problems"], found["cache"]["feature_sets"]) == (0, [], 1)
    assert found["versions"]["tensorflow"] != "not installed"
    ill = tmp_path / "cache"
    shutil.copytree(made / "cache", ill)
    shutil.rmtree(next(ill.glob("*/*.zarr")))
    code, found = fs_json(capsys, "doctor", "--cache", str(ill))
    assert code == 5
    assert "is missing" in found["cache"]["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["embed"], 2, "Missing argument"),
        (["embed", "x", "--size", "big"], 2, "150x200"),
        (["embed", "nowhere", "--weights", "random:0"], 4, "nowhere"),
        (["embed", "nowhere", "--backbone", "vgg61"], 3, "vgg16"),
        (["embed", "nowhere", "--weights", "missing.h5"], 4, "missing.h5"),
        (["embed", "x", "--seed", "0"], 2, "--split"),
        (["embed", "x", "--augment", "default"], 2, "--views"),
        (["embed", "x", "--view-seed", "0"], 2, "--views"),
        (["embed", "x", "--views", "0"], 2, "--views"),
        (["embed", "x", "--views", "2", "--augment", "none"], 2, "the images themselves"),
        (
            ["embed", "x", "--views", "2", "--augment", "only:flip=false"],
            2,
            "the images themselves",
        ),
        (["embed", "x", "--views", "2", "--augment", "spin=3"], 3, "rotation=20"),
        (["verify", "x", "--seed", "0"], 2, "--recompute"),
        (["verify", "x", "--weights", "random:0"], 2, "--recompute"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_input_ends_with_its_code_and_says_so(arguments, code, said, capsys, tmp_path):
    cache = ["--cache", str(tmp_path)] if arguments[0] != "frobnicate" else []
    assert run([*arguments, *cache]) == code
    assert said in capsys.readouterr().err
