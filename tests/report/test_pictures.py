"""Pictures: files of the asked kind, the same bytes each time, whatever the names are."""

import dataclasses
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from comparisons import HEADS, comparison, run
from PIL import Image

from featurestore.compare.learning_curve import CurvePoint, HeadCurve, LearningCurve
from featurestore.compare.results import Estimate, Interval
from featurestore.errors import InvalidInput
from featurestore.report.comparison_plot import comparison_picture, draw_comparison
from featurestore.report.confusion_plot import confusion_picture
from featurestore.report.curves_plot import curves_picture, draw_curves
from featurestore.report.figures import Figure, inline_svg, write_picture
from featurestore.report.learning_curve_plot import draw_learning_curve, learning_curve_picture
from featurestore.report.outcomes import outcomes_of_comparison
from featurestore.report.reliability_plot import reliability_picture
from featurestore.report.roc_plot import roc_picture

HOSTILE = ("_under $x_1^2$ & <b>", 'id="url(#1f2933"', 'a\n"quoted" \\frac{', "猫" * 30)


def learning_curve(labels=HEADS[:3]):
    def point(labelled, value):
        interval = Interval(value - 0.02, value + 0.02)
        return CurvePoint(
            labels=labelled, accuracy=Estimate(value, interval), by_seed=(value - 0.01, value)
        )

    sizes = (20, 40, 100, 1000, 2000)
    curves = tuple(
        HeadCurve(
            label=label,
            points=tuple(point(n, 0.9 - 0.5 / n**0.5 - k / 500) for n in sizes),
            sentence="20 labels reach 0.8.",
        )
        for k, label in enumerate(labels)
    )
    return LearningCurve(
        feature_set="photos/tiny", fingerprint="f" * 64, split="validation", rows=100, curves=curves
    )


def pictures(class_names=("cats", "dogs"), contenders=3, labels=HEADS):
    found = comparison(contenders, rows=120, class_names=class_names, labels=labels)
    outcomes = outcomes_of_comparison(found)
    return {
        "comparison": comparison_picture(found),
        "confusion": confusion_picture(outcomes),
        "roc": roc_picture(outcomes),
        "reliability": reliability_picture(outcomes),
        "curves": curves_picture([run("a", epochs=5), run("b", epochs=1, seed=1)]),
        "learning-curve": learning_curve_picture(learning_curve(labels[:contenders])),
    }


def texts(svg):
    root = ET.fromstring(svg)
    return ["".join(element.itertext()).strip() for element in root.iter() if "text" in element.tag]


@pytest.mark.parametrize("name", pictures())
def test_png_and_svg_are_what_they_are_called(name, tmp_path):
    picture = pictures()[name]
    write_picture(picture, tmp_path / "a.PNG")
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.format == "PNG"
        assert image.width == round(picture.size[0] * 160)
        assert len(image.convert("RGB").getcolors(2**20)) > 10
    write_picture(picture, tmp_path / "a.svg")
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert root.tag.endswith("svg")
    assert picture.alt


