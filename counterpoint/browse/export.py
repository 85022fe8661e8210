"""A list of clips as CSV or JSON, made piece by piece."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from counterpoint.browse.clips import Clips, Filter
from counterpoint.errors import Error
from counterpoint.files import replacing

Format = Literal["csv", "json"]
PIECE = 500  # clips


def export(clips: Clips, chosen: Filter, kind: Format) -> Iterator[str]:
    """The clips that a filter lets through, in its order.

    CSV has a row for each with its categories in one cell (``Food:Recipe 0.93; ...``); JSON is a list of what the page
    shows of each.

    Raises:
        Error: see `Clips.choose`; before the first piece.
    """
    numbers = clips.choose(chosen)
    pieces = (clips.told(numbers[i : i + PIECE], chosen.level) for i in range(0, len(numbers), PIECE))
    return _csv(clips, pieces) if kind == "csv" else _json(pieces)


def kind_of(path: Path) -> Format:
    """What a file's name says it is; raises Error where that is nothing a list is written as."""
    kinds: dict[str, Format] = {".csv": "csv", ".json": "json"}
    if path.suffix.lower() not in kinds:
        raise Error(f"{path}: a list is written as .csv or .json")
    return kinds[path.suffix.lower()]


def save(clips: Clips, chosen: Filter, path: Path) -> int:
    """Write the list to a .csv or .json file, whole or not at all; returns how many clips it has.

    Raises:
        Error: the file's name says neither; see also `Clips.choose`.
    """
    parts = export(clips, chosen, kind_of(path))
    with replacing(path) as file:
        for part in parts:
            file.write(part.encode())
    return len(clips.choose(chosen))


def _csv(clips: Clips, pieces: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
    pairs = clips.survey.pairs
    names = ["id", "link", "shard", "record", "truth", "predictions", "level", "correct", "loss", "surprise"]
    yield _line([*names, *(f"correlation of {pair}" for pair in pairs)])
    for piece in pieces:
        rows = ""
        for told in piece:
            lists = {name: "; ".join(f"{c['path']} {c['probability']:.3f}" for c in told[name]) for name in names[4:6]}
            figures = {name: f"{told[name]:.6f}" for name in ("loss", "surprise")}
            correlation = [told["correlation"][pair] for pair in pairs]
            cells = told | lists | figures
            rows += _line([*(cells[name] for name in names), *("" if c is None else f"{c:.4f}" for c in correlation)])
        yield rows


def _line(cells: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()


def _json(pieces: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
    before = "["
    for piece in pieces:
        for told in piece:
            yield before + "\n" + json.dumps(told, ensure_ascii=False)
            before = ","
    yield "[]\n" if before == "[" else "\n]\n"
