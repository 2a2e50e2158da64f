"""Files of stores over HTTP: which can be had, which cannot, and what is said about each."""

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest
from committed_stores import commit_list, commit_rows, few_rows, write_record
from fastapi.testclient import TestClient

from featurestore.catalogue import checksums_path, record_path
from featurestore.embedding.commit import remove_store, store_files
from featurestore.errors import IntegrityError, NotFound
from featurestore.service.app import create_app
from featurestore.service.contract import Gone, ServiceSettings
from featurestore.service.store_files import Address, StoreFiles
from featurestore.testing.serving import serve

CHUNK = "train/features/c.0.0.0.0"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def record(cache):
    return commit_rows(cache, few_rows())


@pytest.fixture
def client(cache):
    settings = ServiceSettings(cache=cache)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def url_of(record, path="", ending=""):
    below = f"/{path}" if path else ""
    return f"/v1/feature-sets/{record.name}/store/{record.store.name}{ending}{below}"


def address_of(record, path="", ending=""):
    recipe = record.name.partition("/")[2]
    return Address(record.dataset, recipe, record.store.name + ending, path)


def test_every_file_of_a_store_is_served_with_its_digest(client, record):
    for file in store_files(record.store):
        answer = client.get(url_of(record, file.relative_to(record.store).as_posix()))
        assert answer.status_code == 200
        assert answer.content == file.read_bytes()
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert answer.headers["accept-ranges"] == "bytes"
        kind = "application/json" if file.name == "zarr.json" else "application/octet-stream"
        assert answer.headers["content-type"] == kind


def test_an_hdf5_store_is_one_file(client, cache):
    record = commit_rows(cache, few_rows(), store_format="hdf5")
    answer = client.get(url_of(record))
    assert answer.content == record.store.read_bytes()
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


def test_record_and_checksum_list_are_served_as_they_lie_on_disk(client, record):
    answer = client.get(url_of(record, ending=".json"))
    assert answer.content == record_path(record.store).read_bytes()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "private, no-cache"  # it may be written anew
    answer = client.get(url_of(record, ending=".sha256"))
    assert answer.content == checksums_path(record.store).read_bytes()
    assert answer.headers["etag"] == f'"{record.checksums_sha256}"'
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_record_that_is_written_anew_is_served_anew(client, record):
    before = client.get(url_of(record, ending=".json"))
    write_record(record, sequence=7)
    after = client.get(url_of(record, ending=".json"))
    assert json.loads(after.content)["sequence"] == 7
    assert after.headers["etag"] != before.headers["etag"]
    assert client.get(url_of(record, CHUNK)).status_code == 200


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=10-", (10, None)),
        ("bytes=-10", (-10, None)),
        ("bytes=0-99999999", (0, None)),
        ("bytes=-99999999", (0, None)),
        (" BYTES = 3 - 4 ", (3, 5)),
    ],
)
def test_a_range_is_that_part_of_the_file(client, record, asked, expected):
    whole = (record.store / CHUNK).read_bytes()
    answer = client.get(url_of(record, CHUNK), headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == whole[slice(*expected)]
    first = whole.index(answer.content)
    last = first + len(answer.content) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["etag"] == f'"{hashlib.sha256(whole).hexdigest()}"'


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=999999-9999999", "bytes=-0"])
def test_a_range_outside_the_file_says_how_long_it_is(client, record, asked):
    size = (record.store / CHUNK).stat().st_size
    answer = client.get(url_of(record, CHUNK), headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{size}"
    assert answer.json()["status"] == 416


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-6", "bytes=5-2", "bytes=", "bytes=-", "lines=1-2", "bytes=a-b", "x", "bytes=1",
     f"bytes=0-{'9' * 5000}", "bytes=0x1-2"],
)  # fmt: skip
def test_what_is_no_single_range_is_answered_whole(client, record, asked):
    answer = client.get(url_of(record, CHUNK), headers={"Range": asked})
    assert answer.status_code == 200
    assert answer.content == (record.store / CHUNK).read_bytes()