def test_same_results_same_bytes_in_any_process_and_under_any_matplotlibrc(tmp_path):
    picture = pictures()["comparison"]
    for suffix in (".svg", ".png"):
        write_picture(picture, tmp_path / f"first{suffix}")
        with mpl.rc_context({"font.size": 31, "svg.hashsalt": None, "axes.facecolor": "red"}):
            write_picture(pictures()["comparison"], tmp_path / f"second{suffix}")
        first, second = ((tmp_path / f"{n}{suffix}").read_bytes() for n in ("first", "second"))
        assert first == second
    assert b"<dc:date>" not in first
    assert "Matplotlib v" not in (tmp_path / "first.svg").read_text()


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.svg.gz"])
def test_other_endings_are_refused_before_anything_is_drawn(name, tmp_path):
    with pytest.raises(InvalidInput, match=r"\.png or \.svg"):
        draw_comparison(comparison(1), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written"):
        draw_learning_curve(learning_curve(), tmp_path / "nowhere" / "a.svg")


@pytest.mark.parametrize(
    ("contenders", "class_names"), [(1, ("cats", "dogs")), (6, [f"class {k}" for k in range(10)])]
)
@pytest.mark.filterwarnings("error")
def test_any_number_of_heads_and_classes_fits_without_a_warning(contenders, class_names, tmp_path):
    for name, picture in pictures(class_names, contenders).items():
        write_picture(picture, tmp_path / f"{name}.svg")


@pytest.mark.filterwarnings("error")  # in a page, the browser has the fonts
def test_hostile_names_are_drawn_as_text():
    for name, picture in pictures(HOSTILE, labels=HOSTILE).items():
        svg = inline_svg(picture, prefix=name)
        assert "<b>" not in svg
        written = "\n".join(texts(svg))
        if name in ("comparison", "roc", "reliability", "learning-curve"):
            assert "_under $x_1^2$ & <b>" in written
            assert 'id="url(#1f2933"' in written
        if name == "confusion":
            assert "_under $x…2$ & <b>" in written


def test_a_picture_in_a_page_needs_no_style():
    for name, picture in pictures().items():
        svg = ET.fromstring(inline_svg(picture, prefix=name))  # no attribute twice
        for element in svg.iter():
            assert not element.tag.endswith("style")
            assert "style" not in element.attrib
        assert any(element.get("fill") == "var(--ink)" for element in svg.iter())


def test_axes_show_what_is_compared():
    found = comparison(2, rows=120)
    written = texts(inline_svg(comparison_picture(found), prefix="c"))
    assert "Accuracy on 120 images (test), with 95 % interval; dots: seeds" in written
    assert {"dense (3 seeds)", "logistic (3 seeds)", "dense − logistic"} <= set(written)
    assert any(text.startswith("p = ") for text in written)
    assert any("most frequent class: 0.500" in text for text in written)


def test_the_seeds_stand_beside_the_interval():
    found = comparison(1, seeds=4)
    figure = Figure()
    comparison_picture(found).paint(figure)
    (axes,) = figure.get_axes()
    dots = [line for line in axes.lines if len(line.get_xdata()) == 4]
    expected = [
        float(np.mean(shares.argmax(axis=1) == found.labels))
        for shares in found.probabilities.values()
    ]
    assert dots[0].get_xdata() == pytest.approx(expected)
    assert set(dots[0].get_ydata()) == {0.28}  # the interval lies at 0


@pytest.mark.parametrize(("share", "note"), [(0.5, "← most"), (0.97, "most")])
def test_chance_is_a_line_where_it_fits_and_a_note_where_not(share, note):
    found = comparison(1)
    (contender,) = found.contenders
    found = dataclasses.replace(
        found, contenders=(dataclasses.replace(contender, majority_share=share),)
    )
    written = texts(inline_svg(comparison_picture(found), prefix="c"))
    assert f"{note} frequent class: {share:.3f}" in written


def test_curves_draw_raw_points_under_smoothed_lines():
    figure = Figure()
    one = run("a", epochs=6, chosen={"epoch": 4})
    curves_picture([one], smooth=0.5).paint(figure)
    axes = figure.get_axes()[0]
    raw, line = axes.lines[:2]
    assert raw.get_ydata().tolist() == one.history["train_accuracy"]
    assert raw.get_alpha() < 0.5 < line.get_linewidth()
    assert line.get_ydata()[1] == pytest.approx(sum(one.history["train_accuracy"][:2]) / 2)
    assert [text.get_text() for text in axes.texts] == ["kept: epoch 4"]
    assert axes.lines[-1].get_xdata() == [4, 4]


def test_runs_without_epochs_and_odd_smoothing_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="head logistic has no epochs"):
        draw_curves([run("a", epochs=3), run("b")], tmp_path / "a.svg")
    for smooth in (1.0, -0.1, float("nan")):
        with pytest.raises(InvalidInput, match="at least 0 and less than 1"):
            draw_curves([run("a", epochs=3)], tmp_path / "a.svg", smooth=smooth)


def test_rows_of_one_class_have_no_roc():
    (found,) = outcomes_of_comparison(comparison(1, seeds=1))
    one_class = dataclasses.replace(found, labels=np.zeros_like(found.labels))
    with pytest.raises(InvalidInput, match="at least two classes"):
        roc_picture([one_class])


def test_the_log_axis_has_plain_numbers():
    written = texts(inline_svg(learning_curve_picture(learning_curve()), prefix="l"))
    assert {"20", "1,000", "2,000"} <= set(written)


def test_elements_of_two_pictures_share_no_id():
    picture = pictures()["roc"]
    first, second = (inline_svg(picture, prefix=prefix) for prefix in ("a", "b"))
    ids = [set(_ids(svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, known in zip((first, second), ids, strict=True):
        assert set(_references(svg)) <= known


def _ids(svg):
    return [element.get("id") for element in ET.fromstring(svg).iter() if element.get("id")]


def _references(svg):
    return re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from featurestore_cli.main import run\n"
        f"sys.exit(run(['plot', 'roc', 'x', {str(tmp_path / 'a.svg')!r}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 7, found.stderr
    assert "pip install 'featurestore[report]'" in found.stderr


def test_pictures_start_no_pyplot():
    code = (
        "import sys\n"
        "import featurestore.report.html, featurestore.report.learning_curve_plot\n"
        "print('matplotlib.pyplot' in sys.modules, 'tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False"], found.stderr
