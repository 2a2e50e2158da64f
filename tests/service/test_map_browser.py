"""The map as people meet it: in a real browser, served by the real application."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.features import open_record
from featurestore.service.contract import ServiceSettings
from featurestore.service.map_files import map_folder
from featurestore.service.map_points import framed, pack
from featurestore.service.map_worker import make_map
from featurestore.service.projection import Layout
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.testing.serving import serve
from featurestore.training.sklearn_settings import NearestCentroidSettings
from featurestore.training.train import train

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service with one set of two classes, one of a hostile name, and a run."""
    root = tmp_path_factory.mktemp("map browser")
    write_image_folder(root / "photos", splits={"train": 10, "test": 6}, classes=("cats", HOSTILE))
    fs.embed(root / "photos", fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    record = Catalogue(root / "cache").current()[0]
    with open_record(record) as features:
        train(features, NearestCentroidSettings(), cache=root / "cache")

    folder = map_folder(root / "cache", record.fingerprint)
    with threadpool_limits(1):  # as in the process that makes maps
        make_map(record, folder, layout=Layout(iterations=250), tell=lambda *_: None, written=str)

    def network(recipe):
        return TinyNetwork(weights="one", dtype=recipe.dtype, batch_size=8)

    with serve(ServiceSettings(cache=root / "cache", network=network, workers=1)) as url:
        yield url, record


@pytest.fixture
def opened(browser, served):
    """Opens the map as asked and hands its page back; fails the test that makes it complain."""
    url, record = served
    complaints, contexts = [], []

    def open_map(query="", *, width=1280, height=900, before=lambda page: None, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:", "blob:")) or complaints.append(request.url)
            ),
        )
        before(page)
        page.goto(f"{url}/sets/{record.name}/map{query}")
        page.wait_for_selector("#stage.ready")
        page.locator("#progress").wait_for(state="hidden")
        settled(page)
        return page

    yield open_map
    for context in contexts:
        context.close()
    assert complaints == []


def settled(page):
    """Wait until nothing moves and the last frame is drawn."""
    page.wait_for_timeout(250)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(page):
    """Return the drawn points as they are on the canvas: (height, width, 3)."""
    text, width, height = page.evaluate(
        """() => {
          const canvas = document.getElementById("points"), { width, height } = canvas;
          const copy = Object.assign(document.createElement("canvas"), { width, height });
          const pen = copy.getContext("2d", { willReadFrequently: true });
          pen.drawImage(canvas, 0, 0);
          const { data } = pen.getImageData(0, 0, width, height);
          let text = "";
          for (let at = 0; at < data.length; at += 8192)
            text += String.fromCharCode(...data.subarray(at, at + 8192));
          return [btoa(text), width, height];
        }"""
    )
    found = np.frombuffer(base64.b64decode(text), np.uint8)
    return found.reshape(height, width, 4)[..., :3].astype(int)


def coloured(page, name):
    """Return how many pixels have one of the palette's colours."""
    colour = page.evaluate(
        "(name) => getComputedStyle(document.getElementById('map')).getPropertyValue(name).trim()",
        name,
    )
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(pixels(page) - rgb).max(axis=2) <= 2).sum())


def place_of(page, position):
    """Return where a point is in the page."""
    box = page.locator("#points").bounding_box()
    x, y = page.evaluate(
        "(i) => featureMap.view.toScreen(featureMap.rows.x[i], featureMap.rows.y[i])", position
    )
    return box["x"] + x, box["y"] + y


def picture_of(locator):
    locator.wait_for()
    locator.evaluate("image => image.complete || new Promise(done => { image.onload = done; })")
    return locator.evaluate("image => image.naturalWidth")


