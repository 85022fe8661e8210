"""The whole way on real files: extract, train, categorize, by the command line."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from counterpoint.cli.main import main
from counterpoint.media import films as render
from counterpoint.taxonomy import load

TINY = ["--family.clusters", '{"video": 4, "audio": 4}', "--family.hidden", "32", "--head.hidden", "32"]
TINY += ["--training.batch_size", "8", "--training.learning_rate", "0.01", "--training.max_epochs", "15"]
TINY += ["--training.stop_patience", "15"]
TOWER = [*TINY[:4], "--training.max_epochs", "1", "--comparison.embedding", "4"]


class Printed(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Printed:
        capsys.readouterr()
        return Printed(main([str(argument) for argument in arguments]), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of films that pictures and sound tell apart at once, a broken one and one without a label."""
    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    time = np.arange(2 * render.RATE) / render.RATE
    rows = []
    for number in range(12):
        dark = number % 2
        frame = random.normal(60 if dark else 190, 15, (48, 64, 3)).clip(0, 255).astype(np.uint8)
        sound = np.sin(2 * np.pi * (300 if dark else 3000) * time) * random.uniform(0.2, 0.5)
        render.write(folder / f"{number}.mp4", [frame] * 10, sound, fps=5)
        rows.append(f"{number}.mp4,{'Dark:Night' if dark else 'Light:Day'}")
    (folder / "broken.mp4").write_bytes(b"")
    render.write(folder / "unnamed.mp4", [frame] * 10, None)
    (folder / "labels.csv").write_text("\n".join(["path,categories", *rows, "broken.mp4,Light:Day"]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a run with a tower that was trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    shards = folder / "shards"
    assert main(["extract", str(videos), "--labels", str(videos / "labels.csv"), "--out", str(shards)]) == 1
    validation = shutil.copytree(shards, folder / "validation")
    data = ["--data", str(shards), "--validation", str(validation)]
    assert main(["train", "correlation-nv", *data, "--out", str(folder / "tower"), *TOWER]) == 0
    run = ["--out", str(folder / "run"), "--tower", str(folder / "tower"), *TINY]
    assert main(["train", "nv-cm-c", *data, *run]) == 0
    return folder


def test_extract(command: Any, videos: Path, tmp_path: Path) -> None:
    printed = command("extract", videos, "--labels", videos / "labels.csv", "--out", tmp_path / "out", "--json")
    assert printed.code == 1
    assert printed.json == {
        "out": str(tmp_path / "out"),
        "new": 12,
        "before": 0,
        "shards": 1,
        "failures": [{"file": str(videos / "broken.mp4"), "cause": "empty"}],
        "notes": [],
        "left_out": [str(videos / "unnamed.mp4")],
        "not_found": [],
    }
    assert f"failed: {videos / 'broken.mp4'}: empty" in printed.err
    assert f"1 video files left out, which have no category by {videos / 'labels.csv'}: " in printed.err
    assert load(tmp_path / "out" / "taxonomy").taxonomy.paths == ("Dark", "Dark:Night", "Light", "Light:Day")
    (videos / "broken.mp4").write_bytes(b"")
    again = command("extract", videos, "--labels", videos / "labels.csv", "--out", tmp_path / "out")
    assert "12 clips in 1 shards, 12 of them made before; 1 files failed" in again.out


def test_extract_in_another_taxonomy(command: Any, videos: Path, trained: Path, tmp_path: Path) -> None:
    (videos / "more.csv").write_text("path,categories\n0.mp4,Light:Day\n", encoding="utf-8")
    options = ("--taxonomy", trained / "shards" / "taxonomy", "--labels", videos / "more.csv")
    assert command("extract", videos, *options, "--out", tmp_path / "out").code == 0
    assert load(tmp_path / "out" / "taxonomy") == load(trained / "shards" / "taxonomy")
    (videos / "more.csv").write_text("path,categories\n0.mp4,Sound:Loud\n", encoding="utf-8")
    printed = command("extract", videos, *options, "--out", tmp_path / "out")
    assert (printed.code, printed.out) == (1, "")
    assert "more.csv, line 2: no label of the taxonomy stands for 'Sound:Loud' alone" in printed.err


def test_categorize_videos(command: Any, videos: Path, trained: Path, tmp_path: Path) -> None:
    files = [videos / "0.mp4", videos / "1.mp4"]
    printed = command("categorize", trained / "run", *files, "--top", 3, "--explain", tmp_path / "why", "--json")
    assert printed.code == 0
    answers = {answer["id"]: answer for answer in printed.json}
    assert set(answers) == {"0.mp4", "1.mp4"}
    for name, expected in (("0.mp4", "Light:Day"), ("1.mp4", "Dark:Night")):
        probabilities = {category["path"]: category["probability"] for category in answers[name]["categories"]}
        assert probabilities[expected] == max(probability for path, probability in probabilities.items() if ":" in path)
        assert 0 < answers[name]["correlation"]["audio and video"] <= 1
        picture = Path(answers[name]["explanation"])
        assert picture == tmp_path / "why" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_categorize_videos_to_a_table(command: Any, videos: Path, trained: Path, tmp_path: Path) -> None:
    printed = command("categorize", trained / "run", videos / "0.mp4", "--top", 2, "--out", tmp_path / "table.jsonl")
    assert (printed.code, printed.out) == (0, f"{tmp_path / 'table.jsonl'}: 1 clips\n")
    (line,) = (tmp_path / "table.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "0.mp4"
    assert len(json.loads(line)["categories"]) == 2
    to = ("--top", 2, "--out", tmp_path / "table.csv", "--json")
    assert command("categorize", trained / "run", videos / "0.mp4", *to).json["clips"] == 1
    header, *rows = csv.reader((tmp_path / "table.csv").read_text().splitlines())
    assert header == ["id", "rank", "path", "probability", "audio and video"]
    assert [float(row[-1]) for row in rows] == 2 * [json.loads(line)["correlation"]["audio and video"]]


def test_categorize_says_what_failed(command: Any, videos: Path, trained: Path) -> None:
    printed = command("categorize", trained / "run", videos / "0.mp4", videos / "broken.mp4")
    assert printed.code == 1
    assert "Light" in printed.out
    assert "correlation" in printed.out
    assert f"failed: {videos / 'broken.mp4'}: empty" in printed.err
    nothing = command("categorize", trained / "run", videos / "broken.mp4")
    assert nothing.code == 1
    mixed = command("categorize", trained / "run", videos / "0.mp4", trained / "shards")
    assert "video files and shards cannot be categorized in one call" in mixed.err


def test_shards_are_still_categorized(command: Any, trained: Path) -> None:
    printed = command("categorize", trained / "run", trained / "shards", "--json")
    assert len(printed.json) == 12


def test_a_real_clip(command: Any, trained: Path, real_data: Path, tmp_path: Path) -> None:
    path = real_data / "media" / "women_long_jump.mp4"
    if not path.exists():
        pytest.skip(f"no {path}")
    printed = command("categorize", trained / "run", path, "--explain", tmp_path, "--json")
    assert printed.code == 0
    assert len(printed.json[0]["categories"]) == 4
    assert (tmp_path / "women_long_jump.mp4.png").stat().st_size > 10_000


def test_bad_arguments(command: Any, videos: Path, tmp_path: Path) -> None:
    for arguments, expected in (
        (["--taxonomy", "youtube8m"], "--taxonomy is for the categories of a labels file"),
        (["--encoders", "none"], "no encoders are called 'none'"),
        (["--labels", "none.csv"], "none.csv: cannot be read"),
    ):
        printed = command("extract", videos, "--out", tmp_path / "out", *arguments)
        assert (printed.code, printed.out) == (1, "")
        assert expected in printed.err
