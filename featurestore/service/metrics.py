"""`/metrics`: what the service counts and measures, as Prometheus reads it.

No label is ever text that a client sent: a name made up for each request would grow without end.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from featurestore.embedding.known import Origin

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_Series = tuple[Counter, Histogram, Counter]
_STATM = Path("/proc/self/statm")


class Metrics:
    """What one service counts; any thread may tell it. Implements `Counts`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        # Looking up labels takes longer than counting.
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._requests = Counter(
            "featurestore_requests",
            "Requests answered, by the template of their route.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "featurestore_request_seconds",
            "From the head of a request to the last byte given to the connection.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._received = Counter(
            "featurestore_received_bytes", "Of requests' bodies.", registry=registry
        )
        self._sent = Counter(
            "featurestore_sent_bytes", "Of answers' bodies.", ("route",), registry=registry
        )
        self._in_flight = Gauge(
            "featurestore_requests_in_flight", "Requests at work now.", registry=registry
        )
        self._refused = Counter(
            "featurestore_sign_in_failures",
            "Requests and sign-ins with a wrong token.",
            registry=registry,
        )
        self._images = Counter(
            "featurestore_images",
            "Images answered, by where their features came from; computed is a miss.",
            ("origin",),
            registry=registry,
        )
        for origin in get_args(Origin):  # so that a rate over them is there from the start
            self._images.labels(origin)
        self._batch = Histogram(
            "featurestore_batch_images",
            "Images that went through the network together.",
            buckets=_IMAGES,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "featurestore_batch_seconds",
            "Of one batch in the network.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "featurestore_queued_images", "Images that wait for the network.", registry=registry
        )
        self._heads = Gauge("featurestore_heads_loaded", "Heads in memory.", registry=registry)
        self._heads_bytes = Gauge(
            "featurestore_heads_loaded_bytes", "Of their model files.", registry=registry
        )
        if _STATM.exists():
            Gauge(
                "process_resident_memory_bytes", "Resident memory.", registry=registry
            ).set_function(_resident_bytes)

    def answered(self, origin: Origin, images: int) -> None:
        """See `Counts`."""
        self._images.labels(origin).inc(images)

    def batch(self, images: int, seconds: float) -> None:
        """See `Counts`."""
        self._batch.observe(images)
        self._batch_seconds.observe(seconds)

    def queued(self, images: int) -> None:
        """See `Counts`."""
        self._queue.set(images)

    def heads_loaded(self, heads: int, model_bytes: int) -> None:
        """See `Counts`."""
        self._heads.set(heads)
        self._heads_bytes.set(model_bytes)

    def refused(self) -> None:
        """Count one wrong token."""
        self._refused.inc()

    def begun(self) -> None:
        """Count one request in."""
        self._in_flight.inc()

    def ended(
        self, method: str, route: str, status: int, *, seconds: float, received: int, sent: int
    ) -> None:
        """Count one request out. `route` is a template, never a path."""
        self._in_flight.dec()
        series = self._series.get((method, route, status))
        if series is None:
            series = self._series_of(method if method in _METHODS else "other", route, status)
            if method in _METHODS:  # else the client chooses how many there are
                self._series[method, route, status] = series
        requests, latency, sent_bytes = series
        requests.inc()
        latency.observe(seconds)
        if received:
            self._received.inc(received)
        sent_bytes.inc(sent)

    def _series_of(self, method: str, route: str, status: int) -> _Series:
        return (
            self._requests.labels(method, route, str(status)),
            self._seconds.labels(method, route),
            self._sent.labels(route),
        )

    def text(self) -> bytes:
        """Return everything of type `CONTENT_TYPE_LATEST`."""
        return generate_latest(self.registry)


def _resident_bytes() -> float:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