class TestDrawing:
    def test_shows_every_class_in_its_colour(self, opened):
        page = opened()
        assert coloured(page, "--map-1") > 16 * 12
        assert coloured(page, "--map-2") > 16 * 12
        assert coloured(page, "--map-3") == 0

    def test_follows_the_colour_scheme(self, opened):
        for scheme, dark in (("light", False), ("dark", True)):
            page = opened(color_scheme=scheme)
            assert (pixels(page)[2, 2].sum() < 200) == dark
            assert coloured(page, "--map-1") > 16 * 12

    def test_shows_where_a_run_is_wrong(self, opened):
        page = opened()
        assert page.locator("#run-field").is_hidden()
        page.select_option("#colour", "answer")
        page.locator("#legend legend", has_text="Answer").wait_for()
        settled(page)
        counts = [
            int(page.locator(f"li:has([data-value='answer {value}']) .count").inner_text())
            for value in range(3)
        ]
        assert sum(counts) == 32
        assert counts[2] == 0
        assert (coloured(page, "--map-wrong") > 0) == (counts[1] > 0)
        assert coloured(page, "--map-right") > 0
        assert "colour=answer" in page.url

    def test_zooms_to_what_is_under_the_pointer(self, opened):
        page = opened()
        box = page.locator("#points").bounding_box()
        under = f"featureMap.view.toMap({300 - box['x']}, {500 - box['y']})"
        before = page.evaluate(under)
        page.mouse.move(300, 500)
        for _ in range(4):
            page.mouse.wheel(0, -200)
        settled(page)
        assert page.evaluate("featureMap.view.zoom") > 2
        assert page.evaluate(under) == pytest.approx(before, abs=1e-6)

    def test_drags(self, opened):
        page = opened()
        x, y = place_of(page, 0)
        page.mouse.move(300, 500)
        page.mouse.down()
        page.mouse.move(380, 540, steps=4)
        page.mouse.up()
        assert place_of(page, 0) == pytest.approx((x + 80, y + 40), abs=1)
        assert page.locator("#pinned").is_hidden()  # a drag is no click


class TestFilters:
    def test_hide_a_class_and_say_how_many_are_left(self, opened):
        page = opened()
        page.get_by_label("cats", exact=False).first.uncheck()
        settled(page)
        assert coloured(page, "--map-1") > 0
        assert coloured(page, "--map-2") == 0
        assert page.locator("#listing summary").inner_text().endswith("16 photographs")
        train_rows = page.locator("li:has([data-value='split 0']) .count").inner_text()
        assert train_rows == "10"

    def test_are_kept_in_the_address(self, opened):
        page = opened()
        page.get_by_role("button", name="only test").click()
        page.keyboard.press("Tab")
        settled(page)
        query = page.url.partition("?")[2]
        again = opened(f"?{query}")
        assert not again.locator("[data-value='split 0']").is_checked()
        assert again.locator("[data-value='split 1']").is_checked()
        assert again.locator("#listing summary").inner_text().endswith("12 photographs")

    def test_leave_the_version_in_the_address(self, opened, served):
        page = opened(f"?fingerprint={served[1].fingerprint[:16]}&colour=split")
        assert f"?fingerprint={served[1].fingerprint[:16]}&colour=split" in page.url

    def test_show_hostile_names_as_text(self, opened):
        page = opened()
        assert page.locator("#legend bdi", has_text=HOSTILE).count() == 1
        assert page.locator("#legend img").count() == 0


