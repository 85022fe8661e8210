"""A server's answers in Python.

client = Client("http://127.0.0.1:8000")
answer = client.categorize("holiday.mp4")
print(answer.categories[0].path, answer.categories[0].probability)
print(client.explain(answer.job).attended)
"""

import contextlib
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from counterpoint.errors import Error
from counterpoint.serve.answers import About, Answer, Explanation, Job, Jobs, Tree

FEATURES_FILE = "features.json"
LATER = 1.0  # seconds to wait where a server that is full does not say how long
WAIT = 30.0  # seconds that one request waits for an answer

Answered = TypeVar("Answered", bound=BaseModel)


class ServerError(Error):
    """What the server refused, in its words; ``status`` is the HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class Client:
    """A server of `counterpoint serve`; may be used as a context.

    Args:
        url: where it is.
        key: its key, if it wants one.
        patience: seconds to wait for an answer, or for a place in the queue.

    Every method raises ServerError for what the server refuses, and Error where it cannot be reached, a
    file cannot be read, or patience is at its end.
    """

    def __init__(self, url: str, key: str | None = None, patience: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(WAIT + 30, connect=10))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @cached_property
    def about(self) -> About:
        """What the server is, and what it takes."""
        return self._get("/v1/about", About)

    def taxonomy(self) -> Tree:
        """The categories as a tree."""
        return self._get("/v1/taxonomy", Tree)

    def categorize(self, path: str | Path, top: int = 20) -> Answer:
        """What a video file is, or the clip in a feature record; waits until the server knows.

        A record goes with the `features.json` beside it.
        """
        sent = self._send("/v1/categorize", "file", [Path(path)], top)
        if sent.status_code == 200:
            return self._read(Answer, sent)
        job = self._finished(self._read(Job, sent), top)
        if job.answer is None:
            raise ServerError(job.status or 500, job.detail or "")
        return job.answer

    def categorize_all(self, paths: Sequence[str | Path], top: int = 20) -> list[Job]:
        """The same for several files in one request, of which shards may hold many clips: a finished job for each clip.

        What could not be read has failed, and says why.
        """
        sent = self._send("/v1/categorize/batch", "files", [Path(path) for path in paths], top)
        return [self._finished(job, top) for job in self._read(Jobs, sent).jobs]

    def explain(self, job: str, swap: str | None = None, top: int = 8) -> Explanation:
        """Why an answer's clip was categorized as it was; ``swap`` is another answer's job to take tracks from."""
        options = {"top": top} | ({"swap": swap} if swap else {})
        return self._get(f"/v1/jobs/{job}/explanation", Explanation, **options)

    def forget(self, job: str) -> None:
        """Stop a job, or remove what the server knows of an answer's clip."""
        self._ask("DELETE", f"/v1/jobs/{job}")

    # --- asking -------------------------------------------------------------------------------------------------------

    def _send(self, where: str, field: str, paths: list[Path], top: int) -> httpx.Response:
        size = sum(_size(path) for path in paths)
        if size > self.about.max_bytes:
            which = paths[0] if len(paths) == 1 else f"{len(paths)} files"
            raise ServerError(413, f"{which}: {size:,} bytes; the server takes {self.about.max_bytes:,} at most")
        beside = {path.with_name(FEATURES_FILE) for path in paths if path.suffix == ".tfrecord"}
        texts = {path.read_text(encoding="utf-8", errors="replace") for path in beside if path.exists()}
        if len(texts) > 1:
            raise Error("shards of several kinds of features; send one kind at a time")
        data = {"features": texts.pop()} if texts else {}
        ends = time.monotonic() + self.patience
        while True:
            try:
                with contextlib.ExitStack() as stack:
                    files = [(field, (path.name, stack.enter_context(path.open("rb")))) for path in paths]
                    return self._ask("POST", where, params={"wait": WAIT, "top": top}, files=files, data=data)
            except _LaterError as later:
                if time.monotonic() + later.seconds > ends:
                    raise
                time.sleep(later.seconds)

    def _finished(self, job: Job, top: int) -> Job:
        ends = time.monotonic() + self.patience
        while job.state == "running":
            if time.monotonic() > ends:
                raise Error(f"{job.name}: no answer within {self.patience:g} s; its job is {job.id}")
            job = self._get(f"/v1/jobs/{job.id}", Job, wait=WAIT, top=top)
        return job

    def _get(self, where: str, kind: type[Answered], **options: Any) -> Answered:
        return self._read(kind, self._ask("GET", where, params=options))

    def _read(self, kind: type[Answered], answer: httpx.Response) -> Answered:
        try:
            return kind.model_validate_json(answer.content)
        except ValueError as error:
            raise Error(f"{self.url}: no answer of a Counterpoint server ({error})") from error

    def _ask(self, method: str, where: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, where, **options)
        except httpx.HTTPError as error:
            raise Error(f"{self.url}: {error or type(error).__name__}") from error
        if answer.status_code < 400:
            return answer
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = answer.reason_phrase
        if answer.status_code == 429:
            later = answer.headers.get("Retry-After", "")
            raise _LaterError(detail, float(later) if later.isdecimal() else LATER)
        raise ServerError(answer.status_code, detail)


class _LaterError(ServerError):
    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(429, detail)
        self.seconds = seconds


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            raise Error(f"{path}: a folder; send files")
        return path.stat().st_size
    except OSError as error:
        raise Error(f"{path}: {error.strerror or error}") from error
