"""Pages without a browser: what they say, where they lead, and what names cannot do to them."""

import re
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import quote

import httpx2
import pytest
from browsed import DATASET, ONERROR, SCRIPT, make_browsed

from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.service.pages.assets import assets
from featurestore.service.pages.run_routes import MOST_COMPARED
from featurestore.testing.serving import serve_app

ALLOWED_SCRIPTS = re.compile(r"/static/[\w-]+\.js\?v=[0-9a-f]{12}")


class Elements(HTMLParser):
    """Tags with their attributes, ids and the text of a page."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    return make_browsed(tmp_path_factory.mktemp("pages"))


@contextmanager
def browsing(settings):
    """A client of a real socket: that of Starlette decodes a quoted path twice."""
    app = create_app(settings)
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        client.app = app
        yield client


@pytest.fixture(scope="module")
def client(browsed):
    with browsing(browsed.settings) as client:
        yield client


@pytest.fixture
def paths(browsed):
    name = browsed.record.name.split("/")
    ids = [run.id for run in browsed.runs]
    return {
        "sets": "/",
        "set": f"/sets/{quote(name[0], safe='')}/{name[1]}",
        "runs": "/runs",
        "run": f"/runs/{ids[1]}",
        "none": "/compare",
        "compare": f"/compare?run={ids[0]}&run={ids[1]}&run={ids[2]}",
    }


def opened(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Elements(answer.text)


@pytest.mark.parametrize("name", ["sets", "set", "runs", "run", "none", "compare"])
def test_a_page_is_well_made_and_names_stay_text(client, paths, name):
    page = opened(client, paths[name])
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        # What the policy forbids would not work, and what a name smuggled in would show here.
        assert not [each for each in attributes if each.startswith("on") or each == "style"], tag
        if tag == "script":
            assert ALLOWED_SCRIPTS.fullmatch(attributes["src"])
        if tag in ("a", "link", "form", "img", "script"):
            target = attributes.get("href") or attributes.get("src") or attributes.get("action")
            assert target.startswith(("/", "#")) and not target.startswith("//")
    assert not {"b" for attributes in page.of("b") if "onmouseover" in attributes}
    assert "style" not in tags


@pytest.mark.parametrize("name", ["sets", "set", "runs", "run", "compare"])
def test_every_link_of_a_page_leads_somewhere(client, paths, name):
    page = opened(client, paths[name])
    ids = {attributes.get("id") for _, attributes in page.tags}
    for target in {attributes["href"] for attributes in page.of("a")}:
        if target.startswith("#"):
            assert target[1:] in ids
        else:
            assert client.get(target.partition("#")[0]).status_code == 200, target


def test_the_sets_say_what_they_are(client, browsed):
    words = opened(client, "/").words
    assert DATASET in words
    assert "tiny to blocks" in words
    assert "68" in words and "train 24" in words
    assert "1 feature set" in words


@pytest.mark.parametrize(("q", "found"), [("tiny", 1), ("TINY onerror", 1), ("tiny vgg", 0)])
def test_the_filter_works_without_a_script(client, q, found):
    page = opened(client, f"/?q={q}")
    assert len([each for each in page.of("li") if "data-text" in each]) == found
    assert f"{found} feature set" in page.words


def test_an_empty_cache_says_what_to_do(tmp_path):
    with browsing(ServiceSettings(cache=tmp_path)) as c:
        assert "fs embed DATASET" in opened(c, "/").words
        assert "fs train" in opened(c, "/runs").words
        assert "no two runs" in opened(c, "/compare").words


def test_a_set_tells_its_recipe_classes_quarantine_and_how_to_have_it(client, browsed, paths):
    page = opened(client, paths["set"])
    words = page.words
    for text in (
        "bilinear the filter of the resize",
        f"{SCRIPT} 12 6 15",  # a renamed file is another image of the class; the broken one is none
        "damaged JPEG",
        "broken<i>.jpg",
        f"fs pull {client.base_url} '" + browsed.record.name.replace("'", "'\\''") + "'",
        browsed.record.fingerprint,
        "Map of the images",
    ):
        assert text in words or text.replace("15", "16") in words, text
    images = [each for each in page.of("img") if "/images/" in each["src"]]
    assert len(images) == 12
    for image in images:
        answer = client.get(image["src"])
        assert answer.headers["content-type"] == "image/jpeg"
        assert image["alt"].startswith("train/")


def test_the_start_of_a_name_leads_to_the_set(client, paths):
    answer = client.get(paths["set"][:-4], follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == paths["set"]


def test_the_start_of_a_name_leads_to_the_version_of_the_map_that_was_asked_for(client, browsed):
    name, pinned = quote(browsed.record.name), browsed.record.fingerprint[:16]
    asked = f"?fingerprint={pinned}&colour=split"
    answer = client.get(f"/sets/{name[:-2]}/map{asked}", follow_redirects=False)
    assert answer.headers["location"] == f"/sets/{quote(browsed.record.name)}/map{asked}"


def test_a_version_that_is_gone_is_not_found(client, paths):
    assert client.get(paths["set"] + "?fingerprint=0000").status_code == 404


def test_a_damaged_store_hides_nothing_else(tmp_path):
    made = make_browsed(tmp_path)
    (made.record.store / "test" / "labels" / "c.0").write_bytes(b"")
    with browsing(made.settings) as client:
        words = opened(client, f"/sets/{quote(made.record.name)}").words
    assert "split test, rows 0 to 31 of labels: CRC-32C does not match" in words
    assert "The recipe" in words


def test_runs_are_sorted_and_filtered_as_asked(client, browsed):
    def listed(query):
        return [each["value"] for each in opened(client, f"/runs?{query}").of("input")
                if each.get("name") == "run"]  # fmt: skip

    newest = [r.id for r in sorted(browsed.runs, key=lambda r: (r.created, r.id), reverse=True)]
    assert listed("") == newest
    assert listed("reverse=1") == newest[::-1]
    accuracies = {run.id: run.metrics["validation"]["accuracy"] for run in browsed.runs}
    best = [accuracies[run_id] for run_id in listed("sort=accuracy")]
    assert best == sorted(accuracies.values(), reverse=True)
    assert listed("head=sgd") == [browsed.runs[1].id]
    assert listed("q=CONTROL+centroid") == [browsed.runs[2].id]
    assert listed(f"on={browsed.record.fingerprint[:8]}") == newest
    assert listed("on=elsewhere") == []
    assert listed("sort=nonsense") == newest


def test_sorting_by_test_is_warned_of(client):
    assert "scores better on it" in opened(client, "/runs?sort=accuracy&split=test").words
    assert "scores better on it" not in opened(client, "/runs?sort=accuracy").words


def test_the_sorted_column_says_so_and_turns_round(client):
    page = opened(client, "/runs?sort=accuracy")
    assert [each["aria-sort"] for each in page.of("th") if "aria-sort" in each] == ["descending"]
    assert "/runs?sort=accuracy&reverse=1" in {each["href"] for each in page.of("a")}


def test_a_run_has_intervals_pictures_settings_and_files(client, browsed, paths):
    page = opened(client, paths["run"])
    pictures = [each for each in page.of("svg") if each.get("role") == "img"]
    assert len(pictures) == 4  # confusion, ROC, reliability, curves
    assert all(each["aria-label"] for each in pictures)
    words = page.words
    assert re.search(r"test 32 0\.\d{3} 0\.\d{3} to 0\.\d{3}", words)
    assert "epochs 3" in words and "model.skops" in words
    form = next(each for each in page.of("form") if each.get("class") == "try")
    assert form["action"] == f"/v1/predict?run={browsed.runs[1].id}"


def test_a_control_says_so(client, browsed):
    assert "labels of the training images were shuffled" in opened(
        client, f"/runs/{browsed.runs[2].id}"
    ).words  # fmt: skip


def test_a_run_without_its_probabilities_still_has_a_page(tmp_path):
    made = make_browsed(tmp_path)
    run = made.runs[0]
    damaged = run.path / "probabilities-test.npz"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"other")
    with browsing(made.settings) as client:
        words = opened(client, f"/runs/{run.id}").words
        assert str(tmp_path) not in words
        assert "expected SHA-256" in words
        assert f"{run.metrics['test']['accuracy']:.3f}" in words
        damaged.write_bytes(whole)
        assert "expected SHA-256" not in opened(client, f"/runs/{run.id}").words
        damaged.write_bytes(b"other")
        answer = client.get(f"/compare?run={run.id}")
        assert answer.status_code == 500
        assert "its log says how" in Elements(answer.text).words


def test_a_comparison_is_that_of_the_report_with_photographs_by_address(client, browsed, paths):
    page = opened(client, paths["compare"])
    words = page.words
    for heading in ("What can be told apart", "The pairs", "Images worth a look", "Provenance"):
        assert heading in words
    images = [each for each in page.of("img") if "/images/" in each.get("src", "")]
    assert images and all(each["loading"] == "lazy" for each in images)
    assert client.get(images[0]["src"]).headers["content-type"] == "image/jpeg"
    assert {f"/runs/{run.id}" for run in browsed.runs} <= {each["href"] for each in page.of("a")}


def test_a_photograph_is_of_the_row_it_stands_for(client, browsed, paths):
    page = opened(client, paths["compare"])
    for image in page.of("img"):
        if "/images/test/" not in image.get("src", ""):
            continue
        row = int(re.search(r"/images/test/(\d+)", image["src"])[1])
        samples = client.app.state.service.samples.read(browsed.record, "test")
        assert image["alt"].startswith(str(samples.ids[row]))


def test_what_takes_long_is_made_once(client, paths, monkeypatch):
    opened(client, paths["compare"])
    monkeypatch.setattr("featurestore.service.pages.measured.comparison_part", None)
    opened(client, paths["compare"])


def test_runs_that_cannot_be_compared_are_told(client, browsed):
    answer = client.get(f"/compare?run={browsed.runs[0].id}&run=nothing")
    assert answer.status_code == 404
    assert "nothing" in Elements(answer.text).words
    many = "&".join(f"run={browsed.runs[0].id}" for _ in range(MOST_COMPARED + 1))
    assert client.get(f"/compare?{many}").status_code == 422


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sets/none/such", 404),
        ("/runs/none", 404),
        ("/runs?split=neither", 422),
        ("/compare?split=neither", 422),
        (f"/sets/{quote(SCRIPT, safe='')}/{quote(ONERROR, safe='')}", 404),
        ("/runs/%00", 404),
        (f"/?q={'x' * 201}", 422),
    ],
)
def test_errors_are_pages_with_a_way_back(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    page = Elements(answer.text)
    assert str(status) in page.words
    assert "/" in [each["href"] for each in page.of("a")]
    assert len(page.of("script")) == 1


def test_a_browser_sees_a_page_where_nothing_is_and_a_program_a_problem_document(client):
    asked = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = client.get("/no<b>thing", headers=asked)
    assert answer.status_code == 404
    page = Elements(answer.text)
    assert "nothing is at /no<b>thing" in page.words and not page.of("b")
    problem = "application/problem+json"
    assert client.get("/nothing").headers["content-type"] == problem
    assert client.get("/v1/nothing", headers=asked).headers["content-type"] == problem
    assert client.get("/v1/embed", headers=asked).status_code == 405
    answer = client.post("/nothing", headers=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (404, problem)
    assert client.get("/runs/", headers=asked).status_code == 307


def test_assets_are_kept_by_their_content(client):
    for name, asset in assets().items():
        answer = client.get(f"/static/{name}?v={asset.version}")
        assert answer.content == asset.content
        assert "immutable" in answer.headers["cache-control"]
        again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    assert client.get("/static/..%2fsite.css").status_code == 404
    assert client.get("/static/none.css").status_code == 404
