import csv
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from models.small import MODELS, family_of, small_tower, stir
from training.world import LABELLING, SIZES, clips, trained_run, write

from counterpoint import exporting
from counterpoint.cli.main import main
from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.exporting import export_answers, export_model, read_answers
from counterpoint.predict import Predictor
from counterpoint.reliability import Reliability
from counterpoint.run import RunFolder, write_json

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
with_onnx = pytest.mark.skipif(not ONNX, reason="needs the extra `export` (make test-export)")
DOCS = Path(__file__).parents[1] / "docs" / "exporting.md"


@pytest.fixture(autouse=True, scope="module")
def _without_checks_of_shapes() -> Iterator[None]:
    """While PyTorch reads a model, sizes are symbols, which the tests' checks of shapes do not know."""
    was = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", was)


def made(folder: Path, name: str, calibrated: bool = True) -> RunFolder:
    """A small run of a recipe, with weights that are drawn; its tower too."""
    recipe = MODELS[name][0]
    run = RunFolder(folder, recipe, LABELLING, FeatureSet(SIZES))
    run.save()
    torch.manual_seed(1)
    if recipe.needs_tower:
        tower_recipe = small_tower(f"correlation-{family_of(name)}")
        tower = RunFolder(folder / "other", tower_recipe, LABELLING, run.features)
        tower.save()
        tower_model = tower.build()
        stir(tower_model)
        tower.save_weights(tower_model)
        run.take_in(tower)
    model = run.build()
    stir(model.trunk)
    stir(model.head)  # type: ignore[arg-type]
    run.save_weights(model)
    if calibrated:
        reliability = Reliability(2.5, (0.5, 2.0, -1.0, 0.0, 1.5), (0.5, 0.4, 0.3, 0.5, 0.6), 1.0, 1.0, 20)
        run.save_reliability(reliability, np.zeros((1, model.head.network[-1].in_features), np.float32))  # type: ignore[union-attr]
    return run


def some_clips() -> list[Clip]:
    """Clips of 2 to 5 steps; one without sound, one without picture, one without anything."""
    shown = [Clip(c.id, c.labels, {n: t[:5] for n, t in c.tracks.items()}) for c in clips(6, seed=3)]
    for number, lacks in ((1, {"audio"}), (2, {"video"}), (3, {"audio", "video"})):
        kept = {name: track for name, track in shown[number].tracks.items() if name not in lacks}
        shown[number] = Clip(shown[number].id, shown[number].labels, kept)
    return shown


def padded(shown: list[Clip]) -> dict[str, np.ndarray[Any, Any]]:
    """The clips as arrays: codes 0 to 255 are values of a range of 4, at the middle of their 256 parts."""
    steps = max(clip.steps for clip in shown) + 1
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, size in SIZES.items():
        arrays[name] = np.full((len(shown), steps, size), 9.0, np.float32)
        arrays[f"{name}_mask"] = np.zeros((len(shown), steps), bool)
        for row, clip in enumerate(shown):
            if name in clip.tracks:
                track = clip.tracks[name]
                arrays[name][row, : len(track)] = track * (4 / 255) + (2 / 256 - 2)
                arrays[f"{name}_mask"][row, : len(track)] = True
    return arrays


