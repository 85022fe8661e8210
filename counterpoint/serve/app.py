"""The HTTP API: one function per endpoint, and the page.

Who may ask, how much may be sent and how many may wait is decided before (`counterpoint.serve.gate`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from counterpoint import __version__
from counterpoint.errors import Error
from counterpoint.serve import answers
from counterpoint.serve.answers import problems
from counterpoint.serve.gate import PAGE, Gate, problem
from counterpoint.serve.service import Service
from counterpoint.serve.settings import RefusedError

LONGEST_WAIT = 60.0  # seconds

Wait = Annotated[
    float, Query(ge=0, le=LONGEST_WAIT, description="seconds to wait for the answer before 202 is given", examples=[10])
]
Top = Annotated[int, Query(ge=1, le=100_000, description="categories to name", examples=[20])]
Upload = Annotated[UploadFile, File(description="a video file, or a feature record (.tfrecord) of one clip")]
Uploads = Annotated[list[UploadFile], File(description="video files and feature shards (.tfrecord)")]
FeaturesText = Annotated[
    str | None,
    Form(
        description="for feature records: the `features.json` beside them; without, they are taken for YouTube-8M's",
        max_length=10_000,
        examples=['{"encoder": "lite-30eb25fa", "sizes": {"audio": 128, "video": 1280}}'],
    ),
]
Located: dict[int | str, dict[str, Any]] = {
    202: {
        "model": answers.Job,
        "description": "Not done yet: ask at `Location` again",
        "headers": {"Location": {"schema": {"type": "string"}}, "Retry-After": {"schema": {"type": "integer"}}},
    }
}


def build(service: Service) -> FastAPI:
    """The application around one service, which it starts and stops."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="Counterpoint",
        description="Categorizes videos from picture and sound together.",
        version=__version__,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=living,
    )
    app.state.service = service
    _answers(app)
    _errors(app)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(Gate, service=service)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
KEYED: list[Any] = [Depends(HTTPBearer(auto_error=False, description="the server's key, if it has one"))]
"""For the OpenAPI document: the gate has looked already."""


def _answers(app: FastAPI) -> None:
    keyed = problems(401)

    @app.post(
        "/v1/categorize",
        dependencies=KEYED,
        response_model=answers.Answer,
        responses={**Located, **keyed, **problems(408, 413, 422, 429, 503)},
    )
    async def categorize(
        service: Serving,
        file: Upload,
        features: FeaturesText = None,
        wait: Wait = 10,
        top: Top = 20,
    ) -> Any:
        """Categorize a video file or a clip's feature record.

        The answer comes at once if it is there within `wait` seconds; otherwise 202 and a job to ask for.
        """
        (job,) = await service.take([file], features, one=True)
        await service.wait([job], wait)
        if job.over.is_set():
            return service.answer(job, top)
        told = service.told(job, top)
        return JSONResponse(told.model_dump(), 202, {"Location": f"/v1/jobs/{job.id}", "Retry-After": "1"})

    @app.post(
        "/v1/categorize/batch",
        dependencies=KEYED,
        responses={
            202: {"model": answers.Jobs, "description": "Some are not done yet: ask for each job"},
            **keyed,
            **problems(408, 413, 422, 429, 503),
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
        return answers.Jobs(jobs=[service.told(job, top) for job in jobs])

    @app.get("/v1/jobs/{job}", dependencies=KEYED, responses={**keyed, **problems(404, 422)})
    async def job(service: Serving, job: str, wait: Wait = 0, top: Top = 20) -> answers.Job:
        """How far a job is, and its answer; with `wait`, not before it is finished or so many seconds have passed."""
        found = service.jobs.find(job)
        await service.wait([found], wait)
        return service.told(found, top)

    @app.delete("/v1/jobs/{job}", status_code=204, dependencies=KEYED, responses={**keyed, **problems(403, 404, 422)})
    async def forget(service: Serving, job: str) -> None:
        """Stop a job and forget all that is known of its clip."""
        service.jobs.forget(service.jobs.find(job))

    @app.get("/v1/jobs/{job}/explanation", dependencies=KEYED, responses={**keyed, **problems(404, 409, 422, 429)})
    async def explanation(
        service: Serving,
        job: str,
        top: Top = 8,
        swap: Annotated[str | None, Query(description="another clip's job, to take its sound and picture from")] = None,
    ) -> answers.Explanation:
        """Why: weights over time, correlation by second, the most attended seconds, and what changes the answer."""
        return await service.explain(service.jobs.find(job), service.jobs.find(swap) if swap else None, top)

    @app.get("/v1/taxonomy", dependencies=KEYED, responses=keyed)
    async def taxonomy(service: Serving) -> answers.Tree:
        """The categories as a tree."""
        return service.tree

    @app.get("/v1/examples", dependencies=KEYED, responses=keyed)
    async def examples(service: Serving) -> answers.Examples:
        """Clips to try. Each is a job that never expires, so it can be asked for, explained and swapped with."""
        return service.examples()

    @app.get(
        "/v1/examples/{job}/media",
        dependencies=KEYED,
        response_class=FileResponse,
        responses={200: {"content": {"video/*": {}}, "description": "The video file"}, **keyed, **problems(404, 422)},
    )
    async def media(service: Serving, job: str) -> FileResponse:
        """An example's video file, whole or in ranges."""
        return FileResponse(service.media(job))

    @app.get("/v1/about", dependencies=KEYED, responses=keyed)
    async def about(service: Serving) -> answers.About:
        """What this server is, and what it takes."""
        return service.about

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses={503: {"model": answers.Health}})
    async def healthz(service: Serving, response: Response) -> answers.Health:
        """Whether the server takes work."""
        response.status_code = 503 if service.stopping else 200
        return answers.Health(status="stopping" if service.stopping else "ok")

    @app.get(
        "/metrics",
        dependencies=KEYED,
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"}, **keyed},
    )
    async def metrics(service: Serving) -> Response:
        """Requests, latencies, the queue and failures, for Prometheus."""
        return service.metrics.exposed()


def _errors(app: FastAPI) -> None:
    """Whatever is refused, one line says why."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RefusedError)
        return problem(error.status, error.detail, error.headers)

    async def unreadable(request: Request, error: Exception) -> JSONResponse:
        return problem(422, str(error))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(Error, unreadable)
    app.add_exception_handler(RequestValidationError, invalid)