class TestPhotographs:
    def test_are_shown_under_the_pointer(self, opened):
        page = opened()
        x, y = place_of(page, 3)
        page.mouse.move(x, y)
        card = page.locator("#card")
        card.wait_for()
        frame, image = (card.locator(each).bounding_box() for each in (".photo", "img"))
        assert image["height"] <= frame["height"]
        assert image["width"] <= frame["width"]
        shown = page.evaluate("featureMap.hover")
        assert picture_of(card.locator("img")) == 64
        card.locator(".name", has_text=".jpg").or_(
            card.locator(".name", has_text=".png")
        ).wait_for()
        name = page.evaluate("(i) => featureMap.api.name(i)", shown)
        assert card.locator(".name").inner_text() == name
        page.mouse.move(5, 5)
        assert card.is_hidden()

    def test_are_pinned_with_their_neighbours_by_a_click(self, opened):
        page = opened()
        page.mouse.click(*place_of(page, 3))
        near = page.locator("#pinned .neighbours li")
        near.first.wait_for()
        assert near.count() == 12
        assert picture_of(near.first.locator("img")) == 64
        distances = [float(text) for text in page.locator(".distance").all_inner_texts()]
        assert distances == sorted(distances)
        assert "pin=" in page.url
        pinned = page.evaluate("featureMap.pinned")
        near.nth(1).get_by_role("button").click()
        assert page.evaluate("featureMap.pinned") != pinned
        page.get_by_role("button", name="close", exact=True).click()
        assert page.locator("#pinned").is_hidden()
        assert "pin=" not in page.url

    def test_are_reached_with_the_keyboard_alone(self, opened):
        page = opened()
        page.locator("#stage").focus()
        page.keyboard.press("Home")
        first = page.evaluate("featureMap.hover")
        assert first is not None
        page.locator("#card").wait_for()
        page.keyboard.press("ArrowRight")
        second = page.evaluate("featureMap.hover")
        assert second != first
        x = page.evaluate(
            "([a, b]) => [featureMap.rows.x[a], featureMap.rows.x[b]]", [first, second]
        )
        assert x[1] > x[0]
        name = page.evaluate("(i) => featureMap.api.name(i)", second)
        page.locator("#said", has_text=name).wait_for(state="attached")
        page.keyboard.press("Enter")
        page.locator("#pinned .neighbours li").first.wait_for()
        assert page.evaluate("featureMap.pinned") == second
        page.keyboard.press("Escape")
        assert page.locator("#pinned").is_hidden()
        zoom = page.evaluate("featureMap.view.zoom")
        page.keyboard.press("+")
        assert page.evaluate("featureMap.view.zoom") > zoom
        page.keyboard.press("0")
        assert page.evaluate("featureMap.view.zoom") == 1

    def test_are_listed(self, opened):
        page = opened()
        page.locator("#listing summary").click()
        rows = page.locator("#listing li")
        rows.first.wait_for()
        assert rows.count() == 32
        rows.nth(2).get_by_role("button").focus()
        page.keyboard.press("Enter")
        page.locator("#pinned .neighbours li").first.wait_for()
        assert page.evaluate("document.activeElement.closest('#pinned') !== null")


class TestImages:
    def drop(self, page, content, name="mine.jpg"):
        page.evaluate(
            """([text, name]) => {
              const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
              for (const kind of ["dragover", "drop"])
                document.body.dispatchEvent(
                  new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
            }""",
            [base64.b64encode(content).decode(), name],
        )

    def test_that_are_dropped_are_placed_among_their_neighbours(self, opened):
        page = opened()
        self.drop(page, encode(photograph(0, index=777)), "<b>mine</b>.jpg")
        near = page.locator("#pinned .neighbours li")
        near.first.wait_for()
        assert near.count() == 12
        assert page.locator("#pinned .name").first.inner_text() == "<b>mine</b>.jpg"
        x, y = page.evaluate("featureMap.dropped")
        assert 0 <= x <= 1
        assert 0 <= y <= 1
        assert page.locator("#pinned .preview").evaluate(
            "canvas => [canvas.width, canvas.height]"
        ) == [
            160,
            120,
        ]

    def test_may_be_chosen(self, opened, served):
        page = opened()
        content = next(Path(served[1].provenance["source"]).rglob("*.jpg")).read_bytes()
        page.set_input_files(
            "#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": content}
        )
        page.locator(".distance", has_text="same bytes").first.wait_for()

    def test_that_are_none_are_refused_with_the_reason(self, browser, served):
        url, record = served
        page = browser.new_page()
        page.goto(f"{url}/sets/{record.name}/map")
        page.wait_for_selector("#stage.ready")
        self.drop(page, b"no image")
        page.locator("#pinned .problem", has_text="cannot be read").wait_for()
        page.close()


class TestPhone:
    def test_scrolls_down_only(self, opened):
        for width in (390, 320):
            page = opened(width=width, height=844, has_touch=True, is_mobile=True)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert coloured(page, "--map-1") > 0

    def test_shows_the_photograph_that_is_tapped(self, opened):
        page = opened(width=390, height=844, has_touch=True, is_mobile=True)
        page.touchscreen.tap(*place_of(page, 4))
        page.locator("#pinned .neighbours li").first.wait_for()
        assert page.locator("#pinned .pinned-row img").is_visible()
        assert page.locator("#card").is_hidden()  # it would lie over what is near

    def test_draws_sharply(self, opened):
        page = opened(width=390, height=844, device_scale_factor=2)
        stage = page.locator("#stage").bounding_box()
        height, width = pixels(page).shape[:2]
        assert width == pytest.approx(2 * (stage["width"] - 2), abs=2)
        assert height == pytest.approx(2 * (stage["height"] - 2), abs=2)


