"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from counterpoint.errors import Error

LOCK_FILE = ".lock"
_FILMS = "3g2 3gp asf avi dv f4v flv m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogv qt rm rmvb ts vob webm wmv"
FILMS = frozenset(f".{name}" for name in _FILMS.split(" "))
"""Suffixes of the video files that are looked for in folders."""
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))  # of disks, which name no file


@contextlib.contextmanager
def naming(path: Path, *also: Path) -> Iterator[None]:
    """Name the file in an OSError of the block that names none, as a full disk's; or names one of the others."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in FULL
        if error.errno and (nameless or error.filename in map(str, also)):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` if the block succeeds, and is removed if it does not.

    A process that is killed meanwhile leaves it beside `path`, hidden.

    Raises OSError, which names `path`, where it cannot be written or the disk is full.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with naming(path, new):
            with new.open("xb") as file:
                yield file
            new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def check_regular(path: Path) -> None:
    """Raise Error where something else than a file is at a path, such as a pipe or a device: it might never end."""
    if path.exists() and not path.is_file():
        raise Error(f"{path}: {'a folder' if path.is_dir() else 'a pipe or a device'}, and not a file")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, with its line ends as they are."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def appending(path: Path, shape: tuple[int, int]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a .npy of float16 row by row, as a map of a file that outgrows the disk would end the process.

    Raises OSError as `replacing` does, and ValueError where the rows are not as many as ``shape`` says.
    """
    rows = 0

    def add(part: NDArray[Any]) -> None:
        nonlocal rows
        rows += len(part)
        file.write(np.ascontiguousarray(part, "<f2").tobytes())

    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        yield add
        if rows != shape[0]:
            raise ValueError(f"{path}: {rows} rows, not {shape[0]}")


def cache_folder() -> Path:
    """`COUNTERPOINT_CACHE`, or the platform's folder for caches."""
    if folder := os.environ.get("COUNTERPOINT_CACHE"):
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "counterpoint"
    root = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "counterpoint"


def holds_anything(folder: Path) -> bool:
    """Whether there is more in a folder than what killed processes and locks leave, which is hidden."""
    return folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())


def check_output_folder(folder: Path, *marks: str, option: str = "--out") -> None:
    """Raise Error where a command must not write into a folder: it holds something, and none of the command's own.

    Args:
        marks: names of files that the command itself writes there; one of them makes the folder its own.
        option: the option that names the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise Error(f"{folder}: a file; {option} names a folder")
    if holds_anything(folder) and not any((folder / mark).exists() for mark in marks):
        raise Error(f"{folder}: holds something else; choose another {option}")


def check_writable(folder: Path, option: str = "--out") -> None:
    """Raise Error where nothing can be written into a folder, or where it cannot be made; nothing stays."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    trial = place / f".{uuid.uuid4().hex}"
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise Error(f"{folder}: cannot be written ({error.strerror}); choose another {option}") from error


def check_output_file(path: Path, mark: bytes, option: str = "--out") -> None:
    """Raise Error where a command must not write a file: there is one that the command did not write.

    Args:
        mark: bytes that stand in the first 4 KB of every file that the command writes, such as a table's header.
        option: the option that names the file.
    """
    if path.is_dir():
        raise Error(f"{path}: a folder; {option} names a file")
    if path.exists():
        with path.open("rb") as file:
            start = file.read(4096)
        if start and mark not in start:
            raise Error(f"{path}: is not a file of this command; choose another {option}, or remove it")


@contextlib.contextmanager
def claimed(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder's lock, ``.lock``; Error, which says that it is ``busy``, where another process holds it.

    The lock's file is removed at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        if not path.exists():  # whoever held it before has removed it meanwhile
            lock.release()
            lock.acquire(timeout=0)
    except Timeout:
        raise Error(f"{folder}: {busy}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        lock.release()
