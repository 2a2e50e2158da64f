"""The load generator, what the benchmark of the service makes of a trace, and a trial of it all."""

import asyncio
import json
import pathlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from featurestore.testing.images import write_image_folder

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Echo(BaseHTTPRequestHandler):
    """Answers how many bytes came, as so many bytes; remembers what came."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"x" * int(self.path[1:]))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append((self.headers["Content-Type"], body))
        self.answer(body)

    def answer(self, body):
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Featurestore-Cache", "hit")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        server.bodies, server.status = [], 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_each_request_is_sent_once_and_every_byte_counted(server):
    from load import Plan, run_plan

    sizes = [0, 1, 70_000, 900_000, 5]
    port = server.server_address[1]
    load = run_plan(Plan(port=port, targets=[f"/{size}" for size in sizes], clients=2))
    assert (load.requests, load.body_bytes) == (5, sum(sizes))
    assert load.caches == {"hit": 5}
    assert 0 < load.p50_ms <= load.p99_ms <= 1000 * load.seconds


def test_a_load_of_some_seconds_goes_round_and_says_where_it_stopped(server):
    from load import Plan, load

    port = server.server_address[1]
    plan = Plan(port=port, targets=["/1", "/10", "/100"], start=2, seconds=0.2)
    found = asyncio.run(load(plan))
    assert 0.2 <= found.seconds < 5
    assert found.requests >= 1  # a busy machine may manage few
    assert found.next == (2 + found.requests) % 3
    rounds, rest = divmod(found.requests, 3)
    assert found.body_bytes == rounds * 111 + (0, 100, 101)[rest]


def test_images_are_sent_as_bodies_or_in_forms(server, tmp_path):
    from load import Plan, load

    contents = [b"first\r\n--", b"second", b"third"]
    for index, content in enumerate(contents):
        (tmp_path / str(index)).write_bytes(content)
    images = [str(tmp_path / str(index)) for index in range(3)]
    port = server.server_address[1]
    asyncio.run(load(Plan(port=port, targets=["/"], images=images)))
    assert server.bodies == [("image/jpeg", content) for content in contents]
    server.bodies.clear()
    asyncio.run(load(Plan(port=port, targets=["/"], images=images, images_a_request=2)))
    (kind, both), (_, alone) = server.bodies
    boundary = kind.partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in both.split(b"--" + boundary)[1:-1]]
    assert parts == contents[:2]
    assert alone.count(b"filename=") == 1


def test_an_answer_that_is_no_success_ends_the_measurement(server):
    from load import Plan, run_plan

    server.status = 429
    with pytest.raises(RuntimeError, match="429"):
        run_plan(Plan(port=server.server_address[1], targets=["/1"]))


def test_percentiles_are_values_that_were_found():
    from load import percentile

    assert percentile([4, 1, 3, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    assert percentile([7], 99) == 7


def test_a_batch_waits_for_company_only_while_the_network_is_idle():
    from service_traced import waits_ms

    batches = [
        {"left": 1.008, "idle_since": 0.0, "ready": [1.0, 1.005], "accepted": [0.99, 0.998]},
        {"left": 2.001, "idle_since": 2.0, "ready": [1.5], "accepted": [1.401]},
    ]
    found = waits_ms(map(json.dumps, batches))
    assert found["images"] == [2, 1]
    assert found["company_ms"] == pytest.approx([8, 1])
    assert found["queued_ms"] == pytest.approx([18, 10, 600])


def test_each_round_begins_elsewhere_and_ratios_are_of_one_round():
    from service_rounds import in_turns, ratio

    asked = []

    def measure(cell):
        asked.append(cell)
        return {"per_s": cell * len(asked)}

    found = in_turns({"one": 1, "two": 2}, 2, measure)
    assert asked == [1, 2, 2, 1]
    assert found == {"one": {"per_s": [1, 4]}, "two": {"per_s": [4, 6]}}
    assert ratio(found["one"], found["two"], "per_s") == (0.5, 0.25, 4 / 6)


@pytest.mark.parametrize(
    ("rate", "trial", "outcome"),
    [(1000, False, "met"), (999, False, "MISS"), (999, True, "not judged in a trial")],
)
def test_hits_are_judged_by_their_best_number_of_clients(rate, trial, outcome):
    import service

    hits = {
        f"{source} {answer} {clients}": {"per_s": [rate if clients == 8 else 10]}
        for source in service.SOURCES
        for answer in service.FORMATS
        for clients in service.CLIENTS
    }
    lines = service.verdicts({"hits": hits}, trial=trial)
    assert len(lines) == 6
    assert all(line.endswith(f": {outcome}") for line in lines)


@pytest.mark.slow
@pytest.mark.rare
def test_a_trial_measures_every_part(tmp_path):
    write_image_folder(tmp_path / "photographs", splits={"train": 20}, size=(150, 200))
    weights = tmp_path / "random.weights.h5"
    made = (
        "import sys; from keras.applications import VGG16; "
        "VGG16(weights=None, include_top=False).save_weights(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", made, weights], check=True, timeout=120)
    script = [sys.executable, BENCHMARKS / "service.py", tmp_path / "photographs", weights]
    numbers = tmp_path / "numbers.json"
    done = subprocess.run(
        [*script, "--trial", "--json", numbers], check=True, timeout=300, stdout=subprocess.PIPE
    )
    assert set(json.loads(numbers.read_text())) == {"hits", "misses", "downloads"}
    assert b"not judged in a trial" in done.stdout and b"MISS" not in done.stdout
