"""The library's interface, as `import counterpoint as cp` offers it."""

import inspect
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serve.conftest import SIZES, make_run
from training import world

import counterpoint as cp
from counterpoint.data.dataset import Dataset
from counterpoint.data.records import dequantize
from counterpoint.media import encoders
from counterpoint.media import films as render
from counterpoint.media.extract import extract
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.predict import Predictor

NAMES = {
    *("load", "categorize", "train", "evaluate", "explain", "extract", "recommend", "ensemble", "learn"),
    *("Dataset", "Taxonomy", "Recipe", "RECIPES", "Run", "Client", "Error"),
}
EXAMPLES = Path(__file__).parents[1] / "examples"


def in_child(code: str) -> float:
    """Run Python code in a child; its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of films, two films, and a shard of the same two."""
    folder = tmp_path_factory.mktemp("face")
    make_run(folder / "films", encoders.build("lite").features)
    for seed, (name, category) in enumerate((("holiday.mp4", "Rain:Wind"), ("party.mp4", "Balls:Music"))):
        render.film(folder / name, category, seed, seconds=3, size=(160, 90), fps=5)
    extract([folder / "holiday.mp4", folder / "party.mp4"], folder / "shards", workers=2)
    (shard,) = (folder / "shards").glob("*.tfrecord")
    shard.rename(folder / "clips.tfrecord")
    (folder / "shards" / "features.json").rename(folder / "features.json")
    return folder


def test_offers_these_names_documented() -> None:
    assert set(cp.__all__) == NAMES
    for name in NAMES - {"RECIPES"}:
        documented = inspect.getdoc(getattr(cp, name)) or ""
        assert len(documented.splitlines()) > 3 or name == "Error", name
        if inspect.isfunction(getattr(cp, name)):
            assert "Raises:" in documented or name == "categorize", name
            assert "Example" in documented, name


def test_a_name_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"it offers .*categorize"):
        cp.categorise  # noqa: B018


def test_importing_is_quick_and_lazy() -> None:
    in_child("import counterpoint")  # compiled
    bare = min(in_child("pass") for _ in range(3))
    assert min(in_child("import counterpoint") for _ in range(3)) - bare < 0.1
    in_child("import counterpoint, sys; assert not {'torch', 'numpy', 'rich'} & set(sys.modules)")
    in_child("from counterpoint import Client; import sys; assert not {'torch', 'fastapi'} & set(sys.modules)")


def test_the_names_stay_functions_whatever_is_imported() -> None:
    in_child(
        "import counterpoint as cp, importlib, pkgutil\n"
        "import counterpoint.api\n"
        "for name in ('load', 'categorize', 'train', 'evaluate', 'explain', 'extract', 'recommend', 'ensemble'):\n"
        "    assert callable(getattr(cp, name)), name\n"
    )


def test_films_and_shards_in_the_order_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = cp.load("films")
    answers = run.categorize(["holiday.mp4", "clips.tfrecord", Path("party.mp4")])
    assert [answer.id for answer in answers] == ["holiday.mp4", "holiday.mp4", "party.mp4", "party.mp4"]
    for film, record in ((0, 1), (3, 2)):
        np.testing.assert_allclose(answers[film].probabilities, answers[record].probabilities, atol=1e-6)
    (expected, _) = next(
        Predictor(run).predict(Dataset(["clips.tfrecord"], run.labelling, labelled=False))
    ).probabilities
    np.testing.assert_allclose(answers[0].probabilities, expected, atol=1e-6)
    best = answers[0].top(3)
    assert len(best) == 3
    assert best[0].probability == answers[0].probabilities.max()
    assert list(answers[0].correlation) == ["audio and video"]
    (same,) = cp.categorize("films", "holiday.mp4")
    np.testing.assert_allclose(same.probabilities, answers[0].probabilities, atol=1e-6)


def test_explains_an_answer_as_arrays(folder: Path) -> None:
    run = cp.load(folder / "films")
    answer, other = run.categorize([folder / "holiday.mp4", folder / "party.mp4"])
    explanation = run.explain(answer, other, top=2)
    assert explanation.clip == "holiday.mp4"
    assert [category for category, _ in explanation.categories] == [path for path, _ in answer.top(2)]
    assert set(explanation.changes) == {
        *("without audio", "without video", "audio of party.mp4", "video of party.mp4"),
    }
    assert explanation.timelines["video"].after.shape == (4, 3)
    assert len(explanation.per_second["audio and video"]) == 3
    assert cp.explain(run, folder / "holiday.mp4", top=2).changes["without audio"] == pytest.approx(
        explanation.changes["without audio"], abs=1e-6
    )


