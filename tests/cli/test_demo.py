"""The demo: images whole or absent, and skipped samples told like anywhere else."""

import json
from pathlib import Path

import pytest
from PIL import Image

import featurestore_cli.demo
from featurestore.catalogue import Quarantined
from featurestore.compare.comparison import compare
from featurestore.demo import Demo, write_digits
from featurestore.embedding.settings import EmbedResult
from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.settings import LogisticSettings
from featurestore.training.train import train
from featurestore_cli.main import run


def test_a_killed_demo_leaves_no_torn_image(tmp_path, monkeypatch):
    save, saved = Image.Image.save, []

    def killed(image, path, **options):
        saved.append(path)
        if len(saved) == 5:
            Path(path).write_bytes(b"\x89PNG\r\n")
            raise KeyboardInterrupt
        save(image, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            write_digits(tmp_path)
    finished = [path for path in tmp_path.rglob("*.png") if not path.name.startswith(".")]
    assert len(finished) == 4
    for path in finished:
        with Image.open(path) as image:
            assert image.size == (32, 32)


@pytest.fixture
def demo_of_two(tmp_path, monkeypatch):
    """A demo with one quarantined image and two runs, made without embedding anything."""
    rows = {"train": blobs(40, n_classes=2), "test": blobs(30, n_classes=2, seed=2)}
    features = MemoryFeatures(rows, ("cats", "dogs"))
    runs = tuple(
        train(features, settings, cache=tmp_path)
        for settings in (LogisticSettings(), LogisticSettings(c=0.1))
    )
    torn = Quarantined("train/0/0000.png", "0" * 64, "truncated: this PNG ends too early")
    result = Demo(
        folder=tmp_path,
        weights="random:0",
        embedded=EmbedResult(
            feature_set="digits/x",
            fingerprint="0" * 64,
            path=tmp_path,
            rows={},
            computed=0,
            reused=0,
            quarantined=(torn,),
            seconds=1.0,
            images_per_s=0.0,
        ),
        runs=runs,
        comparison=compare(runs),
    )
    monkeypatch.setattr(featurestore_cli.demo, "run_demo", lambda *_, **__: result)
    return result


def test_quarantined_images_of_the_demo_are_named_and_end_with_1(demo_of_two, capsys):
    assert run(["demo", "--json"]) == 1
    captured = capsys.readouterr()
    assert "quarantined: train/0/0000.png: truncated" in captured.err
    printed = json.loads(captured.out)
    assert printed["quarantine"][0]["reason"].startswith("truncated")
    assert printed["sentence"] == demo_of_two.comparison.pairs[0].sentence


def test_the_demo_ends_with_what_can_be_told_apart(demo_of_two, capsys):
    assert run(["demo"]) == 1
    out = capsys.readouterr().out
    assert demo_of_two.comparison.pairs[0].sentence in out.splitlines()
    assert "on 30 images" in out
