"""From a folder of videos to a model and a report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterpoint.cli.main import main
from counterpoint.data import synthetic
from counterpoint.data.dataset import Dataset
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error
from counterpoint.learning import learn as learn_module
from counterpoint.learning.crossvalidation import check_films
from counterpoint.learning.learn import learn
from counterpoint.media.extract import Report
from counterpoint.media.films import CATEGORIES, film
from counterpoint.media.workers import Source
from counterpoint.run import RunFolder

CATEGORIES_USED = (CATEGORIES[0], CATEGORIES[4], CATEGORIES[8])


def render(folder: Path, categories: tuple[str, ...], seeds: range) -> Path:
    """Films in a folder of their category: folder/Rain/Wind/3.mp4."""
    for category in categories:
        place = folder / category.replace(":", "/")
        place.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            film(place / f"{seed}.mp4", category, seed, seconds=2, size=(160, 120))
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("films") / "videos", CATEGORIES_USED, range(5))


@pytest.fixture(scope="module")
def learned(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "run"
    assert main(["learn", str(films), "--out", str(out)]) == 0
    return out


def test_held_out_films_are_right(learned: Path, tmp_path: Path):
    """All of them, and none is unlike the others."""
    import counterpoint as cp

    new = render(tmp_path / "new", CATEGORIES_USED, range(50, 53))
    answers = cp.load(learned).categorize(new)
    assert len(answers) == 9
    for answer in answers:
        best = next(each.path for each in answer.top() if ":" in each.path)
        assert best == ":".join(answer.id.split("/")[:2])
        assert not answer.unlike


def test_the_report_says_what_json_says(learned: Path):
    found = json.loads((learned / "learning.json").read_text())
    page = (learned / "report.html").read_text()
    assert found["clips"] == 15
    assert found["recipe"] == "mean-linear"
    assert [each["recipe"] for each in found["tried"]] == ["mean-linear"]
    assert np.array(found["confusion"]).sum() == 15
    assert {tuple(each["modalities"]) for each in found["worth"]} == {("video",), ("audio",), ("video", "audio")}
    for words in ("15 clips", "very few", "Confusion matrix", "picture alone", "Labels to look at", "threshold"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")  # it needs no other file


def test_the_run_is_like_any_other(learned: Path):
    run = RunFolder.load(learned)
    assert run.recipe.name == "mean-linear"
    assert run.reliability is not None
    assert run.references is not None
    assert len(run.references) == 15
    assert run.trained_on is not None


def test_learning_again_extracts_what_is_new(films: Path, learned: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    more, out = tmp_path / "videos", tmp_path / "run"
    shutil.copytree(films, more)
    shutil.copytree(learned, out)
    render(more, CATEGORIES_USED[:1], range(5, 7))
    copy = more / CATEGORIES_USED[0].replace(":", "/")
    shutil.copy(copy / "0.mp4", copy / "again.mp4")
    assert main(["learn", str(more), "--out", str(out), "--json"]) == 0
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert found["clips"] == 18
    prefix = CATEGORIES_USED[0].replace(":", "/")
    assert any(f"copies of one film, kept in one fold: {prefix}/0.mp4, {prefix}/again.mp4" in n for n in found["notes"])
    assert len(list((out / "shards").glob("*.tfrecord"))) == 2
    with np.load(out / "trained-on.npz") as stored:
        assert len(stored["ids"]) == 18


def test_two_categories_of_six_run_with_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture):
    videos = render(tmp_path / "videos", CATEGORIES_USED[:2], range(6))
    assert main(["learn", str(videos), "--out", str(tmp_path / "run")]) == 0
    assert "12 clips are very few" in capfd.readouterr().err


def test_one_category_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture):
    place = tmp_path / "videos" / "Rain"
    place.mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        (place / name).write_bytes(b"x")
    assert main(["learn", str(tmp_path / "videos"), "--out", str(tmp_path / "run")]) == 1
    assert capfd.readouterr().err == (
        f"counterpoint: {tmp_path}/videos: all 2 films are in Rain; a model learns to tell categories apart, so give "
        "it films of two categories or more\n"
    )
    assert not (tmp_path / "run").exists()


def test_one_film_in_a_category_is_one_sentence(tmp_path: Path):
    labels = np.array([[True, False, False]] * 3 + [[False, True, False]] + [[False, False, True]])
    with pytest.raises(Error, match="videos: one film alone is in Soup, Bread; a category needs two or more"):
        check_films(labels, ("Rain", "Soup", "Bread"), "videos")


def test_no_folders_and_no_labels(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(Error, match=r"no video lies in a folder of its category: .*--labels"):
        learn(tmp_path, tmp_path / "run")


def test_another_run_is_not_overwritten(films: Path, tmp_path: Path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(Error, match="holds a run that `counterpoint learn` did not make; choose another --out"):
        learn(films, tmp_path)


def test_from_python(films: Path, learned: Path, tmp_path: Path):
    """The figures are the command's, and the run answers."""
    import counterpoint as cp

    shutil.copytree(learned, tmp_path / "run")
    found = cp.learn(films, out=tmp_path / "run")
    assert found.extraction.new == 0
    assert json.loads(json.dumps(found.result.to_dict())) == json.loads((learned / "learning.json").read_text())
    (answer,) = found.run.categorize(next(films.rglob("*.mp4")))
    assert answer.predicted


