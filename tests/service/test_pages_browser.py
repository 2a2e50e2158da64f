"""The pages as people meet them: in a real browser, wide and narrow, dark, and by keyboard."""

import itertools
import re
import shutil
from urllib.parse import quote

import pytest
from browsed import ONERROR, SCRIPT, make_browsed

from featurestore.testing.serving import serve

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

LEAST_CONTRAST = 4.5  # Source: WCAG 2.2, 1.4.3, for text of usual size
PAGES = ("sets", "set", "runs", "run", "none", "compare", "missing")

# The contrast of each text that is seen, by the formula of WCAG 2.2; texts within pictures have
# colours of the same names.
CONTRASTS = """() => {
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, script, option, .skip, .unseen, :disabled")) continue;
    const one = luminance(parts(getComputedStyle(element).color));
    const other = luminance(paper(element));
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([ratio, walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    return make_browsed(tmp_path_factory.mktemp("pages browser"))


@pytest.fixture(scope="module")
def url(browsed):
    with serve(browsed.settings) as url:
        yield url


@pytest.fixture(scope="module")
def paths(browsed):
    ids = [run.id for run in browsed.runs]
    return {
        "sets": "/",
        "set": f"/sets/{quote(browsed.record.name)}",
        "runs": "/runs",
        "run": f"/runs/{ids[1]}",
        "none": "/compare",
        "compare": f"/compare?run={ids[0]}&run={ids[1]}&run={ids[2]}",
        "missing": f"/runs/{quote(SCRIPT, safe='')}",
    }


@pytest.fixture
def opened(browser, url):
    """Opens a path and hands the page back; what the browser complains of fails the test."""
    complaints, contexts = [], []

    def open_page(path, *, width=1280, expected=200, **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                (expected == 404 and "404" in message.text) or complaints.append(message.text)
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url + "/", "data:")) or complaints.append(request.url)
            ),
        )
        answer = page.goto(url + path)
        assert answer.status == expected
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_is_legible_wide_and_narrow_light_and_dark(opened, paths, name):
    expected = 404 if name == "missing" else 200
    for scheme in ("light", "dark"):
        page = opened(paths[name], color_scheme=scheme, expected=expected)
        for details in page.locator("details").all():
            details.locator("summary").click()
        for width in (1280, 390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.body.scrollWidth") <= width
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 5
        assert min(contrasts) >= [LEAST_CONTRAST], min(contrasts)
        brightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", brightness))) < 200) == (scheme == "dark")


@pytest.mark.parametrize("name", PAGES)
def test_everything_that_is_used_has_a_name_and_headings_have_an_order(opened, paths, name):
    page = opened(paths[name], expected=404 if name == "missing" else 200)
    for control in page.locator("input:not([type=hidden]), select, button, a, summary").all():
        named = control.evaluate(
            "e => (e.labels && [...e.labels].map(l => l.textContent).join('').trim()) || "
            "e.getAttribute('aria-label') || e.textContent.trim()"
        )
        assert named, control.evaluate("e => e.outerHTML")
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("html[lang]").count() == 1
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    # What scrolls within itself can be reached and scrolled by the keyboard.
    unreached = page.locator(".scroll, pre").evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth && e.tabIndex < 0).length"
    )
    assert unreached == 0


@pytest.mark.parametrize("name", ["set", "compare"])
def test_photographs_take_their_place_before_they_come(browser, opened, paths, name):
    page = opened(paths[name])
    images = page.locator("main img")
    assert images.count() > 3
    before = page.evaluate("document.documentElement.scrollHeight")
    for image in images.all():
        image.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('main img')].every(i => i.complete && i.naturalWidth)"
    )
    assert page.evaluate("document.documentElement.scrollHeight") == before


def test_hostile_names_are_read_and_not_run(opened, paths):
    page = opened(paths["set"])
    for name in (SCRIPT, ONERROR):
        assert page.locator("main").get_by_text(name, exact=True).first.is_visible()
    assert page.locator("main script, main img[src=x], main b[onmouseover]").count() == 0


def test_runs_are_chosen_and_compared_by_the_keyboard(opened, paths, browsed):
    page = opened(paths["runs"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    compare = page.get_by_role("button", name="Compare")
    assert compare.is_disabled()
    for _ in range(80):
        page.keyboard.press("Tab")
        at = page.evaluate("[document.activeElement.name, document.activeElement.type]")
        if at == ["run", "checkbox"]:
            page.keyboard.press("Space")
        if at[1] == "submit" and page.evaluate("document.activeElement.textContent") == "Compare":
            break
    assert page.get_by_text("3 runs chosen.").is_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?*")
    assert page.locator("h1").inner_text() == f"3 heads on {browsed.record.name}"
    page.go_back()
    page.wait_for_url("**/runs#main")
    assert page.get_by_text("3 runs chosen.").is_visible()


def test_typing_filters_at_once(opened, paths):
    page = opened(paths["runs"])
    rows = page.locator("#runs > tr:visible")
    assert rows.count() == 3
    page.get_by_label("Filter").press_sequentially("Centroid control")
    assert rows.count() == 1
    assert page.get_by_text("1 run", exact=True).is_visible()
    page.get_by_label("Filter").fill("nothing of the kind")
    assert page.get_by_text("No run has all of this.").is_visible()


def test_the_gallery_is_filtered_by_its_choices(opened, paths):
    page = opened(paths["compare"])
    shown = page.locator(".exhibits > li:visible")
    for label in page.locator(".filters label").all():
        label.click()
        assert shown.count() == int(label.inner_text().rsplit(" ", 1)[1])


def test_a_command_is_copied(opened, paths, browsed, url):
    page = opened(paths["set"], permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"fs pull {url} '")


def test_an_image_is_tried_on_a_run(opened, paths, browsed):
    page = opened(paths["run"])
    source = next((browsed.cache.parent / "photos" / "train" / SCRIPT).iterdir())
    page.get_by_label("An image;").set_input_files(source)
    table = page.locator(".try table")
    table.wait_for()
    assert {SCRIPT, ONERROR} == set(table.locator("th").all_inner_texts())
    shares = [float(text.strip("> %")) for text in table.locator("td:last-child").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)
    assert page.get_by_text("it is in a feature set").is_visible()
    assert page.locator(".try img").evaluate("image => image.naturalWidth") > 0


def test_an_image_that_is_dropped_and_unreadable_has_a_reason(opened, paths):
    page = opened(paths["run"])
    page.locator(".try").evaluate(
        """form => {
          const files = new DataTransfer();
          files.items.add(new File(["no image"], "<i>odd.jpg", {type: "image/jpeg"}));
          form.dispatchEvent(new DragEvent("drop", {dataTransfer: files, cancelable: true}));
        }"""
    )
    page.locator(".try .warning").wait_for()
    assert page.locator(".try i").count() == 0
    assert not page.locator(".try img").is_visible()


def test_a_photograph_that_is_gone_says_why(browser, opened, tmp_path):
    made = make_browsed(tmp_path)
    shutil.rmtree(tmp_path / "photos")
    with serve(made.settings) as elsewhere:
        page = browser.new_page()
        page.goto(f"{elsewhere}/sets/{quote(made.record.name)}")
        page.locator(".photographs").scroll_into_view_if_needed()
        page.get_by_text("its dataset is no longer at").first.wait_for()
        playwright.expect(page.locator(".photographs img")).to_have_count(0)
        page.close()


def test_ids_of_runs_break_between_their_words_on_a_phone(opened, paths):
    page = opened(paths["runs"], width=390)
    lines = page.locator("#runs th bdi").evaluate_all(
        """found => found.flatMap((each) => [...each.childNodes]).map((node) => {
          const range = document.createRange();
          range.selectNodeContents(node);
          return range.getClientRects().length;
        })"""
    )
    assert set(lines) <= {0, 1}


@pytest.mark.parametrize("name", ["sets", "set", "runs", "run", "compare"])
def test_a_page_is_read_without_a_script(opened, paths, name):
    page = opened(paths[name], java_script_enabled=False, width=390)
    assert page.locator("h1").is_visible()
    if name == "runs":
        for checkbox in page.locator("input[type=checkbox]").all():
            checkbox.check()
        page.get_by_role("button", name="Compare").click()
        page.wait_for_url("**/compare?*")
        assert page.get_by_text("What can be told apart").is_visible()