def test_arrays_of_codes_and_floats(tmp_path: Path) -> None:
    make_run(tmp_path / "run", world.FeatureSet(SIZES, "synthetic"))
    run = cp.load(tmp_path / "run")
    random = np.random.default_rng(0)
    codes = {name: random.integers(1, 256, (4, size), np.uint8) for name, size in SIZES.items()}
    floats = {name: dequantize(track).astype(np.float64) for name, track in codes.items()}
    as_codes, as_floats, silent = run.categorize([codes, {**floats, "id": "mine"}, {"video": codes["video"]}])
    assert (as_codes.id, as_floats.id, silent.id) == ("0", "mine", "2")
    np.testing.assert_allclose(as_codes.probabilities, as_floats.probabilities, atol=1e-6)
    assert silent.correlation == {"audio and video": 0.0}
    np.testing.assert_allclose(run.categorize(codes)[0].probabilities, as_codes.probabilities, atol=1e-6)
    for bad, message in (
        ({"video": codes["audio"]}, r"source 0, 'video': an array \(step, 16\) is needed, not of shape \(4, 8\)"),
        ({"text": codes["audio"]}, "source 0, 'text': the model has no such modality; it reads audio, video"),
        ({"video": codes["video"].astype(int)}, "8-bit codes .uint8. or floats are needed, not int64"),
        ({"video": np.full((2, 16), np.nan)}, "holds values that are not finite"),
        ({}, "source 0: no features"),
    ):
        with pytest.raises(cp.Error, match=message):
            run.categorize([bad])


def test_twenty_films_take_one_pass_of_the_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = []
    for number in range(20):
        films.append(tmp_path / f"{number:02}.mp4")
        films[-1].write_bytes((folder / "holiday.mp4").read_bytes())
    passes = {Categorizer: 0, Tower: 0}
    for kind in passes:
        forward = kind.forward

        def counted(
            self: object, *args: object, kind: type = kind, forward: object = forward, **named: object
        ) -> object:
            passes[kind] += 1
            return forward(self, *args, **named)  # type: ignore[operator]

        monkeypatch.setattr(kind, "forward", counted)
    parsed = []
    from counterpoint.data import records

    parse = records.parse
    monkeypatch.setattr(records, "parse", lambda record: parsed.append(1) or parse(record))
    answers = cp.load(folder / "films").categorize(films, workers=2)
    assert [answer.id for answer in answers] == [film.name for film in films]
    assert passes == {Categorizer: 1, Tower: 1}
    assert len(parsed) <= 20


def test_a_film_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film" * 100)
    run = cp.load(folder / "films")
    with pytest.raises(cp.Error, match=r"broken\.mp4: "):
        run.categorize([broken])
    failures: list[tuple[str, str]] = []
    (answer,) = run.categorize([broken, folder / "party.mp4"], on_failure=lambda *failure: failures.append(failure))
    assert answer.id == "party.mp4"
    assert [film for film, _ in failures] == [str(broken)]
    with pytest.raises(cp.Error, match="no such file"):
        run.categorize([tmp_path / "missing.mp4"])


def test_trains_and_evaluates(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("train0", 60), ("test0", 20)):
        world.write(tmp_path / "data" / f"{name}.tfrecord", *world.clips(count, len(name), name))
    world.LABELLING.save(tmp_path / "data" / "taxonomy")
    small = {
        "family.clusters": {"video": 2, "audio": 2},
        "family.hidden": 8,
        "head.hidden": 8,
        "training.max_epochs": 1,
    }
    recipe = cp.RECIPES["nv-cm"].with_(max_steps=120).with_(small)
    assert isinstance(recipe, cp.Recipe)
    run = cp.train(recipe, cp.Dataset("data/train*.tfrecord"), out="runs/x")
    table = cp.evaluate(run, cp.Dataset("data/test*.tfrecord")).table()
    assert "GAP" in str(table)
    assert "GAP" in table.markdown()
    assert cp.load("runs/x").recipe.max_steps == 120
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")  # silent without a console
    with pytest.raises(cp.Error, match="holds"):
        cp.train(recipe.with_(max_steps=60), cp.Dataset("data/train*.tfrecord"), out="runs/x")
    with pytest.raises(cp.Error, match="needs a trained correlation tower"):
        cp.train("nv-cm-g", "data/train*.tfrecord", out="runs/y")
    with pytest.raises(cp.Error, match="did you mean"):
        cp.train("nv-cn", "data/train*.tfrecord", out="runs/y")


def test_quickstart_runs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clip = world.clip("one", [3], video=random.integers(0, 256, (1, 1024), np.uint8), audio=np.ones((1, 128), np.uint8))
    world.write(tmp_path / "clips.tfrecord", clip)
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "quickstart.py", tmp_path / "clips.tfrecord"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.search(r"^one \[Category\(path='", ran.stdout)
    assert re.search(r"^without video: [+-]\d\.\d{3} for ", ran.stdout, re.MULTILINE)


def test_the_examples_of_films_and_training_run(folder: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "films.py", folder / "films", folder / "holiday.mp4"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "audio and video by second: [0." in ran.stdout