@pytest.mark.slow
def test_attention_is_taken_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On clips whose modalities confirm each other in one topic alone; an interrupted network goes on."""
    for split, count in (("train", 150), ("validation", 2), ("test", 2)):
        monkeypatch.setitem(synthetic.CLIPS, split, count)
    data = synthetic.SyntheticData(
        topics=12, min_steps=10, max_steps=12, distractors=1, sizes={"video": 32, "audio": 32}, unrelated=0.0
    )
    synthetic.write(data, tmp_path / "shards")
    clips = Dataset(tmp_path / "shards")
    named = [Source(clips.clip(i).id, tmp_path / "nowhere.mp4") for i in range(len(clips))]
    (tmp_path / "learning").mkdir()
    lines: list[str] = []
    learned = learn_module._learned(tmp_path, named, Report(), lines.append)
    tried = {each[0]: each[1] for each in learned.result.tried}
    assert set(tried) == {"mean-linear", "mean-mlp", "nv-cm"}
    assert learned.run.recipe.name == learned.result.recipe
    assert tried[learned.result.recipe] <= tried["mean-linear"]
    assert learned.run.trained
    assert any("154 clips suffice for cross-modal attention" in line for line in lines)
    kept = sorted((tmp_path / "learning").glob("*/nv-cm-*.npz"))
    assert len(kept) == learned.result.folds
    before = [path.stat().st_mtime_ns for path in kept]
    again = learn_module._learned(tmp_path, named, Report(), lines.append)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert again.result.to_dict() == learned.result.to_dict()


def test_chance_is_called_chance(learned: Path, tmp_path: Path):
    """Labels that say nothing about the films: the report and the terminal warn, whatever was chosen."""
    found = json.loads((learned / "learning.json").read_text())
    assert found["usual"]["value"] == pytest.approx(2 / 3)
    assert not found["warnings"]
    shutil.copytree(learned / "shards", tmp_path / "shards")
    (tmp_path / "learning").mkdir()
    shard = next((tmp_path / "shards").glob("*.tfrecord"))
    clips = Dataset(shard)
    shuffled = [replace(clips.clip(i), labels=clips.clip((i * 7 + 3) % len(clips)).labels) for i in range(len(clips))]
    with Writer(shard) as writer:
        for clip in shuffled:
            writer.write(encode(clip))
    named = [Source(clip.id, tmp_path / "nowhere.mp4") for clip in shuffled]
    result = learn_module._learned(tmp_path, named, Report(), lambda text: None).result
    assert len(result.warnings) == 1
    assert "may be no better than always answering" in result.warnings[0]
    assert "its answers are no facts" in (tmp_path / "report.html").read_text()


def test_copies_of_one_film_are_one_film(learned: Path, tmp_path: Path):
    shutil.copytree(learned / "shards", tmp_path / "shards")
    (tmp_path / "learning").mkdir()
    shard = next((tmp_path / "shards").glob("*.tfrecord"))
    clips = Dataset(shard)
    label = clips.clip(0).labels
    others = [clip for clip in map(clips.clip, range(len(clips))) if clip.labels.tolist() != label.tolist()]
    kept = [clips.clip(0), replace(clips.clip(0), id="copy.mp4"), *others]
    with Writer(shard) as writer:
        for clip in kept:
            writer.write(encode(clip))
    named = [Source(clip.id, tmp_path / "nowhere.mp4") for clip in kept]
    with pytest.raises(Error, match="one film alone is in"):
        learn_module._learned(tmp_path, named, Report(), lambda text: None)
