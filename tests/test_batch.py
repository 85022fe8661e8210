import csv
import json
from pathlib import Path
from typing import Any

import pytest
from training.world import clips, damage, trained_run, write

from counterpoint import batch
from counterpoint.cli.main import main
from counterpoint.errors import Error
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder

OPTIONS: dict[str, Any] = {"top": 2, "codes": False, "skip_bad": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / "data" / f"{i}.tfrecord", *clips(5, i, prefix=f"{i}-")) for i in range(3)]


def test_tables_say_what_the_terminal_says(
    run: RunFolder, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards[0].parent
    command = ["categorize", str(run.folder), str(folder), "--top", "2"]
    assert main([*command, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main([*command, "--out", str(folder / "table.jsonl")]) == 0
    assert capsys.readouterr().out == f"{folder}/table.jsonl: 15 clips of 3 shards\n"
    lines = [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    assert [one["id"] for one in lines] == [one["id"] for one in expected]
    for one, other in zip(lines, expected, strict=True):
        assert [c["path"] for c in one["categories"]] == [c["path"] for c in other["categories"]]
        for category, same in zip(one["categories"], other["categories"], strict=True):
            assert category["probability"] == pytest.approx(same["probability"], abs=1e-6)
    assert main([*command, "--out", str(folder / "table.csv")]) == 0
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], int(row["rank"]), row["path"], float(row["probability"])) for row in rows] == [
        (one["id"], rank, category["path"], category["probability"])
        for one in lines
        for rank, category in enumerate(one["categories"], 1)
    ]
    assert not list(folder.glob(".table*"))


def test_weights_are_read_once(
    run: RunFolder, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, built = RunFolder.build, []

    def counted(self: RunFolder) -> Any:
        built.append(self)
        return build(self)

    monkeypatch.setattr(RunFolder, "build", counted)
    assert batch.categorize(run, shards, tmp_path / "a.jsonl", **OPTIONS)["clips"] == 15
    assert len(built) == 1


def test_goes_on_where_it_stopped(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    asked: list[int] = []

    def stops(_: str, todo: list[tuple[int, Any]], options: dict[str, Any]) -> Any:
        for number, shard in reversed(todo):  # in any order
            asked.append(number)
            yield number, batch.answers(Predictor(run), shard, **options)
            if len(asked) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.categorize(run, shards, tmp_path / "a.jsonl", engine=stops, **OPTIONS)
    assert not (tmp_path / "a.jsonl").exists()
    assert batch.categorize(run, shards, tmp_path / "a.jsonl", engine=stops, **OPTIONS)["clips"] == 15
    assert asked == [2, 1, 0]
    batch.categorize(run, shards, tmp_path / "b.jsonl", **OPTIONS)
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def interrupted(run: RunFolder, shards: list[Path], out: Path) -> None:
    """A table of which one shard is done."""

    def stops(_: str, todo: list[tuple[int, Any]], options: dict[str, Any]) -> Any:
        yield todo[0][0], batch.answers(Predictor(run), todo[0][1], **options)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.categorize(run, shards, out, engine=stops, **OPTIONS)


def test_what_an_interrupted_table_was_about(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    """Other options are another table."""
    interrupted(run, shards, tmp_path / "a.jsonl")
    batch.categorize(run, shards, tmp_path / "a.jsonl", **{**OPTIONS, "top": 1})
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert {len(json.loads(line)["categories"]) for line in lines} == {1}


def test_what_an_interrupted_table_keeps(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    """A shard that comes in between costs itself; a part that the machine lost is reported, and made again."""
    interrupted(run, shards, tmp_path / "a.jsonl")
    (kept,) = (tmp_path / ".a.jsonl.parts").glob("*.json")
    asked = []

    def counts(_: str, todo: list[tuple[int, Any]], options: dict[str, Any]) -> Any:
        for number, shard in todo:
            asked.append(shard.name)
            yield number, batch.answers(Predictor(run), shard, **options)

    more = [write(tmp_path / "data" / "-1.tfrecord", *clips(1, prefix="m")), *shards]
    kept.write_bytes(b"")
    with pytest.raises(Error, match=f"{kept}: was damaged and is removed; the same command"):
        batch.categorize(run, more, tmp_path / "a.jsonl", engine=counts, **OPTIONS)
    assert asked == ["-1.tfrecord", "1.tfrecord", "2.tfrecord"]
    assert batch.categorize(run, more, tmp_path / "a.jsonl", engine=counts, **OPTIONS)["clips"] == 16
    assert asked[3:] == ["0.tfrecord"]
    assert not (tmp_path / ".a.jsonl.parts").exists()


def test_damage(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    damage(shards[1], 2)
    with pytest.raises(Error, match=r"1.tfrecord: record 2 at byte \d+: payload checksum"):
        batch.categorize(run, shards, tmp_path / "a.csv", **OPTIONS)
    result = batch.categorize(run, shards, tmp_path / "a.csv", **{**OPTIONS, "skip_bad": True})
    assert result["clips"] == 14
    assert len(result["bad"]) == 1


def test_a_shard_that_changed_meanwhile(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    interrupted(run, shards, tmp_path / "a.jsonl")
    write(shards[0], *clips(2, prefix="new"))
    batch.categorize(run, shards, tmp_path / "a.jsonl", **OPTIONS)
    found = [json.loads(line)["id"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert found[:2] == ["new000", "new001"]


def test_a_shard_without_clips_has_no_lines(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.tfrecord")
    ruined = damage(write(tmp_path / "ruined.tfrecord", *clips(1)), 0)
    result = batch.categorize(run, [empty, *shards, ruined], tmp_path / "a.jsonl", **{**OPTIONS, "skip_bad": True})
    assert result["clips"] == 15
    assert len(result["bad"]) == 1
    batch.categorize(run, [empty], tmp_path / "none.csv", **OPTIONS)
    assert (tmp_path / "none.csv").read_text().splitlines() == ["id,rank,path,probability"]


def test_one_process_writes_a_table(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    def another(*arguments: Any, **more: Any) -> Any:
        with pytest.raises(Error, match=r"another process writes .*a\.jsonl"):
            batch.categorize(run, shards, tmp_path / "a.jsonl", **OPTIONS)
        return iter([(number, batch.answers(Predictor(run), shard, **OPTIONS)) for number, shard in enumerate(shards)])

    assert batch.categorize(run, shards, tmp_path / "a.jsonl", engine=another, **OPTIONS)["clips"] == 15


def test_names(run: RunFolder, shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Error, match=r"table.xls: a table is called \*.csv or \*.jsonl"):
        batch.categorize(run, shards, tmp_path / "table.xls", **OPTIONS)
    assert main(["categorize", str(run.folder), str(shards[0]), "--engine", "ray"]) == 1
    assert "--engine ray is for tables of many clips: name one with --out" in capsys.readouterr().err


def test_another_file_is_left_alone(run: RunFolder, shards: list[Path], tmp_path: Path) -> None:
    for name, text in (("notes.csv", "name,price\n"), ("notes.jsonl", '{"a": 1}\n')):
        (tmp_path / name).write_text(text)
        with pytest.raises(Error, match=f"{name}: is not a file of this command"):
            batch.categorize(run, shards, tmp_path / name, **OPTIONS)
        assert (tmp_path / name).read_text() == text
    for name in ("table.csv", "table.jsonl"):
        batch.categorize(run, shards, tmp_path / name, **OPTIONS)
        first = (tmp_path / name).read_text()
        batch.categorize(run, shards, tmp_path / name, **OPTIONS)
        assert (tmp_path / name).read_text() == first
