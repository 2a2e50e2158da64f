"""The report as a file: complete, alone, and safe whatever samples and classes are called."""

import dataclasses
import errno
import html.parser
import re
import subprocess
import sys

import numpy as np
import pytest
from comparisons import comparison, judged_on, tuned_settings

import featurestore as fs
from featurestore.augmentation import Augmentation
from featurestore.catalogue import Catalogue
from featurestore.compare.results import Estimate
from featurestore.errors import Conflict, InvalidInput
from featurestore.report.html import write_report
from featurestore.report.photographs import Photographs
from featurestore.report.text import seconds_text
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.images import write_image_folder
from featurestore.training.settings import DenseSettings

pytestmark = pytest.mark.filterwarnings("error")

SCRIPT = "<script>alert(1)</script>"


class Elements(html.parser.HTMLParser):
    """Every element of a page with its attributes, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def tags(self):
        return {tag for tag, _ in self.elements}


def written(path, found, **options):
    write_report(found, path, **options)
    return path.read_text(encoding="utf-8")


def test_nothing_is_fetched_or_run(tmp_path):
    page = written(tmp_path / "a.html", comparison(3, rows=60))
    elements = Elements(page)
    assert not elements.tags() & {"script", "iframe", "object", "embed", "form", "base", "audio"}
    references = [
        value
        for _, attributes in elements.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "background", "poster")
    ]
    assert references and all(value.startswith(("data:", "#")) for value in references)
    assert not [name for _, a in elements.elements for name in a if name.startswith("on")]
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    policies = [a["content"] for t, a in elements.elements if a.get("http-equiv")]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    ]


def test_what_was_compared_and_found_is_in_it(tmp_path):
    found = comparison(3, rows=60)
    text = " ".join("".join(Elements(written(tmp_path / "a.html", found)).text).split())
    for contender in found.contenders:
        assert contender.sentence in text
        accuracy = contender.metrics["accuracy"]
        spread = contender.seed_spread["accuracy"]
        assert f"{accuracy.value:.3f} ± {spread:.3f}" in text
        assert f"{accuracy.interval.low:.3f} to {accuracy.interval.high:.3f}" in text
        for run in contender.runs:
            assert run.id in text
    for pair in found.pairs:
        assert pair.sentence in text
    for part in (
        found.feature_set,
        found.fingerprint,
        "test, 60 images",
        "2: cats, dogs",
        "vgg16 to block5_pool, 150 × 150 pixels, float32, stored as float16",
        "2,000 resamples, seed 0",
        "python 3.11.7, featurestore 0.1.0, numpy 2.4.6",
    ):
        assert part in text


def test_hostile_names_stay_text(tmp_path):
    names = (SCRIPT, '"><img src=x onerror=alert(1)>')
    ids = [f"test/{SCRIPT}/{i}\n\u202e' onload='.jpg" for i in range(60)]
    found = comparison(3, rows=60, class_names=names, sample_ids=ids, labels=["{{ 7 * 7 }}", *"ab"])
    page = written(tmp_path / "a.html", found)
    elements = Elements(page)
    assert "script" not in elements.tags()
    assert not [1 for tag, attributes in elements.elements if "onerror" in attributes]
    assert "\u202e" not in page
    text = "".join(elements.text)
    assert (
        SCRIPT in text and "{{ 7 * 7 }}" in text and "49" not in re.findall(r"\b49\b", text[:500])
    )


def test_same_comparison_same_bytes(tmp_path):
    pages = [written(tmp_path / f"{n}.html", comparison(2, rows=60)) for n in "ab"]
    assert pages[0] == pages[1]


def test_one_head_and_a_class_without_rows(tmp_path):
    found = comparison(1, rows=40, seeds=1)
    text = "".join(Elements(written(tmp_path / "a.html", found)).text)
    assert "1 head on" in text and "The pairs" not in text and "heads disagree" not in text
    (contender,) = found.contenders
    metrics = dict(contender.metrics) | {"roc_auc": Estimate(None, None)}
    one_class = dataclasses.replace(
        found,
        labels=np.zeros_like(found.labels),
        contenders=(dataclasses.replace(contender, metrics=metrics, predict_us=None),),
    )
    text = "".join(Elements(written(tmp_path / "b.html", one_class)).text)
    assert "AUC" in text  # the column
    assert "true positive rate" not in text


def test_a_control_at_chance_is_said_among_the_findings(tmp_path):
    found = comparison(2, rows=60)
    at_chance = dataclasses.replace(
        found.contenders[1], chance_p=0.4, sentence="logistic is not distinguishable from chance."
    )
    found = dataclasses.replace(found, contenders=(found.contenders[0], at_chance))
    page = written(tmp_path / "a.html", found)
    findings = page[page.index('id="findings"') : page.index('id="table-title"')]
    assert "not distinguishable from chance" in findings
    assert found.contenders[0].sentence not in findings


def test_only_sixty_of_each_kind_are_shown_and_the_rest_counted(tmp_path):
    found = comparison(3, rows=3000, class_names=list("abcdef"), seeds=1)
    page = written(tmp_path / "a.html", found)
    assert len(re.findall(r'<li class="all all-wrong', page)) == 60
    assert len(re.findall(r'<li class="all disagree', page)) == 60
    right = np.stack([p.argmax(axis=1) == found.labels for p in found.probabilities.values()])
    wrong = int((~right.any(axis=0)).sum())
    assert f"{wrong:,} images wrong (60 shown, {wrong - 60:,} not)" in page


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    write_image_folder(root / "photos", splits={"train": 3, "test": 20})
    fs.embed(root / "photos", fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    return Catalogue(root / "cache").find("photos")


def on(record):
    """A comparison on the test rows of a feature set."""
    with fs.open(record.fingerprint, cache=record.store.parents[1]) as features:
        ids, names = features["test"].sample_ids, features.class_names
    found = comparison(3, rows=len(ids), class_names=names, sample_ids=ids)
    weak = {
        run_id: np.where(np.arange(len(ids))[:, None] % 3 == 0, shares[:, ::-1], shares)
        for run_id, shares in found.probabilities.items()
    }
    return judged_on(dataclasses.replace(found, probabilities=weak), record)


def test_the_gallery_shows_photographs_and_says_which_are_missing(record, tmp_path):
    found = on(record)
    page = written(tmp_path / "a.html", found, photographs=Photographs(record))
    images = [a for tag, a in Elements(page).elements if tag == "img"]
    assert len(images) > 5
    assert all(a["src"].startswith("data:image/jpeg;base64,") and a["alt"] for a in images)
    page = written(tmp_path / "b.html", found)
    assert "img" not in Elements(page).tags()
    assert page.count("images were not asked for") == len(images)


def test_photographs_of_another_feature_set_are_refused(record, tmp_path):
    with pytest.raises(Conflict, match="expected images of manifest eeeeeeeeeeee"):
        write_report(comparison(2), tmp_path / "a.html", photographs=Photographs(record))
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_whole_or_the_old_one_stays(tmp_path):
    path = tmp_path / "a.html"
    path.write_text("old")
    found = comparison(1, rows=40, seeds=1)
    for k in range(count_operations(lambda: write_report(found, tmp_path / "b.html"))):
        with (
            fail_operation(k, errno.ENOSPC),
            pytest.raises(InvalidInput, match="cannot be written"),
        ):
            write_report(found, path)
        assert path.read_text() in ("old", (tmp_path / "b.html").read_text())
    assert {each.name for each in tmp_path.iterdir()} == {"a.html", "b.html"}


def test_without_jinja_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from featurestore.errors import MissingDependency\n"
        "try:\n    import featurestore.report.html\n"
        "except MissingDependency as error:\n    print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'featurestore[report]'" in found.stdout, found.stderr


def with_paths(found):
    """The comparison with its three contenders made end to end, on views, and fine-tuned."""
    ranges = Augmentation().to_dict() | {"seed": 0}
    changes = (
        {"path_taken": "end-to-end", "augmentation": ranges, "settings": DenseSettings()},
        {"augmentation": ranges | {"views": 6}},
        {
            "path_taken": "fine-tune",
            "started_from": "dense-photos-1",
            "settings": tuned_settings(),
            "parameters": {
                "total": 16_812_353,
                "trainable_before": 2_097_665,
                "trainable": 9_177_089,
            },
        },
    )
    return dataclasses.replace(
        found,
        contenders=tuple(
            dataclasses.replace(
                each, runs=tuple(dataclasses.replace(run, **fields) for run in each.runs)
            )
            for each, fields in zip(found.contenders, changes, strict=True)
        ),
    )


def test_what_each_path_did_with_the_images_is_told(tmp_path):
    found = with_paths(comparison(3, rows=60, labels=("streamed", "viewed", "tuned")))
    text = " ".join("".join(Elements(written(tmp_path / "a.html", found)).text).split())
    assert f"2 heads and 1 fine-tuned network on {found.feature_set}" in text
    _, _, told = text.partition("What each did with the images")
    assert "streamedIn every epoch the training images were decoded, shown anew" in told
    assert "only the head was trained. Weights trained: 2,097,665." in told
    assert "viewedThe images and, for training, 6 random versions of each" in told
    assert "tunedblock5 of the network and the head were trained, from run dense-photos-1" in told
    assert "Weights trained: 9,177,089 of 16,812,353 (before: 2,097,665)." in told
    assert "fine-tune from dense-photos-1" in told
    plain = written(tmp_path / "b.html", comparison(3, rows=60))
    assert "What each did with the images" not in plain


def test_long_times_are_in_minutes_and_hours():
    times = {0.42: "0.42 s", 12.3: "12.3 s", 135: "135 s", 600: "10.0 min", 9000: "2.5 h"}
    assert {seconds: seconds_text(seconds) for seconds in times} == times
