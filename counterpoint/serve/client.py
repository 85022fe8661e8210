"""The Python client of a server of `counterpoint serve`; it imports neither PyTorch nor FastAPI."""

import contextlib
import os
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

PathLike = str | os.PathLike[str]

FEATURES_FILE = "features.json"
RETRY_SECONDS = 1.0  # before another try, where a full server does not name a time
POLL_SECONDS = 30.0  # that one request waits for an answer

Model = TypeVar("Model", bound=BaseModel)


class ServerError(Error):
    """A refusal of the server: ``status`` is the HTTP status, ``detail`` the server's line."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class Client:
    """A client of one server; may be used as a context, which closes its connections.

    Args:
        url: the server's address.
        key: the server's key, if it has one.
        patience: seconds to wait for an answer, or for a place in the queue of a full server.

    Raises:
        ServerError: by every method, where the server refuses a request.
        Error: by every method, where the server cannot be reached, a file cannot be read, or patience is at its end.

    Example:
        ```python
        with Client("http://127.0.0.1:8000") as client:
            answer = client.categorize("holiday.mp4")
            print(answer.categories[0].path, answer.categories[0].probability)
            print(client.explain(answer.job).attended)
        ```
    """

    def __init__(self, url: str, key: str | None = None, patience: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(POLL_SECONDS + 30, connect=10)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @cached_property
    def about(self) -> About:
        """The server's run and limits."""
        return self._get("/v1/about", About)

    def taxonomy(self) -> Tree:
        """The categories as a tree."""
        return self._get("/v1/taxonomy", Tree)

    def categorize(self, path: PathLike, top: int = 20) -> Answer:
        """Categorize a video file, or the one clip of a feature record; waits for the answer.

        Args:
            path: a video file, or a ``.tfrecord`` file, which is sent with the `features.json` beside it.
            top: the number of categories in the answer.

        Returns:
            The answer: categories, the most probable first, and correlation. Its ``job`` is the id for `explain`.

        Raises:
            ServerError: the file cannot be read as a clip of the run's features, or it exceeds a limit.
            Error: see the class.
        """
        response = self._send("/v1/categorize", "file", [Path(path)], top)
        if response.status_code == 200:
            return self._parse(Answer, response)
        job = self._finished(self._parse(Job, response), top)
        if job.answer is None:
            raise ServerError(job.status or 500, job.detail or "")
        return job.answer

    def categorize_all(self, paths: Sequence[PathLike], top: int = 20) -> list[Job]:
        """Categorize several files in one request; waits for all answers.

        Args:
            paths: video files and shards. A shard may hold many clips.
            top: the number of categories in each answer.

        Returns:
            A finished job for each clip, in the order of the files. A job has ``answer``; or, where its ``state`` is
            "failed", the reason in ``detail``.

        Raises:
            ServerError: the request exceeds a limit.
            Error: see the class.
        """
        response = self._send("/v1/categorize/batch", "files", [Path(path) for path in paths], top)
        return [self._finished(job, top) for job in self._parse(Jobs, response).jobs]

    def explain(self, job: str, swap: str | None = None, top: int = 8) -> Explanation:
        """Explain an answer.

        Args:
            job: the answer's ``job``.
            swap: another answer's ``job``; the explanation also has the answers with that clip's tracks.
            top: the number of categories whose changes are computed.

        Raises:
            ServerError: the job is unknown, has expired, or has no answer yet.
            Error: see the class.
        """
        options = {"top": top} | ({"swap": swap} if swap else {})
        return self._get(f"/v1/jobs/{job}/explanation", Explanation, **options)

    def forget(self, job: str) -> None:
        """Stop a job, or remove its clip and answer from the server.

        Args:
            job: the id of a job, such as an answer's ``job``.

        Raises:
            ServerError: the job is unknown, or an example.
        """
        self._request("DELETE", f"/v1/jobs/{job}")

    # --- requests -----------------------------------------------------------------------------------------------------

    def _send(self, endpoint: str, field: str, paths: list[Path], top: int) -> httpx.Response:
        size = sum(_size(path) for path in paths)
        if size > self.about.max_bytes:
            name = paths[0] if len(paths) == 1 else f"{len(paths)} files"
            raise ServerError(413, f"{name}: {size:,} bytes; the server takes {self.about.max_bytes:,} at most")
        descriptions = {path.with_name(FEATURES_FILE) for path in paths if path.suffix == ".tfrecord"}
        texts = {path.read_text(encoding="utf-8", errors="replace") for path in descriptions if path.exists()}
        if len(texts) > 1:
            raise Error("shards of several kinds of features; send one kind at a time")
        data = {"features": texts.pop()} if texts else {}
        deadline = time.monotonic() + self.patience
        while True:
            try:
                with contextlib.ExitStack() as stack:
                    files = [(field, (path.name, stack.enter_context(path.open("rb")))) for path in paths]
                    options = {"wait": POLL_SECONDS, "top": top}
                    return self._request("POST", endpoint, params=options, files=files, data=data)
            except _FullError as full:
                if time.monotonic() + full.seconds > deadline:
                    raise
                time.sleep(full.seconds)

    def _finished(self, job: Job, top: int) -> Job:
        deadline = time.monotonic() + self.patience
        while job.state == "running":
            if time.monotonic() > deadline:
                raise Error(f"{job.name}: no answer within {self.patience:g} s; its job is {job.id}")
            job = self._get(f"/v1/jobs/{job.id}", Job, wait=POLL_SECONDS, top=top)
        return job

    def _get(self, endpoint: str, kind: type[Model], **options: Any) -> Model:
        return self._parse(kind, self._request("GET", endpoint, params=options))

    def _parse(self, kind: type[Model], response: httpx.Response) -> Model:
        try:
            return kind.model_validate_json(response.content)
        except ValueError as error:
            raise Error(f"{self.url}: not an answer of a Counterpoint server ({error})") from error

    def _request(self, method: str, endpoint: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, endpoint, **options)
        except httpx.HTTPError as error:
            raise Error(f"{self.url}: {error or type(error).__name__}") from error
        if response.status_code < 400:
            return response
        try:
            detail = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = response.reason_phrase
        if response.status_code in (429, 507):  # too many wait, or the disk is full
            seconds = response.headers.get("Retry-After", "")
            wait = float(seconds) if seconds.isdecimal() else RETRY_SECONDS
            raise _FullError(response.status_code, detail, wait)
        raise ServerError(response.status_code, detail)


class _FullError(ServerError):
    """The server is full; try again after so many seconds."""

    def __init__(self, status: int, detail: str, seconds: float) -> None:
        super().__init__(status, detail)
        self.seconds = seconds


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            raise Error(f"{path}: a folder; send files")
        return path.stat().st_size
    except OSError as error:
        raise Error(f"{path}: {error.strerror or error}") from error