def pt2(path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    module = torch.export.load(path).module()

    def answer(arrays: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            found = module({name: torch.from_numpy(array) for name, array in arrays.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    return answer


def check(run: RunFolder, answer: Callable[[dict[str, Any]], dict[str, Any]], tower: bool) -> None:
    shown = some_clips()
    for part in (shown, shown[:1], shown[1:2], shown[2:5]):
        arrays = padded(part)
        if arrays["video"].shape[1] > 5:
            arrays = {name: array[:, :5] for name, array in arrays.items()}
        found, predictions = answer(arrays), Predictor(run).predict_clips(part)
        expected = np.stack([one.probabilities for one in predictions])
        np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-5)
        if tower:
            pairs = np.array([one.correlation["audio and video"] for one in predictions])
            np.testing.assert_allclose(found["correlation_audio_video"], pairs, rtol=0, atol=1e-5)
        assert set(found) == {"probabilities", *(["correlation_audio_video"] if tower else [])}
        food, dessert, soup, sport, ball = found["probabilities"].T
        assert (dessert <= food).all()
        assert (soup <= food).all()
        assert (ball <= sport).all()


MORE = (
    "nv-e",
    "nv-cm-c",
    "tm-l",
    "tm-cm-g",
    "rnn-cm",
    "rnn-cm-g",
    "rnn-cm gru",
    "mean-residual",
    "tm-mbt",
    "tm-cm-c reach deep",
    "nv-e averaged",
)


@pytest.mark.parametrize(
    "name", ["tm-cm", "rnn-l", "mean-mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_a_pt2_file_answers_as_the_library_does(tmp_path: Path, name: str) -> None:
    run = made(tmp_path / "run", name)
    exported = export_model(run, tmp_path / "model.pt2", "pt2")
    assert exported.clips == 1 + 6 + 6 + 1
    assert exported.difference <= 1e-5
    assert exported.inputs == ("audio", "audio_mask", "video", "video_mask")
    check(run, pt2(tmp_path / "model.pt2"), run.recipe.needs_tower)


@with_onnx
@pytest.mark.parametrize(
    "name", ["tm-cm", "rnn-l", "mean-mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_an_onnx_file_answers_as_the_library_does(tmp_path: Path, name: str) -> None:
    import onnxruntime

    run = made(tmp_path / "run", name)
    assert export_model(run, tmp_path / "model.onnx", "onnx").difference <= 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    assert session.get_inputs()[0].shape == ["batch", "step", 8]
    check(run, lambda arrays: dict(zip(names, session.run(None, arrays), strict=True)), run.recipe.needs_tower)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["categories"]) == ["Food", "Food:Dessert", "Food:Soup", "Sport", "Sport:Ball"]
    assert json.loads(about["thresholds"]) == [0.5, 0.4, 0.3, 0.5, 0.6]
    assert about["features_fingerprint"] == run.features.fingerprint
    assert json.loads(about["recipe"])["name"] == run.recipe.name


@with_onnx
def test_the_example_of_the_docs_runs(tmp_path: Path) -> None:
    export_model(made(tmp_path / "run", "nv-l"), tmp_path / "model.onnx", "onnx")
    example = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0]
    assert len(example.strip().splitlines()) <= 15
    ended = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    first, second = [line.split() for line in ended.stdout.splitlines()]
    assert {first[0], second[0]} <= set(LABELLING.taxonomy.paths)
    assert 1 >= float(first[1]) >= float(second[1]) >= 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return made(tmp_path_factory.mktemp("run"), "nv-cm-g")


@pytest.fixture(scope="module")
def exported(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose tower is no better than chance."""
    write_json(run.folder / "tower" / "auc.json", {"auc": 0.52, "low": 0.45, "high": 0.6, "pairs": 90})
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    assert main(["export", str(run.folder), "--out", str(path), "--format", "pt2"]) == 0
    return path


def test_a_chance_towers_verdict_is_no_output(run: RunFolder, exported: Path) -> None:
    check(run, pt2(exported), tower=False)


def test_a_pt2_file_needs_pytorch_alone_and_says_what_it_holds(run: RunFolder, exported: Path) -> None:
    script = f"""
import sys, json, torch
files = {{"categories": "", "run_fingerprint": "", "codes": ""}}
module = torch.export.load({str(exported)!r}, extra_files=files).module()
ones = torch.ones(2, 3, dtype=torch.bool)
given = {{"audio": torch.zeros(2, 3, 8), "audio_mask": ones, "video": torch.zeros(2, 3, 16), "video_mask": ones}}
assert "counterpoint" not in sys.modules
print(json.dumps([list(module(given)["probabilities"].shape), files]))
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    shape, files = json.loads(ended.stdout)
    assert shape == [2, 5]
    assert json.loads(files["categories"]) == list(LABELLING.taxonomy.paths)
    assert files["run_fingerprint"] == run.fingerprint
    assert json.loads(files["codes"])["offset"] == pytest.approx(2 / 256 - 2)


def test_a_file_that_answers_otherwise_is_not_kept(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "CODE_OFFSET", 0.0)  # what an error between codes and features would do
    with pytest.raises(Error, match=r"as pt2 the model's answers differ from the library's by .* nothing was written"):
        export_model(run, tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_exported_say_why(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Error, match="names no categories, so there is no categorizer"):
        export_model(RunFolder.load(run.folder / "tower"), tmp_path / "tower.pt2", "pt2")
    with pytest.raises(Error, match=r"deprecated TorchScript.*--format pt2"):
        export_model(run, tmp_path / "model.ts", "torchscript")
    (tmp_path / "mine.pt2").write_text("something else")
    with pytest.raises(Error, match="is not a file of this command"):
        export_model(run, tmp_path / "mine.pt2", "pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt2"]


@pytest.mark.skipif(ONNX, reason="the extra is installed")
def test_onnx_without_its_extra_names_it(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"needs an extra .*pip install 'counterpoint\[export\]'"):
        export_model(run, tmp_path / "model.onnx", "onnx")


# --- answers ----------------------------------------------------------------------------------------------------------

ANSWERS: list[dict[str, Any]] = [
    {
        "id": "food/a.mp4",
        "categories": [{"path": "Food", "probability": 0.9}, {"path": "Food:Soup", "probability": 0.625}],
        "unsure": False,
        "unlike": False,
        "correlation": {"audio and video": 0.75},
    },
    {
        "id": 'b, "c".mp4',
        "categories": [{"path": "Sport", "probability": 0.25}, {"path": "Food", "probability": 0.125}],
        "unsure": True,
        "unlike": True,
        "correlation": {"audio and video": 0.5},
    },
]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in ANSWERS))
    return path


def test_answers_for_label_studio(answers: Path, tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    command = ["export", str(answers), "--out", str(out), "--format", "label-studio", "--media", "https://x.org/v/"]
    assert main(command) == 0
    first, second = json.loads(out.read_text())
    assert first["data"]["video"] == "https://x.org/v/food/a.mp4"
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.9
    (result,) = prediction["result"]
    assert (result["from_name"], result["to_name"], result["type"]) == ("category", "video", "choices")
    assert result["value"]["choices"] == ["Food", "Food:Soup"]
    assert second["predictions"][0]["result"] == []  # it is unsure
    assert export_answers(answers, out, "label-studio", above=0.7) == 2
    assert json.loads(out.read_text())[0]["predictions"][0]["result"][0]["value"]["choices"] == ["Food"]


def test_answers_for_fiftyone(answers: Path, tmp_path: Path) -> None:
    assert export_answers(answers, tmp_path / "samples.json", "fiftyone", media="videos") == 2
    stored = json.loads((tmp_path / "samples.json").read_text())
    first, second = stored["samples"]
    assert stored["media_type"] == first["_media_type"] == "video"
    assert stored["sample_fields"] == {  # FiftyOne takes no field that is not declared
        "predictions": "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Classifications)",
        "unsure": "fiftyone.core.fields.BooleanField",
        "unlike": "fiftyone.core.fields.BooleanField",
        "correlation_audio_and_video": "fiftyone.core.fields.FloatField",
    }
    assert first["filepath"] == "videos/food/a.mp4"
    labels = first["predictions"]["classifications"]
    assert first["predictions"]["_cls"] == "Classifications"
    assert [(one["_cls"], one["label"], one["confidence"]) for one in labels] == [
        ("Classification", "Food", 0.9),
        ("Classification", "Food:Soup", 0.625),
    ]
    assert (first["tags"], second["tags"]) == ([], ["unsure", "unlike"])
    assert first["correlation_audio_and_video"] == 0.75


def test_answers_go_through_csv_unchanged(answers: Path, tmp_path: Path) -> None:
    assert export_answers(answers, tmp_path / "table.csv", "csv") == 2
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["path"], row["unsure"]) for row in rows[1:3]] == [
        ("2", "Food:Soup", "False"),
        ("1", "Sport", "True"),
    ]
    assert read_answers(tmp_path / "table.csv") == ANSWERS


def test_what_categorize_writes_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, shard = trained_run(tmp_path / "run"), write(tmp_path / "data" / "0.tfrecord", *clips(3))
    for name in ("a.jsonl", "a.csv"):
        assert main(["categorize", str(run.folder), str(shard), "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    assert main(["categorize", str(run.folder), str(shard), "--json"]) == 0
    (tmp_path / "a.json").write_text(capsys.readouterr().out)
    lines, table, printed = (read_answers(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.json"))
    assert [one["id"] for one in lines] == [one["id"] for one in table] == [one["id"] for one in printed]
    for one, other in zip(lines, table, strict=True):
        assert one["categories"] == other["categories"]


def test_a_wrong_pair_of_input_and_format_is_one_clear_line(
    run: RunFolder, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    for command, message in (
        ([str(answers), "--format", "pt2"], "pt2 is a format of models; name a run, or use --format csv"),
        ([str(run.folder), "--format", "csv"], "counterpoint categorize"),
        ([str(tmp_path / "no.jsonl"), "--format", "csv"], "no such file; `counterpoint categorize RUN VIDEOS"),
        (["nothing", "--format", "pt2"], "nothing"),
    ):
        assert main(["export", *command, "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    for text in ("{}", '{"id": "a"}', "no JSON", '{"id": "a", "categories": [{"path": "A", "probability": 7}]}'):
        answers.write_text(text)
        with pytest.raises(Error, match="not answers of `counterpoint categorize`"):
            export_answers(answers, out, "csv")
    assert not out.exists()
