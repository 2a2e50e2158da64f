"""What DATASET and views mean to `fs train --path fine-tune`."""

import shutil

import pytest

from featurestore.catalogue import Catalogue
from featurestore.testing.images import write_image_folder
from featurestore.training.runs import read_runs
from featurestore_cli import train as command
from featurestore_cli.main import run

CUT = "conv_pw_12_relu"
EMBED = ["--backbone", "mobilenet", "--size", "32", "--weights", "random:0", "--precision"]
EMBED += ["float32", "--dtype", "float32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache with two layers of one folder, one with views, and a dense run on the deeper."""
    root = tmp_path_factory.mktemp("fine-tune-command")
    for name, seed in (("photos", 0), ("other", 1)):
        write_image_folder(root / name, splits={"train": 4, "validation": 2, "test": 2}, seed=seed)
    cache = ["--cache", str(root / "cache")]
    layer = ["--layer", CUT]
    assert run(["embed", str(root / "photos"), *EMBED, *cache]) == 0
    train = ["train", "photos", "--head", "dense", "--units", "4", "--epochs", "1"]
    assert run([*train, *cache]) == 0
    for views in ("2", "3"):
        assert run(["embed", str(root / "photos"), *EMBED, *layer, "--views", views, *cache]) == 0
    return root


@pytest.fixture
def asked(made, monkeypatch):
    """Types a fine-tuning; gives its exit code, and what the library was asked for."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("FS_CACHE", str(made / "cache"))
    (start,) = read_runs(made / "cache").runs
    seen = []

    def fine_tune(start, request, **arguments):
        seen.append((request, arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "fine_tune", fine_tune)

    def ask(*arguments):
        seen.clear()
        typed = ["train", *arguments, "--path", "fine-tune", "--from", start.id]
        code = run([*typed, "--unfreeze", "conv_pw_13,conv_dw_13"])
        return code, (seen[0] if seen else None)

    return ask


def test_the_name_of_the_start_s_dataset_is_enough(made, asked):
    (made / "photos").rename(made / "moved")
    try:
        code, (request, arguments) = asked("photos")
        assert code == 130 and request.features is None
        assert arguments["streaming"].images is None
    finally:
        (made / "moved").rename(made / "photos")


def test_a_set_that_is_named_is_the_one_that_is_meant(made, asked):
    record = next(each for each in Catalogue(made / "cache").records() if each.views == 3)
    _, (request, _) = asked(record.fingerprint[:12], "--views", "2")
    assert request.features == record.fingerprint


def test_a_folder_says_where_the_images_of_the_start_lie(made, asked, capsys):
    shutil.copytree(made / "photos", made / "copied", dirs_exist_ok=True)
    _, (_, arguments) = asked("copied")
    assert str(arguments["streaming"].images) == "copied"
    assert asked("other") == (3, None)
    assert "was trained on the images of photos/" in capsys.readouterr().err
    (next((made / "copied" / "train").glob("*/*"))).unlink()
    assert asked("copied") == (3, None)


def test_images_are_named_once(asked, capsys):
    assert asked("other", "--images", "photos") == (2, None)
    assert "--images" in capsys.readouterr().err
    _, (_, arguments) = asked("photos", "--images", "other")
    assert str(arguments["streaming"].images) == "other"


def test_all_views_may_be_asked_for(asked):
    _, (request, arguments) = asked("photos", "--views", "all")
    assert request.every_view and arguments["options"].views is None


def test_shuffled_labels_are_no_control(asked, capsys):
    assert asked("photos", "--shuffle-labels") == (2, None)
    assert "no control" in " ".join(capsys.readouterr().err.split())


def fine_tuned(made, *arguments):
    before = {each.id for each in read_runs(made / "cache").runs}
    (start,) = (each for each in read_runs(made / "cache").runs if each.head == "dense")
    typed = ["train", *arguments, "--path", "fine-tune", "--from", start.id, "--epochs", "1"]
    code = run([*typed, "--unfreeze", "conv_pw_13,conv_dw_13", "--cache", str(made / "cache")])
    new = [each for each in read_runs(made / "cache").runs if each.id not in before]
    return code, new[0] if new else None


def test_the_set_with_enough_views_is_trained_on(made, capsys):
    records = {each.views: each for each in Catalogue(made / "cache").records() if each.views}
    code, three = fine_tuned(made, "photos", "--views", "3")
    assert code == 0 and three.features.fingerprint == records[3].fingerprint
    code, two = fine_tuned(made, records[2].fingerprint[:12], "--views", "2")
    assert code == 0 and two.features.fingerprint == records[2].fingerprint  # named, if older
    assert two.augmentation["views"] == 2
    code, every = fine_tuned(made, "--views", "all")
    assert code == 0 and every.augmentation["views"] == 3
    assert "next: fs compare photos" in capsys.readouterr().err
    assert fine_tuned(made, "--views", "4") == (4, None)
    err = capsys.readouterr().err
    assert "has 3 views" in err and f"--layer {CUT}" in err and "--views 4" in err


def test_views_of_other_ranges_are_not_chosen_among(made, capsys):
    settings = ["--layer", CUT, "--views", "2", "--view-seed", "5", "--cache", str(made / "cache")]
    assert run(["embed", str(made / "photos"), *EMBED, *settings]) == 0
    assert fine_tuned(made, "photos", "--views", "2") == (3, None)
    err = capsys.readouterr().err
    names = {each.name for each in Catalogue(made / "cache").records() if each.views}
    assert len(names) == 2 and all(name in err for name in names)
    code, tuned = fine_tuned(made, max(names), "--views", "2")
    assert code == 0 and tuned.features.name == max(names)
