"""The HTTP API with one function per endpoint, the page, and the server of both.

`counterpoint.serve.gate` decides before who may ask, how much may be sent and how many may wait.
"""

import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST

from counterpoint import __version__
from counterpoint.serve import answers
from counterpoint.serve.answers import problems
from counterpoint.serve.gate import PAGE, Gate, TimelyProtocol, bind, handle_errors, is_local, url_of
from counterpoint.serve.service import Service
from counterpoint.serve.settings import KEY, Settings

LONGEST_WAIT = 60.0  # seconds
GRACE = 5  # seconds for requests that are still open when the server's time to stop is over
FETCHING = 5.0  # seconds in which a client may still fetch an answer, when the server stops

Wait = Annotated[
    float,
    Query(ge=0, le=LONGEST_WAIT, description="seconds to wait for the answer; then 202", examples=[10]),
]
Top = Annotated[int, Query(ge=1, le=100_000, description="the number of categories", examples=[20])]
Upload = Annotated[UploadFile, File(description="a video file, or a feature record (.tfrecord) of one clip")]
Uploads = Annotated[list[UploadFile], File(description="video files and feature shards (.tfrecord)")]
FeaturesText = Annotated[
    str | None,
    Form(
        description="for feature records: the `features.json` beside them; without it, they are taken for YouTube-8M's",
        max_length=10_000,
        examples=['{"encoder": "lite-30eb25fa", "sizes": {"audio": 128, "video": 1280}}'],
    ),
]
Located: dict[int | str, dict[str, Any]] = {
    202: {
        "model": answers.Job,
        "description": "Not done yet: ask again at `Location`",
        "headers": {"Location": {"schema": {"type": "string"}}, "Retry-After": {"schema": {"type": "integer"}}},
    }
}


def build(service: Service) -> FastAPI:
    """The application of a service, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="Counterpoint",
        description="Categorizes videos from picture and sound together.",
        version=__version__,
        docs_url=None,  # its page loads scripts from other sites
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _categorizing(app)
    _reading(app)
    _monitoring(app)
    handle_errors(app)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(Gate, service=service)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
KEYED: list[Any] = [Depends(HTTPBearer(auto_error=False, description="the server's key, if it has one"))]
"""For the OpenAPI document; the gate checks the key."""


def _categorizing(app: FastAPI) -> None:
    """Endpoints that take clips."""

    @app.post(
        "/v1/categorize",
        dependencies=KEYED,
        response_model=answers.Answer,
        responses={**Located, **problems(401, 408, 413, 422, 429, 503)},
    )
    async def categorize(
        service: Serving,
        file: Upload,
        features: FeaturesText = None,
        wait: Wait = 10,
        top: Top = 20,
    ) -> Any:
        """Categorize a video file or a clip's feature record.

        The response is the answer if it is done within `wait` seconds, otherwise 202 and a job.
        """
        (job,) = await service.take([file], features, one=True)
        await service.wait([job], wait)
        if job.finished.is_set():
            return service.answer(job, top)
        status = service.status(job, top)
        return JSONResponse(status.model_dump(), 202, {"Location": f"/v1/jobs/{job.id}", "Retry-After": "1"})

    @app.post(
        "/v1/categorize/batch",
        dependencies=KEYED,
        responses={
            202: {"model": answers.Jobs, "description": "Some are not done yet: ask for each job"},
            **problems(401, 408, 413, 422, 429, 503),
        },
    )
    async def categorize_batch(
        service: Serving,
        response: Response,
        files: Uploads,
        features: FeaturesText = None,
        wait: Wait = 10,
        top: Top = 20,
    ) -> answers.Jobs:
        """Categorize several files, of which feature shards may hold many clips: a job for each clip."""
        jobs = await service.take(files, features)
        await service.wait(jobs, wait)
        response.status_code = 202 if any(job.state == "running" for job in jobs) else 200
        return answers.Jobs(jobs=[service.status(job, top) for job in jobs])


def _reading(app: FastAPI) -> None:
    """Endpoints that read jobs, explanations, categories and examples."""

    @app.get("/v1/jobs/{job}", dependencies=KEYED, responses=problems(401, 404, 422))
    async def job(service: Serving, job: str, wait: Wait = 0, top: Top = 20) -> answers.Job:
        """A job's progress and answer; with `wait`, once it is finished or so many seconds have passed."""
        found = service.jobs.find(job)
        await service.wait([found], wait)
        return service.status(found, top)

    @app.delete("/v1/jobs/{job}", status_code=204, dependencies=KEYED, responses=problems(401, 403, 404, 422))
    async def forget(service: Serving, job: str) -> None:
        """Stop a job; remove its clip and answer."""
        service.jobs.forget(service.jobs.find(job))

    @app.get("/v1/jobs/{job}/explanation", dependencies=KEYED, responses=problems(401, 404, 409, 422, 429))
    async def explanation(
        service: Serving,
        job: str,
        top: Top = 8,
        swap: Annotated[str | None, Query(description="the job of another clip, whose tracks are swapped in")] = None,
    ) -> answers.Explanation:
        """Explain an answer: weights over time, correlation by second, most attended seconds, and what changes it."""
        return await service.explain(service.jobs.find(job), service.jobs.find(swap) if swap else None, top)

    @app.get("/v1/taxonomy", dependencies=KEYED, responses=problems(401))
    async def taxonomy(service: Serving) -> answers.Tree:
        """The categories as a tree."""
        return service.tree

    @app.get("/v1/examples", dependencies=KEYED, responses=problems(401))
    async def examples(service: Serving) -> answers.Examples:
        """Clips to try. Each is a job that never expires."""
        return service.examples()

    @app.get(
        "/v1/examples/{job}/media",
        dependencies=KEYED,
        response_class=FileResponse,
        responses={
            200: {"content": {"video/*": {}}, "description": "The video file"},
            **problems(401, 404, 422),
        },
    )
    async def media(service: Serving, job: str) -> FileResponse:
        """An example's video file, whole or in ranges."""
        return FileResponse(service.media(job))


