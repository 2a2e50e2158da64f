"""The demo: images whole or absent, and skipped samples told like anywhere else."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featurestore_cli.demo
from featurestore.catalogue import Quarantined
from featurestore.compare.statistics import mcnemar_exact
from featurestore.demo import Demo, write_digits
from featurestore.embedding.settings import EmbedResult
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


def test_quarantined_images_of_the_demo_are_named_and_end_with_1(tmp_path, monkeypatch, capsys):
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
        runs=(),
        paired=mcnemar_exact(np.array([True]), np.array([False])),
    )
    monkeypatch.setattr(featurestore_cli.demo, "run_demo", lambda *_, **__: result)
    assert run(["demo", "--json"]) == 1
    captured = capsys.readouterr()
    assert "quarantined: train/0/0000.png: truncated" in captured.err
    assert json.loads(captured.out)["quarantine"][0]["reason"] == torn.reason
