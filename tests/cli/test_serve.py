"""`fs serve` as a process: what it asks for, what it prints, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import featurestore as fs
from featurestore.images import MAX_PIXELS
from featurestore.service.contract import Limits
from featurestore.service.decode_apart import memory_for
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore_cli.main import run

TOKEN = "a-token-of-thirty-two-characters"
START_S = 60.0
posix = pytest.mark.skipif(os.name != "posix", reason="signals and modes of POSIX")
FS = "from featurestore_cli.main import main; main()"
# A network that takes its time, which `fs serve` has no option for.
SLOW = """
    from pathlib import Path
    import sys
    from featurestore.service.contract import ServiceSettings
    from featurestore.service.run_server import Address, run_server
    from featurestore.testing.backbones import TinyNetwork

    def network(recipe):
        return TinyNetwork(dtype=recipe.dtype, pause_s=float(sys.argv[2]))

    settings = ServiceSettings(cache=Path(sys.argv[1]), network=network)
    say = lambda url: print("serving", url, file=sys.stderr, flush=True)
    run_server(settings, Address(port=0), ready=say)
"""


class Server:
    """A process that serves, and the lines it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += iter(self.process.stderr.readline, "")

    @property
    def url(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in list(self.lines):
                if found := re.search(r"http://[^\s\"();]+", line):
                    return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no URL in {self.lines}, ended with {self.process.poll()}")

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def ended(self, within_s: float = 30.0) -> int:
        code = self.process.wait(within_s)
        self._reader.join(5)
        return code


@contextmanager
def serving(*arguments: str, code: str = FS, **environment: str):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    server = Server(process)
    try:
        yield server
    finally:
        process.kill()
        server.ended()


def write_token(folder: Path, text: str = TOKEN, mode: int = 0o600) -> str:
    path = folder / "token"
    path.write_text(text + "\n")
    path.chmod(mode)
    return str(path)


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_it_serves_on_a_free_port_of_this_machine_and_ends_well(tmp_path, name):
    with serving("serve", "--cache", str(tmp_path), "--port", "0") as server:
        assert urlsplit(server.url).hostname == "127.0.0.1"
        assert urlsplit(server.url).port
        assert server.get("/healthz") == (200, b"alive\n")
        assert server.get("/v1/runs", Host="evil.example")[0] == 421
        place = urlsplit(server.url).hostname, urlsplit(server.url).port
        server.process.send_signal(getattr(signal, name))
        assert server.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
    assert all(json.loads(line) for line in server.lines)  # off a terminal, each line is JSON


@posix
def test_a_token_is_asked_for_and_never_shown(tmp_path):
    arguments = ("serve", "--cache", str(tmp_path), "--port", "0", "--log-format", "text")
    with serving(*arguments, FS_TOKEN=TOKEN) as server:
        assert server.get("/v1/runs")[0] == 401
        assert server.get("/v1/runs", Authorization=f"Bearer {TOKEN}")[0] == 200
        # By a token it is safe under any name, such as that of a server in front.
        named = {"Authorization": f"Bearer {TOKEN}", "Host": "features.example"}
        assert server.get("/v1/runs", **named)[0] == 200
        server.process.terminate()
        assert server.ended() == 0
    assert "/login" in server.lines[0]
    assert TOKEN not in "".join(server.lines)
    command = subprocess.run(["ps", "-o", "args"], capture_output=True, text=True, check=False)
    assert TOKEN not in command.stdout


@posix
def test_nothing_heavy_is_loaded_before_it_is_needed(tmp_path):
    code = """
        import sys, threading
        from featurestore_cli.main import main
        from featurestore.service import run_server
        ready = run_server._Server.startup
        async def startup(self, sockets=None):
            await ready(self, sockets)
            heavy = [name for name in ("tensorflow", "keras", "matplotlib") if name in sys.modules]
            print("loaded", heavy, file=sys.stderr, flush=True)
        run_server._Server.startup = startup
        main()
    """
    with serving("serve", "--cache", str(tmp_path), "--port", "0", code=code) as server:
        assert server.get("/healthz")[0] == 200
        server.process.terminate()
        assert server.ended() == 0
    assert "loaded []\n" in server.lines


def test_one_image_takes_a_decoder_no_2_gib_by_default():
    pixels = Limits().pixels
    assert pixels == 50_000_000 < MAX_PIXELS
    assert memory_for(pixels) < 2 * 2**30


def test_a_cache_that_does_not_exist_is_refused(tmp_path, capsys):
    assert run(["serve", "--cache", str(tmp_path / "typo"), "--port", "0"]) == 4
    said = capsys.readouterr().err
    assert "typo" in said and "fs embed" in said
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    "option",
    ["--latency=nan", "--latency=inf", "--max-body=0", "--max-pixels=178956971"],
)
def test_a_limit_that_is_none_is_refused(tmp_path, capsys, option):
    assert run(["serve", "--cache", str(tmp_path), "--port", "0", option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_another_address_needs_a_token(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FS_TOKEN", raising=False)
    assert run(["serve", "--cache", str(tmp_path), "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "FS_TOKEN" in said and "secrets.token_urlsafe" in said


@posix
def test_on_another_address_the_token_does(tmp_path):
    arguments = ("--cache", str(tmp_path), "--host", "0.0.0.0", "--port", "0")
    with serving("serve", *arguments, "--token-file", write_token(tmp_path)) as server:
        port = urlsplit(server.url).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/v1/runs", headers={"Authorization": f"Bearer {TOKEN}"})
        assert connection.getresponse().status == 200


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_token_file_that_others_may_use_is_refused(tmp_path, capsys, mode):
    file = write_token(tmp_path, mode=mode)
    assert run(["serve", "--cache", str(tmp_path), "--token-file", file]) == 3
    said = capsys.readouterr().err
    assert "chmod 600" in said and TOKEN not in said


@pytest.mark.parametrize("text", ["", "short", "two words of enough length", "ü" * 20])
def test_a_weak_token_is_refused(tmp_path, capsys, text):
    file = write_token(tmp_path, text=text)
    assert run(["serve", "--cache", str(tmp_path), "--port", "0", "--token-file", file]) == 3
    assert text == "" or text not in capsys.readouterr().err


def test_a_missing_token_file_is_named(tmp_path, capsys):
    missing = str(tmp_path / "none")
    assert run(["serve", "--cache", str(tmp_path), "--token-file", missing]) == 3
    assert missing in capsys.readouterr().err


def test_a_taken_port_is_named(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--cache", str(tmp_path), "--port", port]) == 6
    said = capsys.readouterr().err
    assert f"port {port}" in said and "--port" in said


def test_an_address_of_another_machine_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FS_TOKEN", TOKEN)
    assert run(["serve", "--cache", str(tmp_path), "--host", "192.0.2.1", "--port", "0"]) == 3
    assert "192.0.2.1" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(tmp_path):
    # In a process apart: modules that are imported again are not those that other tests hold.
    hidden = "".join(
        f"sys.modules[{name!r}] = None\n" for name in ("fastapi", "uvicorn", "prometheus_client")
    )
    program = (
        f"import sys\n{hidden}from featurestore_cli.main import main\n"
        f"main(['serve', '--cache', {str(tmp_path)!r}])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 7, found.stderr
    assert "pip install 'featurestore[service]'" in found.stderr


@pytest.fixture
def embedded(tmp_path):
    """A cache with one feature set; returns the path and the set's name."""
    write_image_folder(tmp_path / "photos")
    cache = tmp_path / "cache"
    result = fs.embed(tmp_path / "photos", fs.EmbedSettings(), cache=cache, choose=TinyChoice)
    return cache, result.feature_set


class Embedding(threading.Thread):
    """A request for the features of a new image, on its way."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._path = f"/v1/embed?recipe={name}"
        self.status: int | None = None
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._connection.request("POST", self._path, body=encode(photograph(0, index=999)))
            answer = self._connection.getresponse()
            answer.read()
            self.status = answer.status
        except Exception as error:
            self.failure = error


def wait_for_work(server: Server) -> None:
    """Return once a request is with the network."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        _, text = server.get("/metrics")
        if b"featurestore_requests_in_flight 2.0" in text:
            time.sleep(0.5)
            return
        time.sleep(0.05)
    raise AssertionError("the request did not arrive")


@posix
def test_it_answers_what_it_accepted_and_accepts_no_more(embedded):
    cache, name = embedded
    with serving(str(cache), "3", code=SLOW) as server:
        idle = socket.create_connection(("127.0.0.1", urlsplit(server.url).port))
        request = Embedding(server.url, name)
        wait_for_work(server)
        server.process.terminate()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                server.get("/healthz")
            except OSError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("it still accepts connections")
        assert request.is_alive()  # refused while the other is still at work
        request.join(30)
        assert (request.failure, request.status) == (None, 200)
        assert server.ended() == 0
        idle.close()


@posix
def test_a_second_signal_ends_it_at_once(embedded):
    cache, name = embedded
    with serving(str(cache), "60", code=SLOW) as server:
        request = Embedding(server.url, name)
        wait_for_work(server)
        server.process.terminate()
        time.sleep(0.5)
        assert server.process.poll() is None
        server.process.terminate()
        assert server.ended(within_s=5) == -signal.SIGTERM
        request.join(10)
        assert request.failure is not None


@posix
def test_ctrl_c_reaches_the_whole_group_and_the_answer_still_comes(embedded):
    cache, name = embedded
    code = "import os; os.setsid()\n" + textwrap.dedent(SLOW)
    with serving(str(cache), "2", code=code) as server:
        request = Embedding(server.url, name)
        wait_for_work(server)
        os.killpg(server.process.pid, signal.SIGINT)
        request.join(30)
        assert (request.failure, request.status) == (None, 200)
        assert server.ended() == 0