def test_says_that_it_is_being_made_and_shows_a_draft_until_then(opened):
    """The service tells of a draft first; the page shows it, and goes over to the layout."""
    places = np.random.default_rng(0).uniform(-1, 1, (2, 200, 2)).astype(np.float32)
    told = []

    def before(page):
        def state(route):
            told.append(1)
            made = len(told) > 2
            route.fulfill(
                json=big_state(200, step="ready" if made else "layout", done=0.5)
                | {"points": "layout" if made else "draft"}
            )

        def points(route):
            route.fulfill(body=big_points(places[int(len(told) > 2)], len(told) > 2))

        page.route("**/v1/**/map?*", state)
        page.route("**/map/points?*", points)
        page.route("**/images/**", lambda route: route.fulfill(body=encode(photograph(0))))

    page = opened(before=before)
    assert page.evaluate("featureMap.has") == "layout"
    x = page.evaluate("[...featureMap.rows.x]")
    np.testing.assert_allclose(x, framed(places[1])[:, 0] / 65535, atol=1e-6)


def test_asks_again_where_an_answer_is_lost(browser, served):
    url, record = served
    answers = [None, {"status": 429, "headers": {"Retry-After": "1"}}]
    page = browser.new_page()
    page.clock.install()

    def state(route):
        if not answers:
            route.fallback()
        elif (answer := answers.pop(0)) is None:
            route.abort()
        else:
            route.fulfill(**answer)

    page.route("**/v1/**/map?*", state)
    page.goto(f"{url}/sets/{record.name}/map")
    page.locator("#progress", has_text="Asking again").wait_for()
    page.clock.run_for(5000)
    page.wait_for_selector("#stage.ready")
    page.close()


def test_pans_and_zooms_over_fifty_thousand_points(opened, capsys):
    rng = np.random.default_rng(0)
    centres = rng.uniform(-0.8, 0.8, (10, 2))
    places = centres[np.arange(50_000) % 10] + rng.normal(scale=0.12, size=(50_000, 2))
    content = big_points(np.clip(places, -1, 1), final=True)

    def before(page):
        page.route("**/v1/**/map?*", lambda route: route.fulfill(json=big_state(50_000)))
        page.route("**/map/points?*", lambda route: route.fulfill(body=content))
        page.route("**/images/**", lambda route: route.fulfill(body=encode(photograph(0))))

    page = opened(before=before)
    began = time.perf_counter()
    frames, draw_ms = page.evaluate(
        """async () => {
          const { view, painter } = featureMap, before = painter.frames, draws = [];
          for (let frame = 0; frame < 60; frame++) {
            if (frame < 30) view.pan(5 * Math.cos(frame / 5), 4);
            else view.zoomAt(frame < 45 ? 1.06 : 1 / 1.06, 400, 300);
            featureMap.moved();
            await new Promise(requestAnimationFrame);
            draws.push(painter.lastMs);
          }
          return [painter.frames - before, draws.sort((a, b) => a - b)[30]];
        }"""
    )
    seconds = time.perf_counter() - began
    with capsys.disabled():
        print(
            f"\n50,000 points: {frames / seconds:.0f} frames/s, {draw_ms:.1f} ms to draw (median)"
        )
    assert frames >= 58
    settled(page)
    assert page.locator("#listing summary").inner_text().startswith("List of what is in view: ")


def big_state(rows, *, step="ready", done=1.0):
    return {
        "feature_set": "big/set",
        "fingerprint": "f" * 64,
        "step": step,
        "done": done,
        "reason": None,
        "points": "layout",
        "method": "",
        "rows": rows,
        "class_names": [f"class {kind}" for kind in range(10)],
        "splits": [{"name": "train", "start": 0, "rows": rows}],
        "runs": [],
    }


def big_points(places, final):
    found = framed(places)
    labels = np.arange(len(places)) % 10
    columns = {"x": found[:, 0], "y": found[:, 1], "label": labels.astype(np.uint16)}
    about = {"rows": len(places), "points": "layout" if final else "draft"}
    return pack(columns, about).content