def test_a_range_of_another_version_is_answered_whole(client, record):
    etag = client.get(url_of(record, CHUNK)).headers["etag"]
    part = {"Range": "bytes=4-7"}
    for condition, status in (
        (etag, 206),
        (f"W/{etag}", 200),
        (f'"{"0" * 64}"', 200),
        ("Tue, 24 Nov 2026 17:45:54 GMT", 200),
    ):
        answer = client.get(url_of(record, CHUNK), headers=part | {"If-Range": condition})
        assert answer.status_code == status, condition


def test_a_client_that_has_the_file_is_sent_nothing(client, record):
    etag = client.get(url_of(record, CHUNK)).headers["etag"]
    for tags in (etag, f"W/{etag}", "*", f'"other", {etag}'):
        for method in ("GET", "HEAD"):
            answer = client.request(method, url_of(record, CHUNK), headers={"If-None-Match": tags})
            assert (answer.status_code, answer.content) == (304, b""), tags
            assert answer.headers["etag"] == etag
    answer = client.get(url_of(record, CHUNK), headers={"If-None-Match": '"other"'})
    assert answer.status_code == 200


def test_a_client_that_means_another_file_is_refused(client, record):
    etag = client.get(url_of(record, CHUNK)).headers["etag"]
    for tags, status in ((etag, 200), ("*", 200), (f"W/{etag}", 412), ('"other"', 412)):
        answer = client.get(url_of(record, CHUNK), headers={"If-Match": tags})
        assert answer.status_code == status, tags


def test_head_says_what_get_would_without_reading(client, record):
    for path, ending in ((CHUNK, ""), ("", ".json"), ("", ".sha256")):
        got = client.get(url_of(record, path, ending))
        headers = {"Range": "bytes=0-3"}  # means nothing for HEAD
        head = client.head(url_of(record, path, ending), headers=headers)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "etag", "content-type", "cache-control", "accept-ranges"):
            assert head.headers[name] == got.headers[name]


def test_a_store_is_only_read(client, record):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, url_of(record, CHUNK)).status_code == 405


@pytest.fixture
def secret(cache, record):
    """A file outside the cache and ones inside that belong to no store."""
    (cache.parent / "secret").write_text("secret")
    (cache / "secret").write_text("secret")
    (cache / ".online.sqlite").write_text("secret")
    (record.store.parent / "secret").write_text("secret")
    (record.store / "secret").write_text("secret")  # not in the checksum list
    return record


ODD_PATHS = [
    "secret", "../secret", "../../secret", "..%2fsecret", "%2e%2e/secret", "%2e%2e%2fsecret",
    "..%252fsecret", "%252e%252e%252fsecret", "..%5csecret", "..\\secret", "....//secret",
    "%c0%ae%c0%ae/secret", "..%c0%afsecret", "%00", "zarr.json%00", "secret%00.json",
    "train/../secret", "train/%2e%2e/secret", "%2e/zarr.json", "train//zarr.json",
    "//secret", "%2fetc/passwd", "/etc/passwd", "C:%5cWindows", "C:/Windows", "zarr.json/",
    "train%5czarr.json", "zarr.json::$DATA", "zarr.json.", "ZARR.JSON", "%ff%fe", "~",
    "a" * 5000, "/".join("a" * 2000), "train", "train/", "",
]  # fmt: skip


def test_nothing_but_listed_files_can_be_reached(client, secret):
    for path in ODD_PATHS:
        answer = client.get(f"{url_of(secret)}/{path}")
        assert answer.status_code in (404, 410), path
        assert answer.headers["content-type"] == "application/problem+json"


ODD_NAMES = [
    ("..", "{recipe}", "secret.zarr"), (".", "{recipe}", "{store}"),
    ("%2e%2e", "cache/photos/{recipe}", "{store}"), ("photos%2f..%2fphotos", "x", "{store}"),
    ("photos", "other", "{store}"), ("Photos", "{recipe}", "{store}"),
    ("runs", "{recipe}", "{store}"), (".staging", "{recipe}", "{store}"),
    ("photos", "{recipe}", ".online.sqlite"), ("photos", "{recipe}", "secret"),
    ("photos", "{recipe}", "..%2f..%2fsecret"), ("photos", "{recipe}", "{store}%00"),
    ("photos", "{recipe}", "%2e%2e"), ("photos", "{recipe}", "x%5c{store}"),
    ("photos%00", "{recipe}", "{store}"), ("photos", "{recipe}", ".json"),
    ("photos", "{recipe}", "{store}.json.sha256"), ("photos", "{recipe}", "{store}.JSON"),
    ("p" * 300, "{recipe}", "{store}"), ("photos", "{recipe}", "a" * 300 + ".zarr"),
    ("%ff", "{recipe}", "{store}"), ("photos", "{recipe}", ".incomplete-{store}"),
]  # fmt: skip


