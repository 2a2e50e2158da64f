"""The report as people meet it: opened in a real browser that has no network."""

import dataclasses

import numpy as np
import pytest
from comparisons import comparison, judged_on

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.report.html import write_report
from featurestore.report.photographs import Photographs
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder

SCRIPT = "<script>alert(1)</script>"
LONG = "a head with a rather long name:metric=cosine:neighbors=11"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on photographs whose classes have hostile names, the labels of some being wrong."""
    root = tmp_path_factory.mktemp("browser")
    write_image_folder(root / "photos", splits={"train": 3, "test": 24})
    hostile = root / "photos" / "test" / "class_0" / "<b onmouseover=alert(1)>&amp;.jpg"
    folder = next((root / "photos" / "test").iterdir())
    next(folder.iterdir()).rename(folder / hostile.name)
    fs.embed(root / "photos", fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    record = Catalogue(root / "cache").find("photos")
    with fs.open(record.fingerprint, cache=root / "cache") as features:
        ids = features["test"].sample_ids
    found = comparison(
        3,
        rows=len(ids),
        class_names=(SCRIPT, "dogs"),
        sample_ids=ids,
        labels=("dense", "knn", LONG),
    )
    rows = np.arange(len(ids))

    def turned(run_id):  # all are wrong on some rows, and one of them on some others
        return ((rows % 4 == 0) | (run_id.startswith("knn") & (rows % 4 == 1)))[:, None]

    found = dataclasses.replace(
        judged_on(found, record),
        probabilities={
            run_id: np.where(turned(run_id), shares[:, ::-1], shares)
            for run_id, shares in found.probabilities.items()
        },
    )
    write_report(found, root / "report.html", photographs=Photographs(record))
    return found, root / "report.html", hostile.name


@pytest.fixture
def opened(browser, report):
    """A page of the report, and what it asked for and complained of."""
    path = report[1]
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_offline(True)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    yield page, asked, complaints
    context.close()


def shown(page):
    return page.locator(".exhibits > li:visible")


def test_it_opens_whole_without_asking_for_anything(opened, report):
    page, asked, complaints = opened
    found, path, _ = report
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert page.title() == f"3 heads on {found.feature_set}"
    for pair in found.pairs:
        assert page.get_by_text(pair.sentence, exact=True).first.is_visible()
    pictures = page.locator("svg[role=img]")
    assert pictures.count() == 1 + 2 + 3 * 3 + 1  # comparison, together, each head's, one's curves
    for picture in pictures.all():
        box = picture.bounding_box()
        assert box["width"] > 100 and box["height"] > 100
        assert picture.get_attribute("aria-label")


def test_every_photograph_is_drawn(opened):
    page, _, _ = opened
    widths = page.locator(".exhibits img").evaluate_all(
        "images => images.map(image => image.complete && image.naturalWidth)"
    )
    assert len(widths) > 5
    assert all(width > 0 for width in widths)


def test_hostile_names_are_text(opened, report):
    page, _, complaints = opened
    assert page.get_by_text(SCRIPT).count() > 0
    assert page.locator("script, .exhibits b[onmouseover]").count() == 0
    assert report[2] in page.content().replace("&lt;", "<").replace("&gt;", ">").replace(
        "&amp;", "&"
    )
    assert complaints == []


def test_the_filters_work_with_the_keyboard(opened, report):
    page, _, _ = opened
    everything = shown(page).count()
    first = page.get_by_role("radio", name="all", exact=False).first
    first.focus()
    counts = {"all": everything}
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        chosen = page.locator(".gallery input:checked + label")
        name, count = chosen.inner_text().rsplit(" ", 1)
        assert shown(page).count() == int(count)
        counts[name] = int(count)
    assert list(counts) == ["all", "all wrong", "heads disagree", "dense wrong", "knn wrong"]
    assert counts["all wrong"] + counts["heads disagree"] == everything
    assert 0 < counts["dense wrong"] < counts["knn wrong"] <= everything
    assert all(
        row.get_attribute("class") == "wrong"
        for row in page.locator(".exhibits > li:visible tr:nth-child(2)").all()
    )
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    assert shown(page).count() == counts["dense wrong"]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_heads_name_leads_to_what_is_told_of_it(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 844})
    details = page.locator("details").nth(1)
    assert not details.locator("svg").first.is_visible()
    page.locator("main a", has_text="knn").click()
    details.locator("svg").first.wait_for(state="visible")
    assert page.locator("details[open]").count() == 1
    summary = details.locator("summary").bounding_box()
    assert 0 <= summary["y"] < 200  # the name is in sight above it


def test_the_filters_are_one_named_group(opened):
    page, _, _ = opened
    group = page.get_by_role("group", name="Show", exact=True)
    choices = group.get_by_role("radio")
    assert choices.count() == page.locator("input[type=radio]").count() == 6
    assert (
        page.locator("[id]").evaluate_all("all => all.length - new Set(all.map(e => e.id)).size")
        == 0
    )


def test_the_filters_work_with_the_mouse(opened):
    page, _, _ = opened
    page.get_by_text("all wrong", exact=False).first.click()
    assert page.get_by_role("radio", name="all wrong").is_checked()
    assert 0 < shown(page).count() < page.locator(".exhibits > li").count()


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_scrolls_down_only(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 844})
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.body.scrollWidth") <= width


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_and_its_pictures_follow_the_colour_scheme(opened, scheme, dark):
    page, _, _ = opened
    page.emulate_media(color_scheme=scheme)

    def brightness(locator, what):
        colour = locator.evaluate(f"element => getComputedStyle(element)['{what}']")
        return sum(int(part) for part in colour.strip("rgb()").split(",")) / 765

    paper = brightness(page.locator("body"), "background-color")
    ink = brightness(page.locator("svg text").first, "fill")
    assert (paper < 0.3, ink > 0.7) == (dark, dark)


def test_paper_has_every_image_and_picture(opened):
    page, _, _ = opened
    page.get_by_text("all wrong", exact=False).first.click()
    page.emulate_media(media="print")
    assert shown(page).count() == page.locator(".exhibits > li").count()
    assert page.locator(".gallery label:visible").count() == 0
    assert len(page.pdf(format="A4")) > 20_000