def _monitoring(app: FastAPI) -> None:
    """Endpoints about the server."""

    @app.get("/v1/about", dependencies=KEYED, responses=problems(401))
    async def about(service: Serving) -> answers.About:
        """The server's run and limits."""
        return service.about

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses={503: {"model": answers.Health}})
    async def healthz(service: Serving, response: Response) -> answers.Health:
        """Whether the server takes clips."""
        health = answers.Health(status="stopping" if service.stopping else "ok" if service.has_room() else "full")
        response.status_code = 200 if health.status == "ok" else 503
        return health

    @app.get(
        "/metrics",
        dependencies=KEYED,
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"}, **problems(401)},
    )
    async def metrics(service: Serving) -> Response:
        """Requests, latencies, the queue and failures, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class Server(uvicorn.Server):
    """A uvicorn server that finishes its jobs before it stops.

    On SIGTERM or SIGINT it refuses new clips, works on, goes on answering, and stops when all clips are done and their
    answers fetched.

    Args:
        service: the service to run.
        stop_seconds: the time that this may take; a second signal stops it at once.
        started: is called when requests are answered.
    """

    def __init__(self, service: Service, stop_seconds: float, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                build(service),
                http=TimelyProtocol,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=GRACE,
            )
        )
        self.service = service
        self.stop_seconds = stop_seconds
        self.on_started = started
        self._stop_time: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service, and report it."""
        await super().startup(sockets)
        self.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish at the first signal, end at the second."""
        if self.service.stopping:
            super().handle_exit(sig, frame)
        else:
            self.service.stopping = True
            self._stop_time = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; uvicorn asks ten times a second."""
        if self._stop_time is not None:
            jobs = self.service.jobs
            done = not jobs.held and not self.service.uploads and not jobs.unfetched(FETCHING)
            self.should_exit |= done or time.monotonic() - self._stop_time > self.stop_seconds
        return await super().on_tick(counter)


def serve(
    run: str | os.PathLike[str],
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    stop_seconds: float = 60.0,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve a run until the process is stopped.

    Args:
        run: a run folder, or the name of a shipped run.
        settings: the limits; `counterpoint.serve.gate.host_names` gives its ``hosts``.
        host: the address to bind.
        port: 0 is any free port.
        stop_seconds: the time to finish in after SIGTERM or SIGINT.
        report: is called with each line for the terminal, such as the page's address.

    Raises:
        Error: the run cannot be served, or the address cannot be used.
    """
    with bind(host, port) as bound:
        service = Service(run, settings)
        if not service.about.videos:
            report(f"feature records only, no video files: {service.no_videos}")
        if not is_local(host) and settings.key is None:
            report(f"open to everybody who can reach {host}: --key-file or ${KEY} sets a key")
        started = f"serving {os.fspath(run)} at {url_of(bound)}"
        Server(service, stop_seconds, lambda: report(started)).run(sockets=[bound])
