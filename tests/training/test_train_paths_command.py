"""`fs train --path`: what it streams, resumes, embeds first and refuses."""

import contextlib
import functools
import json
import shutil

import pytest
from streaming_sets import embed_photographs, tiny_network

import featurestore as fs
from featurestore.augmentation import Augmentation
from featurestore.embedding.settings import EmbedSettings
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_class_folder, write_image_folder
from featurestore.training.runs import read_runs
from featurestore_cli import train as command
from featurestore_cli.main import run

SMALL = ["--units", "8", "--epochs", "2", "--batch-size", "8"]
END_TO_END = ["--path", "end-to-end", *SMALL]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photographs in ``photos``, embedded by the tiny network, which streams too."""
    embed_photographs(tmp_path, rows={"train": 8, "validation": 4}).close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("featurestore.training.streamed.network_of", _network)
    embed = command.embed_dataset
    monkeypatch.setattr(
        command,
        "embed_dataset",
        lambda *arguments, **options: embed(*arguments, **options, choose=TinyChoice),
    )
    return tmp_path


def _network(recipe, *, weights, batch_size):
    return tiny_network(recipe)


def test_end_to_end_is_printed_and_recorded(photos, capsys):
    assert run(["train", "photos", *END_TO_END, "--augment", "only:flip=true", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (written,) = read_runs(photos / "cache").runs
    assert printed["run"] == written.id
    assert (printed["head"], printed["path_taken"]) == ("dense", "end-to-end")
    assert printed["settings"]["optimizer"] == "nadam"
    assert printed["augmentation"] == {
        **Augmentation(rotation=0, shift=0, shear=0, zoom=0).to_dict(),
        "seed": 0,
    }
    assert run(["train", "photos", *END_TO_END, "--augment", "none", "--optimizer", "adam"]) == 0
    out, err = capsys.readouterr()
    assert "end-to-end" in out and "images" not in out
    assert "next: fs compare photos" in err
    optimizers = {each.settings.optimizer for each in read_runs(photos / "cache").runs}
    assert optimizers == {"adam", "nadam"}


def test_a_killed_training_says_that_it_goes_on(photos, capsys, monkeypatch):
    told = []

    def stop(self, done, total, numbers):
        told.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(command, "progress_line", lambda: contextlib.nullcontext(str))
        patched.setattr(command.EpochLine, "epoch", stop)
        assert run(["train", "photos", *END_TO_END]) == 130
    assert told == [1, 2]
    assert run(["runs"]) == 0
    name = "photos/tiny-16-blocks-fp32-w7692c3"
    assert f"unfinished training: end-to-end on {name}, epoch 1, stopped" in capsys.readouterr().err
    assert run(["runs", "--json"]) == 0
    (unfinished,) = json.loads(capsys.readouterr().out)["unfinished_trainings"]
    assert unfinished == {
        "path_taken": "end-to-end",
        "feature_set": name,
        "started_from": None,
        "epoch": 1,
        "under_way": False,
    }
    assert run(["train", "photos", *END_TO_END]) == 0
    assert "going on after epoch 1 of 2" in capsys.readouterr().err
    assert run(["train", "photos", *END_TO_END, "--restart"]) == 0
    assert "going on" not in capsys.readouterr().err


def test_a_folder_is_embedded_first(photos, capsys):
    (photos / "photos" / "train" / "cats" / "broken.jpg").write_bytes(b"no image")
    arguments = ["train", "photos", "--head", "nearest-centroid", "--name", "fresh"]
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert "quarantined: train/cats/broken.jpg" in err
    assert "feature set fresh/" in err and "feature set  fresh/" in out
    assert run(["train", "fresh", "--head", "nearest-centroid"]) == 0
    assert run(["train", "./photos", *END_TO_END, "--name", "fresh"]) == 1
    assert "0 images embedded" in capsys.readouterr().err


def test_a_split_has_a_seed_of_its_own_and_is_not_changed_by_the_way(photos, capsys):
    write_class_folder(photos / "flat")
    settings = EmbedSettings(split="0.6,0.2,0.2", seed=5)
    first = command.embed_dataset("flat", settings, cache=photos / "cache")
    train = ["train", "./flat", "--head", "nearest-centroid"]
    for split in ("0.6,0.2,0.2", "0.5,0.25,0.25"):
        assert run([*train, "--split", split, "--seed", "5"]) == 6
        assert "--split 0.6,0.2,0.2 --split-seed 5" in capsys.readouterr().err
    same = ["--split", "0.60,0.2,0.2", "--split-seed", "5"]
    assert run([*train, *same, "--seed", "7"]) == 0
    (written,) = read_runs(photos / "cache").runs
    assert (written.features.rows, written.seed) == (first.rows, 7)
    assert run([*train, "--split", "0.6,0.2,0.2", "--split-seed", "0"]) == 0
    assert {each.features.fingerprint for each in read_runs(photos / "cache").runs} > {
        first.fingerprint
    }
    assert run([*train, "--split-seed", "5"]) == 2


def test_the_name_of_a_set_comes_before_a_folder_and_a_folder_before_its_beginning(photos, capsys):
    assert run(["train", "photos", "--head", "nearest-centroid"]) == 0
    assert "embedded" not in capsys.readouterr().err
    (photos / "photos").rename(photos / "phot")
    assert run(["train", "phot", "--head", "nearest-centroid"]) == 0
    assert "feature set phot/" in capsys.readouterr().err


def test_a_folder_that_has_changed_is_embedded_again_as_it_was(photos, capsys):
    extra = next((photos / "photos" / "train" / "cats").glob("*.jpg"))
    (extra.parent / "more.jpg").write_bytes(extra.read_bytes() + b"\0")
    assert run(["train", "photos", "--head", "nearest-centroid"]) == 0
    err = capsys.readouterr().err
    assert "is not as it was embedded" in err and ": 1 images embedded" in err
    assert run(["train", "photos", "--head", "nearest-centroid"]) == 0
    assert "embedded" not in capsys.readouterr().err
    assert {each.features.rows["train"] for each in read_runs(photos / "cache").runs} == {17}


def test_a_folder_that_has_nothing_to_do_with_a_set_of_its_name_is_refused(
    photos, capsys, monkeypatch
):
    write_image_folder(photos / "there" / "photos", splits={"train": 4}, seed=1)
    monkeypatch.chdir(photos / "there")
    assert run(["train", "photos", "--head", "nearest-centroid"]) == 6
    err = capsys.readouterr().err
    assert "photos/tiny" in err and "--name" in err
    assert run(["train", "./photos", "--head", "nearest-centroid", "--name", "mine"]) == 0


def test_several_sets_of_a_folder_s_name_are_not_passed_over(photos, capsys):
    other = functools.partial(TinyChoice, weights="two")
    fs.embed("photos", fs.EmbedSettings(), cache=photos / "cache", choose=other)
    assert run(["train", "photos", "--head", "nearest-centroid"]) == 3
    assert "means 2 feature sets" in capsys.readouterr().err


def test_a_name_means_the_set_with_views_where_they_are_asked_for(photos, capsys):
    fs.embed("photos", fs.EmbedSettings(views=2), cache=photos / "cache", choose=TinyChoice)
    assert run(["train", "photos", "--head", "logistic", "--views", "2"]) == 0
    assert "next: fs compare photos\n" in capsys.readouterr().err
    assert run(["train", "photos", "--head", "logistic"]) == 0
    found = [each.augmentation for each in read_runs(photos / "cache").runs]
    assert sorted(each["views"] for each in found if each) == [2] and None in found


def test_moved_images_are_found_where_they_are_said_to_be(photos, capsys):
    (photos / "photos").rename(photos / "elsewhere")
    assert run(["train", "photos", *END_TO_END]) == 3
    err = capsys.readouterr().err
    assert "--images" in err and "fs embed" not in err
    assert run(["train", "photos", *END_TO_END, "--images", "elsewhere"]) == 0
    (photos / "elsewhere").rename(photos / "photos")
    assert run(["train", "photos", *END_TO_END, "--images", "nowhere"]) == 3
    err = capsys.readouterr().err
    assert f"fs embed {photos / 'photos'} " in err and "fs embed nowhere" not in err


@pytest.mark.parametrize("copied", [False, True])
def test_a_dataset_given_by_its_path_is_read_there(photos, copied, monkeypatch):
    (photos / "moved").mkdir()
    if copied:  # the recorded place is there and its images are not
        shutil.copytree("photos", "moved/photos")
        shutil.rmtree("photos/train")
    else:
        (photos / "photos").rename(photos / "moved" / "photos")
    assert run(["train", "moved/photos", *END_TO_END]) == 0
    if not copied:
        monkeypatch.chdir(photos / "moved")
        (photos / "moved/photos").rename(photos / "moved/again")
        (photos / "moved/again").rename(photos / "moved/photos")
        assert run(["train", "photos", *END_TO_END, "--restart"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "Missing option '--head'"),
        (["--head", "dense"], "Missing argument 'DATASET'"),
        (["photos", "--head", "dense", "--augment", "none"], "--augment: not an option of --path"),
        (["photos", "--head", "dense", "--restart"], "--restart: not an option of --path cached"),
        (["photos", "--path", "end-to-end", "--head", "knn"], "trains a dense head only"),
        (["photos", *END_TO_END, "--neighbors", "3"], "--neighbors: not an option of --path"),
        (["photos", *END_TO_END, "--views", "3"], "--views: not an option of --path end-to-end"),
        (["photos", *END_TO_END, "--augment", "spin=1"], "spin"),
        (["nothing", "--head", "dense", "--size", "16"], "--size: only where DATASET is a folder"),
        (["--path", "fine-tune", "--unfreeze", "block5"], "Missing option '--from'"),
        (["--path", "fine-tune", "--from", "x"], "Missing option '--unfreeze'"),
        (["--path", "fine-tune", "--from", "x", "--unfreeze", "y", "--units", "8"], "--units: not"),
        (["photos", "--head", "dense", "--views", "0"], "expected a number of views"),
    ],
)
def test_what_means_nothing_is_a_usage_error(photos, capsys, arguments, message):
    assert run(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert out == "" and read_runs(photos / "cache").runs == []


def test_views_that_are_not_there_are_asked_for(photos, capsys):
    assert run(["train", "photos", "--head", "dense", "--views", "3"]) == 3
    err = capsys.readouterr().err
    assert f"fs embed {photos / 'photos'} --backbone tiny" in err and "--views 3" in err


def test_help_tells_the_defaults_of_every_path(capsys):
    assert run(["train", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())  # lines are broken within words too
    assert "dense:rmsprop,end-to-end:nadam,fine-tune:rmsprop" in text
    assert "fine-tune:1e-05" in text and "dense,end-to-end,fine-tune:endonce" in text


def test_every_option_has_its_heading(capsys):
    assert run(["train", "--help"]) == 0
    sections = capsys.readouterr().out.split("\n\n")
    paths, every, dataset, heads = (text for text in sections if text.partition(":\n")[1])
    for text, options in (
        (paths, ("--path", "--augment", "--views", "--from", "--unfreeze", "--images")),
        (every, ("--seed", "--memory", "--cache", "--json", "--help")),
        (dataset, ("--backbone", "--weights", "--size", "--split-seed", "--name")),
        (heads, ("--head", "--epochs", "--neighbor-weights", "--params")),
    ):
        assert all(f"{option} " in text or f"{option}\n" in text for option in options)
