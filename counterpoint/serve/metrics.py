"""What Prometheus reads at ``/metrics``."""

from collections.abc import Callable

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One server's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "counterpoint_requests",
            "HTTP requests",
            ["method", "endpoint", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "counterpoint_request_seconds",
            "From a request's head to the end of its answer",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.jobs = Counter("counterpoint_jobs", "Clips by how they ended", ["kind", "state"], registry=self.registry)
        self.job_seconds = Histogram(
            "counterpoint_job_seconds",
            "From taking a clip to its answer, waiting included",
            ["kind"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.failures = Counter(
            "counterpoint_decode_failures",
            "Video files that gave no clip, by the HTTP status of their answer",
            ["status"],
            registry=self.registry,
        )
        self.batches = Histogram(
            "counterpoint_batch_clips",
            "Clips that the model read at once",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A figure that is looked up when it is asked for."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def exposed(self) -> Response:
        """The answer to Prometheus."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
