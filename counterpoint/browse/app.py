"""The local page of `counterpoint browse` and its server. All endpoints only read; no other files are served."""

import contextlib
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, Response, StreamingResponse

from counterpoint import __version__
from counterpoint.browse.clips import Clips, Filter
from counterpoint.browse.export import Format, export
from counterpoint.explanation import explain
from counterpoint.serve.gate import PAGE as SHARED
from counterpoint.serve.gate import Guard, TimelyProtocol, bind, handle_errors, host_names, is_local, url_of
from counterpoint.serve.serializers import timeline_answer

PAGE = Path(__file__).with_name("page")
FILES = {
    "": PAGE / "index.html",
    "browse.css": PAGE / "browse.css",
    "browse.js": PAGE / "browse.js",
    "clip.js": PAGE / "clip.js",
    "page.css": SHARED / "page.css",
    "dom.js": SHARED / "dom.js",
    "timeline.js": SHARED / "timeline.js",
}
MAX_LIMIT = 200  # clips of one page
TOP = 8  # categories of an explanation

Query = Annotated[Filter, Depends(Filter)]


def build(clips: Clips, hosts: Collection[str] = ()) -> FastAPI:
    """The application for a data set's clips.

    Args:
        hosts: names that the server answers to (see `counterpoint.serve.gate.host_names`); empty: any.
    """
    app = FastAPI(
        title="Counterpoint: browse", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    explain_lock = threading.Lock()  # explanations take memory

    def checked(number: int) -> int:
        if not 0 <= number < len(clips):
            raise HTTPException(404, f"no clip {number}: there are {len(clips)}")
        return number

    @app.get("/v1/about")
    def about() -> dict[str, Any]:
        """The run, the data set, and the categories with the number of clips that have each label."""
        taxonomy = clips.taxonomy
        return {
            "run": clips.run.folder.resolve().name,
            "recipe": clips.run.recipe.name,
            "clips": len(clips),
            "shards": len(clips.dataset.paths),
            "levels": int(taxonomy.levels.max()) + 1,
            "pairs": clips.pairs,
            "named": {"paths": taxonomy.paths, "parents": taxonomy.parents.tolist(), "counts": clips.counts.tolist()},
        }

    @app.get("/v1/clips")
    def list_clips(query: Query, offset: int = 0, limit: int = 25) -> dict[str, Any]:
        """A page of the clips that match a filter."""
        numbers = clips.choose(query)
        page = numbers[max(offset, 0) :][: min(max(limit, 0), MAX_LIMIT)]
        return {"total": len(numbers), "clips": clips.to_dicts(page, query.level)}

    @app.get("/v1/clips/{number}")
    def clip(number: int, level: int | None = None) -> dict[str, Any]:
        """One clip."""
        return clips.to_dicts([checked(number)], level)[0]

    @app.get("/v1/clips/{number}/explanation")
    def explanation(number: int) -> dict[str, Any]:
        """Explain the model's answer for a clip."""
        with explain_lock:
            explained = explain(clips.predictor, clips.dataset.clip(checked(number)), top=TOP)
        timelines = {name: timeline_answer(one).model_dump() for name, one in explained.timelines.items()}
        return explained.to_dict() | {"timelines": timelines}

    @app.get("/v1/export.{kind}")
    def download(kind: Format, query: Query) -> Response:
        """The whole list as a file."""
        types = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
        headers = {"content-disposition": f'attachment; filename="clips.{kind}"'}
        return StreamingResponse(export(clips, query, kind), headers=headers, media_type=types[kind])

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    def file(name: str = "") -> FileResponse:
        if name not in FILES:
            raise HTTPException(404, "no such page")
        return FileResponse(FILES[name], headers={"cache-control": "no-cache"})

    handle_errors(app)
    app.add_middleware(Guard, hosts=hosts)
    return app


def serve(
    clips: Clips,
    host: str = "127.0.0.1",
    port: int = 8001,
    query: str = "",
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve the page until interrupted.

    Args:
        clips: the clips that the page lists.
        host: the address to bind.
        port: 0 is any free port.
        query: the filter that the reported address begins with, see `Filter.query`.
        report: is called with each line for the terminal, such as the page's address.

    Raises:
        Error: the address cannot be used.
    """
    if not is_local(host):
        report(f"open to everybody who can reach {host}")
    with bind(host, port) as bound:
        config = uvicorn.Config(
            build(clips, host_names(host)),
            http=TimelyProtocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        report(f"{len(clips):,} clips at {url_of(bound)}{query} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])