def test_no_odd_name_leads_to_a_store(client, secret):
    fields = {"recipe": secret.name.partition("/")[2], "store": secret.store.name}
    for names in ODD_NAMES:
        dataset, recipe, store = (name.format(**fields) for name in names)
        for below in ("", "/zarr.json", "/secret"):
            answer = client.get(f"/v1/feature-sets/{dataset}/{recipe}/store/{store}{below}")
            assert answer.status_code in (404, 410), names


def test_no_client_that_leaves_dots_in_its_urls_gets_out(cache, secret):
    """Most clients take them out themselves."""
    with serve(ServiceSettings(cache=cache)) as url:
        for path in (
            "../secret",
            "../../secret",
            "../../../../../secret",
            "//../secret",
            "..;/secret",
        ):
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
                asked = f"GET {url_of(secret)}/{path} HTTP/1.0\r\n\r\n"
                client.sendall(asked.encode())
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 410")), answer
            assert not answer.endswith(b"\r\n\r\nsecret")


def test_files_of_a_store_that_was_never_committed_are_not_there(client, record):
    record_path(record.store).unlink()
    for path, ending in (("zarr.json", ""), ("", ".json"), ("", ".sha256")):
        assert client.get(url_of(record, path, ending)).status_code == 404
    # To a stock reader of Zarr, a chunk that is not found is one of zeros.
    assert client.get(url_of(record, CHUNK)).status_code == 410


def test_what_is_gone_says_where_the_newest_is(client, cache, record):
    newer = commit_rows(cache, few_rows(seed=5), manifest="f", sequence=2)
    assert client.get(url_of(record, CHUNK)).status_code == 200  # until it is collected
    remove_store(record.store)
    for path, ending, status in ((CHUNK, "", 410), ("zarr.json", "", 404), ("", ".json", 404)):
        answer = client.get(url_of(record, path, ending))
        assert answer.status_code == status
        assert record.store.name in answer.json()["detail"]
        assert url_of(newer) in answer.json()["next_step"]
        assert client.get(url_of(newer)).status_code == 404  # a folder


def test_a_store_written_again_under_its_name_is_served_by_its_own_digests(cache, record):
    files = StoreFiles(cache)
    old = (record.store / CHUNK).read_bytes()
    first = files.open(address_of(record, CHUNK))
    again = commit_rows(cache, few_rows(seed=9))
    assert again.store == record.store
    second = files.open(address_of(record, CHUNK))
    assert first.read(0, 10**6) == old  # the open one goes on to its end
    assert bytes(second.read(0, 10**6)) == (again.store / CHUNK).read_bytes() != old
    assert second.sha256 == hashlib.sha256((again.store / CHUNK).read_bytes()).hexdigest()
    first.close()
    second.close()


def test_a_store_that_is_replaced_while_it_is_opened_is_looked_at_again(cache, record, monkeypatch):
    """The new store's file is opened, but the list is still the old one's."""
    import featurestore.service.store_files as module

    files = StoreFiles(cache)
    files.open(address_of(record, CHUNK)).close()
    open_beneath = module.open_beneath
    replaced = []

    def replace_then_open(root, parts):
        if not replaced and parts[-1] == "c.0.0.0.0":
            replaced.append(commit_rows(cache, few_rows(seed=9)))
        return open_beneath(root, parts)

    monkeypatch.setattr(module, "open_beneath", replace_then_open)
    assert files.open_at_once(address_of(record, CHUNK)) is None
    found = files.open(address_of(record, CHUNK))
    assert found.sha256 == hashlib.sha256(bytes(found.read(0, 10**6))).hexdigest()
    assert replaced
    found.close()


