"""Sends mutated images to a service, and keeps what it answered."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import http.client
import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

from featurestore.testing.images import encode, photograph
from featurestore.testing.mutated_images import mutated_image

JSON, NPY = "application/json", "application/x-npy"
_TIMEOUT_S = 120.0
_BOUNDARY = "a-boundary-that-no-image-has"


@dataclasses.dataclass
class FuzzReport:
    """What became of the files that were sent.

    Attributes
    ----------
    statuses
        Answers by path and status.
    outcomes
        Files by what was said of them: features, or the first words of the reason.
    failures
        Answers that should not be: the file's number, how it was made, and what came.
    """

    statuses: collections.Counter[tuple[str, int]] = dataclasses.field(
        default_factory=collections.Counter
    )
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)


class Fuzzer:
    """Clients of one service, each with one file at a time.

    Parameters
    ----------
    feature_set
        Whose recipe is asked for.
    run
        For predictions; None asks for none.
    """

    def __init__(self, url: str, *, feature_set: str, run: str | None, seed: int = 0) -> None:
        self._host = urlsplit(url).netloc
        self._seed = seed
        embed = f"/v1/embed?recipe={quote(feature_set, safe='')}"
        self._paths = [embed, embed, embed, f"/v1/feature-sets/{quote(feature_set)}/neighbours"]
        if run is not None:
            self._paths[2] = f"/v1/predict?run={quote(run)}"
        self.report = FuzzReport()
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Send a good image to each path, so that what is loaded at first use is there."""
        for path in self._paths:
            self.post(good_image(0), path=path)

    def send(self, numbers: Iterable[int], *, clients: int = 2) -> FuzzReport:
        """Send each of the files in one way or another; return what all calls found."""
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self._send, numbers))
        return self.report

    def post(
        self, content: bytes, *, path: str | None = None, accept: str = JSON, form: bool = False
    ) -> tuple[int, bytes]:
        """Send one body; a form has the content as one of two images."""
        headers = {"Accept": accept, "Content-Type": "application/octet-stream"}
        if form:
            headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
            content = _form(content, good_image(0))
        connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", path or self._paths[0], body=content, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _send(self, number: int) -> None:
        image = mutated_image(number, seed=self._seed)
        path = self._paths[number % 4]
        accept = NPY if number % 4 == 1 else JSON
        form = number % 8 in (0, 1)
        try:
            status, body = self.post(image.content, path=path, accept=accept, form=form)
            said = _read(status, body, accept, hashlib.sha256(image.content).hexdigest())
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            status, said = 0, f"{type(error).__name__}: {error}"
        with self._lock:
            self.report.statuses[path.partition("?")[0].rpartition("/")[2], status] += 1
            self.report.outcomes[said.partition(":")[0]] += 1
            if status not in (200, 413, 422):
                self.report.failures.append(
                    f"{number} (seed {self._seed}; {image.made}): {path}: {status} {said}"
                )


def good_image(number: int) -> bytes:
    """Return a good image; another number is another file of the same picture."""
    return encode(photograph(0, index=30_000)) + number.to_bytes(4, "big")


def _read(status: int, body: bytes, accept: str, sha256: str) -> str:
    """Return what an answer says of the file with this digest; raises for one that says nothing."""
    if status != 200:
        fields = json.loads(body)
        return f"{status}: {fields['detail']}"
    if accept == NPY:
        if not body.startswith(b"\x93NUMPY"):
            raise ValueError("the answer is no .npy file")
        return "features"
    fields = json.loads(body)
    if "neighbours" in fields:
        return "neighbours"
    (result, *_) = [each for each in fields["results"] if each["sha256"] == sha256]
    return f"200, {result['reason']}" if "reason" in result else "features"


def _form(*contents: bytes) -> bytes:
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; '
        f'filename="{index}.jpg"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for index, content in enumerate(contents)
    ]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
