import re
from pathlib import Path

import pytest
from rich.console import Console

from counterpoint import demo
from counterpoint.data import synthetic
from counterpoint.errors import Error
from counterpoint.recipes import NetVLADFamily, Recipe, Training
from counterpoint.run import RunFolder

QUIET = Console(quiet=True)


def check(out: Path, clips: int) -> list[str]:
    """What the demo leaves behind; its report by lines."""
    for name in (demo.TOWER, *demo.SHOWN):
        assert RunFolder.load(out / name).trained
    assert RunFolder.load(out / demo.BEST / "tower").trained
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text().splitlines()
    assert f"## Error in %, {clips} test clips (lower is better)" in report
    assert f"| metric | level | {' | '.join(demo.SHOWN)} |" in report
    assert len([line for line in report if line.startswith("| test-")]) == demo.NAMED
    return report


def test_demo_of_a_tiny_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = synthetic.SyntheticData(topics=12, min_steps=10, max_steps=14, distractors=0, sizes={"video": 8, "audio": 8})
    monkeypatch.setattr(demo, "SYNTHETIC", data)
    for split, clips in {"train": 48, "validation": 16, "test": 12}.items():
        monkeypatch.setitem(synthetic.CLIPS, split, clips)
    small = demo._small

    def tiny(recipe: Recipe) -> Recipe:
        family = NetVLADFamily(clusters={"video": 4, "audio": 4}, hidden=8)
        return demo.dataclasses.replace(small(recipe), family=family, training=Training(max_epochs=1, batch_size=16))

    monkeypatch.setattr(demo, "_small", tiny)
    monkeypatch.setattr(demo, "FILM_SPLITS", {"train": range(6), "test": range(6, 7)})
    monkeypatch.setattr(demo, "TOWER_SEEDS", range(4))
    monkeypatch.setattr(demo.films, "CATEGORIES", ("Balls:Music", "Rain:Wind"))
    out = tmp_path / "demo"
    demo.demo(out, QUIET)
    check(out, clips=12)
    printed = capsys.readouterr().out
    assert "Error in %, 12 test clips" in printed
    assert f"counterpoint categorize {out / demo.BEST}" in printed.replace("\n", "")
    assert " of 2 video files that were held out are in the right categories" in printed
    assert (out / "films" / "test" / "balls-music-6.mp4").exists()
    with pytest.raises(Error, match="holds something else; choose another --out"):
        demo.demo(out, QUIET)


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All models learn, far beyond the chance of one topic in twenty-four, and nearly all films are right."""
    demo.demo(tmp_path / "demo", QUIET)
    report = check(tmp_path / "demo", clips=synthetic.CLIPS["test"])
    (gap,) = (line for line in report if line.startswith("| GAP | all |"))
    errors = [float(cell) for cell in gap.strip("| ").split(" | ")[2:]]
    assert len(errors) == len(demo.SHOWN)
    assert max(errors) < 45
    assert max(errors[2:]) < 0.7 * min(errors[:2])  # with influence, and without
    (right,) = re.findall(r"(\d+) of 18 video files", capsys.readouterr().out)
    assert int(right) >= 14
