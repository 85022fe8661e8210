"""The local page and what it asks for. All of it only reads; files are served by their names in one list alone."""

import threading
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoint import __version__, serve
from counterpoint.browse.clips import Clips, Filter
from counterpoint.browse.export import Format, export
from counterpoint.errors import Error
from counterpoint.explain import explain
from counterpoint.serve.gate import SECURITY, asked_host
from counterpoint.serve.serializers import told_timeline

PAGE = Path(__file__).with_name("page")
SHARED = Path(serve.__file__).with_name("page")  # the style, and what draws, is that of `counterpoint serve`
FILES = {
    "": PAGE / "index.html",
    "browse.css": PAGE / "browse.css",
    "browse.js": PAGE / "browse.js",
    "clip.js": PAGE / "clip.js",
    "page.css": SHARED / "page.css",
    "dom.js": SHARED / "dom.js",
    "timeline.js": SHARED / "timeline.js",
}
MOST = 200  # clips of one page
FOLLOWED = 8  # categories of an explanation

Chosen = Annotated[Filter, Depends(Filter)]


def build(clips: Clips, hosts: tuple[str, ...] = ()) -> FastAPI:
    """The application around a data set's clips.

    Args:
        hosts: names that it answers to, against pages that rebind theirs; none: any.
    """
    app = FastAPI(
        title="Counterpoint: browse", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    explaining_one = threading.Lock()  # models take memory

    def one(number: int) -> int:
        if not 0 <= number < len(clips):
            raise HTTPException(404, f"no clip {number}: there are {len(clips)}")
        return number

    @app.get("/v1/about")
    def about() -> dict[str, Any]:
        """What is browsed, and its categories with the clips that they are true of."""
        taxonomy = clips.taxonomy
        return {
            "run": clips.run.folder.resolve().name,
            "recipe": clips.run.recipe.name,
            "clips": len(clips),
            "shards": len(clips.dataset.paths),
            "levels": int(taxonomy.levels.max()) + 1,
            "pairs": clips.survey.pairs,
            "named": {"paths": taxonomy.paths, "parents": taxonomy.parents.tolist(), "counts": clips.counts.tolist()},
        }

    @app.get("/v1/clips")
    def list_clips(chosen: Chosen, offset: int = 0, limit: int = 25) -> dict[str, Any]:
        """Some of the clips that a filter lets through."""
        numbers = clips.choose(chosen)
        some = numbers[max(offset, 0) :][: min(max(limit, 0), MOST)]
        return {"total": len(numbers), "clips": clips.told(some, chosen.level)}

    @app.get("/v1/clips/{number}")
    def clip(number: int, level: int | None = None) -> dict[str, Any]:
        """One clip."""
        return clips.told([one(number)], level)[0]

    @app.get("/v1/clips/{number}/explanation")
    def explanation(number: int) -> dict[str, Any]:
        """Why the model says what it says of a clip."""
        with explaining_one:
            told = explain(clips.predictor, clips.dataset.clip(one(number)), top=FOLLOWED)
        plain = told.to_dict()
        plain["timelines"] = {name: told_timeline(timeline).model_dump() for name, timeline in told.timelines.items()}
        return plain

    @app.get("/v1/export.{kind}")
    def download(kind: Format, chosen: Chosen) -> Response:
        """The whole list, to keep."""
        types = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
        headers = {"content-disposition": f'attachment; filename="clips.{kind}"'}
        return StreamingResponse(export(clips, chosen, kind), headers=headers, media_type=types[kind])

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    def file(name: str = "") -> FileResponse:
        if name not in FILES:
            raise HTTPException(404, "no such page")
        return FileResponse(FILES[name], headers={"cache-control": "no-cache"})

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    app.add_exception_handler(Error, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_middleware(_Guard, hosts=hosts)
    return app


class _Guard:
    """ASGI middleware: by which names the server is asked, and what browsers may do with its answers."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        headers = Headers(scope=scope)
        if self.hosts and asked_host(headers) not in self.hosts:
            await JSONResponse({"detail": "this server does not go by that name"}, 421)(scope, receive, sent)
        elif headers.get("sec-fetch-site") == "cross-site" and scope["path"].startswith("/v1/"):
            await JSONResponse({"detail": "asked for by another site's page"}, 403)(scope, receive, sent)
        else:
            await self.app(scope, receive, sent)
