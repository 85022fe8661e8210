"""Predictions for many shards, as a table: CSV or JSON lines, the same whoever makes them.

Each shard's answers are a file of their own in a hidden folder beside the table until all are there, so the same call
goes on where an interrupted one stopped.
"""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from counterpoint.errors import UNREADABLE, Error, NoClipsError
from counterpoint.files import replacing
from counterpoint.predict import Predictions, Predictor
from counterpoint.run import RunFolder

if TYPE_CHECKING:
    from counterpoint.data.store import RemotePath

    Shard = Path | RemotePath

Answer = dict[str, Any]
Engine = Callable[..., Iterator[tuple[int, Any]]]
FORMS = (".csv", ".jsonl")


def told(run: RunFolder, predictions: Predictions, top: int, codes: bool) -> list[Answer]:
    """The most probable categories of each clip, by name, with their IAB codes if asked for."""
    taxonomy = run.labelling.taxonomy
    answers = []
    for clip_id, probabilities in zip(predictions.ids, predictions.probabilities, strict=True):
        best = taxonomy.ranked(probabilities)[:top]
        categories = [{"path": taxonomy.paths[i], "probability": float(probabilities[i])} for i in best]
        if codes:
            categories = [{**one, "iab": taxonomy.codes[i] or None} for one, i in zip(categories, best, strict=True)]
        answers.append({"id": clip_id, "categories": categories})
    return answers


def answers(predictor: Predictor, shard: "Shard", *, top: int, codes: bool, skip_bad: bool) -> dict[str, Any]:
    """What a run says of a shard's clips, and the damaged records that were left out."""
    from counterpoint.data.dataset import Dataset

    run = predictor.run
    try:
        dataset = Dataset([shard], run.labelling, skip_bad=skip_bad, labelled=False)
    except NoClipsError as error:
        return {"answers": [], "bad": [str(one) for one in error.bad]}
    said = [answer for predictions in predictor.predict(dataset) for answer in told(run, predictions, top, codes)]
    return {"answers": said, "bad": [str(error) for error in dataset.bad]}


def categorize(
    run: RunFolder,
    shards: Sequence["Shard"],
    out: Path,
    *,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> dict[str, Any]:
    """Write the table of what a run says of the clips of shards; returns how many, and the damaged records.

    Args:
        engine: called with the run's folder, pairs of number and shard, and the options, gives pairs of number and
            what `answers` says, or a fault; without, this process.
        options: of `answers`.

    Raises:
        Error: a shard cannot be read, or the table's name ends otherwise than .csv or .jsonl.
    """
    check(out)
    predictor = Predictor(run)  # faults show now rather than on a cluster
    about = [repr((run.fingerprint, _stamp(shard), sorted(options.items()))) for shard in shards]
    folder = out.with_name(f".{out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{hashlib.sha256(each.encode()).hexdigest()[:24]}.json" for each in about]
    try:
        with FileLock(folder / ".lock", blocking=False):
            told = _categorize(predictor, shards, out, parts, engine, progress, options)
    except Timeout:
        raise Error(f"{out}: another process writes this table; wait for it, or choose another") from None
    shutil.rmtree(folder)  # when its lock is no longer open, which some systems insist on
    return told


def _stamp(shard: "Shard") -> tuple[str, int | None, int | str]:
    """What tells a shard from what it was before."""
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
    made = engine(str(predictor.run.folder.resolve()), todo, options) if engine else _here(predictor, todo, options)
    for done, (number, said) in enumerate(made, len(shards) - len(todo) + 1):
        if isinstance(said, str):
            raise Error(said)
        with replacing(parts[number]) as file:
            file.write(json.dumps(said).encode())
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
    """Raise Error where a table cannot be called so."""
    if out.suffix not in FORMS:
        raise Error(f"{out}: a table is called *{' or *'.join(FORMS)}")


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
            table.writerows([answer["id"], rank, *one.values(), *pairs.values()] for rank, one in ranked)
        if not count and out.suffix == ".csv":
            table.writerow(["id", "rank", "path", "probability"])
        file.flush()
        file.detach()
    return count


def _here(
    predictor: Predictor, todo: Sequence[tuple[int, "Shard"]], options: dict[str, Any]
) -> Iterator[tuple[int, Any]]:
    return ((number, answers(predictor, shard, **options)) for number, shard in todo)


def _answers(contents: Iterable[dict[str, Any]], bad: list[str]) -> Iterator[Answer]:
    for content in contents:
        bad += content["bad"]
        yield from content["answers"]
