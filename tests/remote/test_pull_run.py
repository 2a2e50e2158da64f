"""A pulled run is the service's to the byte, and scores as it did there; nothing else is kept."""

import json
import shutil

import numpy as np
import pytest
from scripted_server import Scripted, between
from served import Sides, copy_of

from featurestore.catalogue import Catalogue
from featurestore.collect import find_garbage
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound
from featurestore.features import open_features
from featurestore.remote.connection import quoted
from featurestore.remote.pull_run import find_run_id, pull_run, run_ids_on
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import write_image_folder
from featurestore.testing.serving import serve
from featurestore.training.runs import load_run, read_runs
from featurestore.training.settings import LogisticSettings
from featurestore.training.train import train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    write_image_folder(root / "photos", splits={"train": 12, "validation": 4, "test": 4})
    TinyEmbedder(root / "photos", root / "cache")()
    with open_features("photos", cache=root / "cache") as features:
        train(features, LogisticSettings(), cache=root / "cache")
    return root


@pytest.fixture
def sides(made, tmp_path):
    served = copy_of(made / "cache", tmp_path / "served")
    with serve(ServiceSettings(cache=served)) as url:
        yield Sides(made / "photos", served, tmp_path / "laptop", url)


@pytest.fixture
def run(sides):
    """Return the one run of the service."""
    return read_runs(sides.served).runs[0]


def pull(sides, run_id, url=None):
    with sides.connect(url) as connection:
        return pull_run(connection, run_id, cache=sides.laptop)


def pull_through(sides, spoil, run_id):
    with between(sides.url, spoil) as server:
        return pull(sides, run_id, url=server.url)


def files_of(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


def test_a_pulled_run_is_the_services_to_the_byte(sides, run):
    done = pull(sides, run.id)
    assert files_of(done.path) == files_of(run.path)
    assert done.moved_bytes == sum(
        len(content) for name, content in files_of(run.path).items() if name != "run.json"
    )
    (here,) = read_runs(sides.laptop).runs
    assert here.damages() == {} and here.metrics == run.metrics
    assert np.array_equal(
        here.predictions("test").probabilities, run.predictions("test").probabilities
    )
    assert not list((sides.laptop / ".staging").iterdir())
    assert find_garbage(sides.laptop, staging=True) == []
    again = pull(sides, run.id)
    assert again.unchanged and again.moved_bytes == 0
    (done.path / "model.skops").write_bytes(b"damaged")
    assert not pull(sides, run.id).unchanged
    assert files_of(done.path) == files_of(run.path)


def test_runs_are_found_by_the_start_of_an_id_and_by_their_set(sides, run):
    with sides.connect() as connection:
        assert find_run_id(connection, "logistic") == run.id
        assert run_ids_on(connection, run.features.fingerprint) == [run.id]
        assert run_ids_on(connection, "0" * 64) == []
        with pytest.raises(NotFound):
            find_run_id(connection, "nothing")


def test_another_run_of_that_id_is_not_replaced(sides, run):
    pull(sides, run.id)
    record = sides.laptop / "runs" / run.id / "run.json"
    fields = json.loads(record.read_bytes())
    fields["files"] = dict.fromkeys(fields["files"], "0" * 64)
    record.write_text(json.dumps(fields))
    with pytest.raises(Conflict, match="is another run"):
        pull(sides, run.id)
    assert json.loads(record.read_bytes()) == fields


def test_wrong_bytes_are_never_seen_and_what_came_is_kept(sides, run):
    def spoil(asked, answer):
        if asked.path.endswith("/model.skops"):
            answer.body = answer.body[::-1]
        return answer

    with pytest.raises(IntegrityError, match="expected digest"):
        pull_through(sides, spoil, run.id)
    assert read_runs(sides.laptop) == ([], [])
    done = pull(sides, run.id)
    assert (
        0
        < done.moved_bytes
        < sum(map(len, files_of(run.path).values())) - len(files_of(run.path)["run.json"])
    )
    assert load_run(done.path).damages() == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"files": {"../../x": "0" * 64}},
        {"files": {"model.skops": "0" * 64, "run.json": "1" * 64}},
        {"files": {}},
        {"head": "no such head"},
        {"features": None},
        {"format_version": 0},
        {"id": "logistic-other"},
    ],
    ids=str,
)
def test_a_record_that_no_run_writes_is_refused(sides, run, fields):
    def spoil(asked, answer):
        if asked.path.endswith("/run.json"):
            answer.body = json.dumps(json.loads(answer.body) | fields).encode()
        return answer

    with pytest.raises(IntegrityError, match=run.id) as raised:
        pull_through(sides, spoil, run.id)
    assert str(sides.laptop) not in raised.value.message
    assert read_runs(sides.laptop) == ([], [])
    assert list((sides.laptop / "runs").iterdir()) == []


@pytest.mark.parametrize("found", ["../x", "..", ".hidden", "a/b", "", 7, None, "x" * 300])
def test_an_id_that_leads_elsewhere_is_refused(sides, found):
    def spoil(asked, answer):
        return Scripted(200, json.dumps({"id": found, "runs": [{"id": found}]}).encode())

    with between(sides.url, spoil) as server, sides.connect(server.url) as connection:
        with pytest.raises(IntegrityError, match="names what is no run"):
            find_run_id(connection, "logistic")
        with pytest.raises(IntegrityError, match="names what is no run"):
            run_ids_on(connection, "0" * 64)
        if isinstance(found, str):
            with pytest.raises(IntegrityError, match="names what is no run"):
                pull_run(connection, found, cache=sides.laptop)


# The service's side


def test_only_the_files_that_a_record_names_are_served(sides, run):
    (run.path / "notes.txt").write_text("mine")
    with sides.connect() as connection:
        for name in ("notes.txt", "../run.json", "..", "model.keras", "", "."):
            with pytest.raises((NotFound, InvalidInput)):
                connection.get_bytes(quoted("v1", "runs", run.id, "files", name), limit_bytes=9)
        with pytest.raises(NotFound, match="no run has the id"):
            connection.get_bytes("/v1/runs/logistic/files/run.json", limit_bytes=10**6)


def test_a_file_of_a_run_is_served_with_its_digest(sides, run):
    with sides.connect() as connection:
        path = f"/v1/runs/{run.id}/files/model.skops"
        etag = f'"{run.files["model.skops"]}"'
        content = (run.path / "model.skops").read_bytes()
        assert connection.get_range(path, range(5, 50), etag=etag) == content[5:50]
        with pytest.raises(Conflict):
            connection.get_range(path, range(5, 50), etag='"another"')


def test_links_among_the_files_of_a_run_are_not_followed(sides, run, tmp_path):
    (tmp_path / "secret").write_text("mine")
    model = run.path / "model.skops"
    model.unlink()
    try:
        model.symlink_to(tmp_path / "secret")
    except OSError:
        pytest.skip("no links here")
    with sides.connect() as connection, pytest.raises(NotFound, match="is gone"):
        connection.get_bytes(f"/v1/runs/{run.id}/files/model.skops", limit_bytes=1000)


def test_a_run_removed_midway_leaves_nothing_half(sides, run):
    def spoil(asked, answer):
        if asked.path.endswith("/run.json"):
            shutil.rmtree(run.path)
        return answer

    with pytest.raises(NotFound):
        pull_through(sides, spoil, run.id)
    assert read_runs(sides.laptop) == ([], [])
    assert Catalogue(sides.laptop).records() == []