def test_a_lost_file_of_a_committed_store_is_no_chunk_of_zeros(cache, record):
    (record.store / CHUNK).unlink()
    with pytest.raises(IntegrityError, match="is lost"):
        StoreFiles(cache).open(address_of(record, CHUNK))


def test_a_damaged_checksum_list_is_not_believed(cache, record):
    path = checksums_path(record.store)
    path.write_bytes(path.read_bytes().replace(b"train", b"trait"))
    with pytest.raises(IntegrityError, match="checksum list"):
        StoreFiles(cache).open(address_of(record, CHUNK))


def test_a_list_that_names_files_elsewhere_leads_to_none(cache, record):
    """Whoever may write to the cache could otherwise read what the service may read."""
    (cache.parent / "secret").write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    name = record.store.name
    outside = ["../../secret", "../secret", "/etc/passwd", "a/../../../../secret", "..\\secret"]
    commit_list(record, "".join(f"{digest}  {name}/{path}\n" for path in outside).encode())
    for path in outside:
        with pytest.raises(NotFound):
            StoreFiles(cache).open(address_of(record, path))


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
@pytest.mark.parametrize("link", ["file", "folder", "store"])
def test_no_link_leads_out_of_a_store(cache, record, tmp_path, link):
    outside = tmp_path / "outside"
    record.store.rename(outside)
    secret = outside / CHUNK
    if link == "store":
        record.store.symlink_to(outside)
    else:
        for file in store_files(outside):
            copy = record.store / file.relative_to(outside)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        target = record.store / CHUNK
        target.unlink()
        if link == "folder":
            for file in target.parent.iterdir():
                file.unlink()
            target.parent.rmdir()
            target.parent.symlink_to(secret.parent)
        else:
            target.symlink_to(secret)
    with pytest.raises(IntegrityError, match="is lost"):
        StoreFiles(cache).open(address_of(record, CHUNK))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_in_a_store_stops_nobody(cache, record):
    target = record.store / CHUNK
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(IntegrityError, match="is lost"):
        StoreFiles(cache).open(address_of(record, CHUNK))


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
def test_a_dataset_may_lie_on_another_disk(cache, record, tmp_path):
    """A link to a dataset's folder leads to whole feature sets or to nothing."""
    elsewhere = tmp_path / "elsewhere"
    record.store.parent.rename(elsewhere)
    (cache / "photos").symlink_to(elsewhere)
    found = StoreFiles(cache).open(address_of(record, CHUNK))
    assert bytes(found.read(0, 10**6)) == (elsewhere / record.store.name / CHUNK).read_bytes()
    found.close()


def test_a_collected_store_is_gone_and_its_open_files_are_not(cache, record):
    files = StoreFiles(cache)
    whole = (record.store / CHUNK).read_bytes()
    found = files.open(address_of(record, CHUNK))
    remove_store(record.store)
    assert found.read(0, 100) + found.read(100, 10**6) == whole
    found.close()
    with pytest.raises(Gone):
        files.open(address_of(record, CHUNK))


def test_a_file_that_becomes_shorter_is_not_sent_as_a_whole_one(cache, record):
    found = StoreFiles(cache).open(address_of(record, CHUNK))
    os.truncate(record.store / CHUNK, 10)
    with pytest.raises(IntegrityError, match="shorter"):
        found.read(10, 100)
    assert found.read_at_once(10, 100) is None
    found.close()


def test_nothing_stays_open(client, cache, record):
    big = commit_rows(cache, few_rows(3000, shape=(4, 4, 16)), store_format="hdf5", sequence=2)
    assert big.store.stat().st_size > 2**19  # sent in pieces

    def ask():
        for headers in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=99999999-"},
                        {"If-None-Match": "*"}, {"If-Match": '"x"'}):  # fmt: skip
            for record_, path in ((record, CHUNK), (record, "secret"), (big, "")):
                client.get(url_of(record_, path), headers=headers)
                client.head(url_of(record_, path), headers=headers)

    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list open files")
    ask()
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        ask()
    assert len(list(descriptors.iterdir())) <= before
