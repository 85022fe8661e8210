"""A list of clips as CSV or JSON, written piece by piece."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from counterpoint.browse.clips import Clips, Filter
from counterpoint.errors import Error
from counterpoint.files import check_output_file, replacing
from counterpoint.tables import for_spreadsheet

Format = Literal["csv", "json"]
PIECE = 500  # clips
COLUMNS = ["id", "link", "shard", "record", "truth", "predictions", "level", "verdict", "loss", "surprise"]
MARKS: dict[Format, bytes] = {"csv": ",".join(COLUMNS).encode(), "json": b'"number": '}
"""Bytes at the start of every file of a list."""
EMPTY_JSON = b"[]\n"


def export(clips: Clips, query: Filter, kind: Format) -> Iterator[str]:
    """The clips that match a filter, in its order, as the pieces of a text.

    CSV has a row for each clip with its categories in one cell (``Food:Recipe 0.93; ...``); JSON is a list of the
    values of `Clips.to_dicts`.

    Raises:
        Error: see `Clips.choose`; before the first piece.
    """
    numbers = clips.choose(query)
    pieces = (clips.to_dicts(numbers[i : i + PIECE], query.level) for i in range(0, len(numbers), PIECE))
    return _csv(clips, pieces) if kind == "csv" else _json(pieces)


def check_path(path: Path) -> Format:
    """The format of a list's file, by its name.

    Raises:
        Error: the name ends neither in .csv nor in .json, or the file exists and is not a list.
    """
    kinds: dict[str, Format] = {".csv": "csv", ".json": "json"}
    if path.suffix.lower() not in kinds:
        raise Error(f"{path}: a list is written as .csv or .json")
    kind = kinds[path.suffix.lower()]
    if not (kind == "json" and path.is_file() and path.read_bytes()[:4] == EMPTY_JSON):
        check_output_file(path, MARKS[kind], "--export")
    return kind


def save(clips: Clips, query: Filter, path: str | os.PathLike[str]) -> int:
    """Write the list to a .csv or .json file, whole or not at all.

    Args:
        clips: the clips of a survey.
        query: the filter and order.
        path: the file; an earlier list there is replaced.

    Returns:
        The number of clips in the list.

    Raises:
        Error: see `check_path` and `Clips.choose`.
    """
    path = Path(path)
    pieces = export(clips, query, check_path(path))
    with replacing(path) as file:
        for piece in pieces:
            file.write(piece.encode())
    return len(clips.choose(query))


def _csv(clips: Clips, pieces: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
    pairs = clips.pairs
    yield _line([*COLUMNS, *(f"correlation of {pair}" for pair in pairs)])
    for piece in pieces:
        rows = ""
        for values in piece:
            lists = {
                name: "; ".join(f"{c['path']} {c['probability']:.3f}" for c in values[name])
                for name in ("truth", "predictions")
            }
            figures = {name: f"{values[name]:.6f}" for name in ("loss", "surprise")}
            correlation = [values["correlation"][pair] for pair in pairs]
            cells = values | lists | figures
            rows += _line([*(cells[name] for name in COLUMNS), *("" if c is None else f"{c:.4f}" for c in correlation)])
        yield rows


def _line(cells: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(for_spreadsheet(["" if cell is None else cell for cell in cells]))
    return out.getvalue()


def _json(pieces: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
    separator = "["
    for piece in pieces:
        for values in piece:
            yield separator + "\n" + json.dumps(values, ensure_ascii=False)
            separator = ","
    yield "[]\n" if separator == "[" else "\n]\n"
