"""Predictions for many shards, as a table: CSV or JSON lines, the same on one machine and on a cluster.

Each shard's answers are a file of their own in a hidden folder beside the table until all are done, so the same call
continues where an interrupted one stopped.
"""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.errors import UNREADABLE, Error, NoClipsError
from counterpoint.files import check_output_file, claimed, replacing
from counterpoint.predict import Prediction, Predictions, Predictor
from counterpoint.run import RunFolder
from counterpoint.tables import for_spreadsheet

if TYPE_CHECKING:
    from counterpoint.data.store import RemotePath

    Shard = Path | RemotePath

Answer = dict[str, Any]
Engine = Callable[..., Iterator[tuple[int, Any]]]
MARKS = {".csv": b"id,rank,path,probability", ".jsonl": b'"categories": [{"path": '}
"""What every table has near its start, by its suffix."""


def rows(run: RunFolder, predictions: Predictions, top: int, codes: bool) -> list[Answer]:
    """The most probable categories of each clip, by name, with their IAB codes if asked for."""
    unlike = [False] * len(predictions.ids) if predictions.unlike is None else predictions.unlike.tolist()
    return [
        {"id": clip_id, **_about(run, probabilities, is_unlike, top, codes)}
        for clip_id, probabilities, is_unlike in zip(predictions.ids, predictions.probabilities, unlike, strict=True)
    ]


def rows_of(
    run: RunFolder, ids: Sequence[str], predictions: Sequence[Prediction], top: int, codes: bool
) -> list[Answer]:
    """The same of clips that are predicted one by one, with the correlation of their modalities."""
    return [
        {
            "id": clip_id,
            **_about(run, prediction.probabilities, prediction.unlike, top, codes),
            "correlation": prediction.correlation,
        }
        for clip_id, prediction in zip(ids, predictions, strict=True)
    ]


def _about(run: RunFolder, probabilities: "np.ndarray[Any, Any]", unlike: bool, top: int, codes: bool) -> Answer:
    """The most probable categories, whether no category reaches its threshold, and whether the clip is unlike."""
    taxonomy = run.labelling.taxonomy
    best = run.ranked(probabilities)[:top]
    categories = [{"path": taxonomy.paths[i], "probability": float(probabilities[i])} for i in best]
    if codes:
        categories = [{**one, "iab": taxonomy.codes[i] or None} for one, i in zip(categories, best, strict=True)]
    unsure = not (probabilities >= run.thresholds).any()
    return {"categories": categories, "unsure": unsure, "unlike": unlike}


def answers(predictor: Predictor, shard: "Shard", *, top: int, codes: bool, skip_bad: bool) -> dict[str, Any]:
    """The ``answers`` of a run for a shard's clips, and its ``bad`` records, which were left out.

    Args:
        top: categories of a clip.
        codes: whether they have their IAB codes.
        skip_bad: leave out damaged records.

    Raises:
        Error: the shard or one of its records cannot be read.
    """
    from counterpoint.data.dataset import Dataset

    run = predictor.run
    try:
        dataset = Dataset([shard], run.labelling, skip_bad=skip_bad, labelled=False)
    except NoClipsError as error:
        return {"answers": [], "bad": [str(one) for one in error.bad]}
    found = [answer for predictions in predictor.predict(dataset) for answer in rows(run, predictions, top, codes)]
    return {"answers": found, "bad": [str(error) for error in dataset.bad]}


def categorize(
    run: RunFolder,
    shards: Sequence["Shard"],
    out: Path,
    *,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> dict[str, Any]:
    """Write the table of a run's answers for the clips of shards; returns its path, clips and damaged records.

    Args:
        engine: called with the run's folder, pairs of number and shard, and the options, gives pairs of number and
            what `answers` returns, or an error's message; without, this process computes them.
        progress: called with the number of shards that are done, and of all.
        options: of `answers`.

    Raises:
        Error: a shard cannot be read, or ``out`` is another file or ends otherwise than .csv or .jsonl.
    """
    check(out)
    predictor = Predictor(run)  # faults show now rather than on a cluster
    about = [repr((run.fingerprint, _stamp(shard), sorted(options.items()))) for shard in shards]
    folder = out.with_name(f".{out.name}.parts")
    parts = [folder / f"{hashlib.sha256(each.encode()).hexdigest()[:24]}.json" for each in about]
    with claimed(folder, f"another process writes {out}; wait for it, or choose another --out"):
        result = _categorize(predictor, shards, out, parts, engine, progress, options)
    shutil.rmtree(folder)  # when its lock is no longer open, which some systems insist on
    return result


def _stamp(shard: "Shard") -> tuple[str, int | None, int | str]:
    """What changes with a shard's content."""
    if isinstance(shard, Path):
        try:
            stat = shard.stat()
        except OSError as error:
            raise Error(f"{shard}: {error.strerror or error}") from error
        return str(shard), stat.st_size, stat.st_mtime_ns
    known = shard.known()
    return str(shard), known.size, known.tag


def _categorize(
    predictor: Predictor,
    shards: Sequence["Shard"],
    out: Path,
    parts: Sequence[Path],
    engine: Engine | None,
    progress: Callable[[int, int], None],
    options: dict[str, Any],
) -> dict[str, Any]:
    todo = [(number, shard) for number, shard in enumerate(shards) if not parts[number].exists()]
    progress(len(shards) - len(todo), len(shards))
    made = engine(str(predictor.run.folder.resolve()), todo, options) if engine else _answered(predictor, todo, options)
    for done, (number, content) in enumerate(made, len(shards) - len(todo) + 1):
        if isinstance(content, str):
            raise Error(content)
        with replacing(parts[number]) as file:
            file.write(json.dumps(content).encode())
        progress(done, len(shards))
    contents = (_read(part) for part in parts)
    bad: list[str] = []
    clips = write(out, _answers(contents, bad))
    return {"out": str(out), "clips": clips, "bad": bad}


def _read(part: Path) -> dict[str, Any]:
    try:
        return {**json.loads(part.read_text(encoding="utf-8"))}
    except UNREADABLE as error:  # the machine stopped before it was on the disk
        part.unlink(missing_ok=True)
        raise Error(f"{part}: was damaged and is removed; the same command makes it again") from error


def check(out: Path) -> None:
    """Raise Error where a table has another suffix, or is another file."""
    if out.suffix not in MARKS:
        raise Error(f"{out}: a table is called *{' or *'.join(MARKS)}")
    check_output_file(out, MARKS[out.suffix])


def write(out: Path, of: Iterable[Answer]) -> int:
    """Write answers as a table, a line each, or in CSV a line for each category; returns how many there are."""
    check(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(out) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        table = csv.writer(file)
        for count, answer in enumerate(of, 1):
            if out.suffix == ".jsonl":
                file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                continue
            pairs = answer.get("correlation", {})  # of films
            if count == 1:
                table.writerow(["id", "rank", *answer["categories"][0], *pairs])
            ranked = enumerate(answer["categories"], 1)
            rows = ([answer["id"], rank, *one.values(), *pairs.values()] for rank, one in ranked)
            table.writerows(map(for_spreadsheet, rows))
        if not count and out.suffix == ".csv":
            table.writerow(["id", "rank", "path", "probability"])
        file.flush()
        file.detach()
    return count


def _answered(
    predictor: Predictor, todo: Sequence[tuple[int, "Shard"]], options: dict[str, Any]
) -> Iterator[tuple[int, Any]]:
    return ((number, answers(predictor, shard, **options)) for number, shard in todo)


def _answers(contents: Iterable[dict[str, Any]], bad: list[str]) -> Iterator[Answer]:
    for content in contents:
        bad += content["bad"]
        yield from content["answers"]
