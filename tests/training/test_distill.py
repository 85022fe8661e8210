import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from counterpoint.cli.main import main
from counterpoint.errors import Error
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Label, Labelling, LabelMap, Taxonomy
from counterpoint.training import checkpoints
from counterpoint.training import distill as ensemble
from counterpoint.training.distill import ENSEMBLE_FILE, TEACHER_FILE, DistillationDataset, average, distil
from counterpoint.training.train import train
from training.world import LABELLING, TAXONOMY, clips, dataset, run, write

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return write(folder / "train.tfrecord", *clips(80)), write(folder / "validation.tfrecord", *clips(30, 1, "v"))


@pytest.fixture(scope="module")
def runs(shards: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    made = [run(tmp_path_factory.mktemp("runs") / f"{seed}", seed=seed, max_epochs=2) for seed in range(2)]
    for one in made:
        train(one, dataset(shards[0]), dataset(shards[1]), console=CONSOLE)
    return made


def test_targets_lie_between_labels_and_teacher(shards: tuple[Path, Path]) -> None:
    data = dataset(shards[0])
    teacher = np.full((len(data), len(TAXONOMY)), 0.5, np.float16)
    labels = data[3][1]
    clip, targets = DistillationDataset(data, teacher, 0.25)[3]
    assert clip.id == data[3][0].id
    np.testing.assert_allclose(targets, 0.125 + 0.75 * labels)
    assert len(DistillationDataset(data, teacher, 0.25)) == len(data)


def test_average(shards: tuple[Path, Path], runs: list[RunFolder]) -> None:
    data = dataset(shards[1])
    single = [np.concatenate([part.probabilities for part in Predictor(one).predict(data)]) for one in runs]
    both = np.concatenate([part.probabilities for part in average(runs, data)])
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-7)
    other = Taxonomy(TAXONOMY.categories[:1])
    stranger = replace(runs[1], labelling=Labelling(other, LabelMap((Label(1, "", 0, ("food",)),), other)))
    with pytest.raises(Error, match="another taxonomy"):
        next(average([runs[0], stranger], data))


def test_distilled_run_is_one_like_any_other_and_goes_on_after_a_kill(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "one"

    def killed(*arguments: object, **more: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            distil(runs, out, dataset(shards[0]), dataset(shards[1]), console=CONSOLE)
    assert (out / TEACHER_FILE).exists()
    for others, share in ((runs[:1], 0.5), (runs, 0.9)):
        with pytest.raises(Error, match="a distillation of other runs, or with another share"):
            distil(others, out, dataset(shards[0]), dataset(shards[1]), share=share, console=CONSOLE)
    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "write_probabilities", lambda *_: pytest.fail("they are written already"))
        result = distil(runs, out, dataset(shards[0]), dataset(shards[1]), console=CONSOLE)
    assert result.run.trained
    assert not (out / TEACHER_FILE).exists()
    assert RunFolder.load(out).recipe == runs[0].recipe
    stored = json.loads((out / ENSEMBLE_FILE).read_text())
    assert stored["of"] == [str(one.folder) for one in runs]
    assert stored["teacher"]["overall"]["gap"] == result.teacher.overall.gap
    with pytest.raises(Error, match="holds a finished run"):
        distil(runs, out, dataset(shards[0]), dataset(shards[1]), console=CONSOLE)


def test_goes_on_though_it_was_killed_before_it_wrote_of_whom(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / "one", [dataset(shard) for shard in shards]

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            distil(runs, out, *data, console=CONSOLE)
    assert out.exists()
    assert distil(runs, out, *data, console=CONSOLE).run.trained


def test_goes_on_from_an_interrupted_distillation_of_version_0_1(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / "one", [dataset(shard) for shard in shards]

    def killed(*arguments: object, **options: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            distil(runs, out, *data)
    (out / "distillation.json").rename(out / "lesson.json")
    with pytest.raises(Error, match="a distillation of other runs, or with another share"):
        distil(runs, out, *data, share=0.9)
    assert distil(runs, out, *data).run.trained
    assert not any((out / name).exists() for name in ("lesson.json", "distillation.json"))


def test_an_ensemble_counts_from_nothing_to_all(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path
) -> None:
    for share in (-0.1, 1.1):
        with pytest.raises(Error, match=r"from 0 to 1 \(--share\)"):
            distil(runs, tmp_path / "one", *(dataset(shard) for shard in shards), share=share, console=CONSOLE)
    assert not (tmp_path / "one").exists()


def test_nothing_is_left_of_a_call_that_cannot_be(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path
) -> None:
    data, out = [dataset(shard) for shard in shards], tmp_path / "one"
    unfinished = replace(runs[1], folder=tmp_path / "unfinished")
    unfinished.save()
    for members, seed, problem in (
        ([runs[0], unfinished], 0, "unfinished: training has not ended"),
        (runs, -1, "training.seed must be at least 0"),
    ):
        with pytest.raises(Error, match=problem):
            distil(members, out, *data, seed=seed, console=CONSOLE)
        assert not out.exists()


def test_the_ensembles_probabilities_outlive_the_students_error(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = [dataset(shard) for shard in shards], tmp_path / "one"

    def full(*arguments: object, **more: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Files, "save_checkpoint", full)
        with pytest.raises(OSError, match="no space left"):
            distil(runs, out, *data, console=CONSOLE)
    assert (out / TEACHER_FILE).exists()
    assert distil(runs, out, *data, console=CONSOLE).run.trained


def test_no_student_takes_a_runs_place(shards: tuple[Path, Path], runs: list[RunFolder]) -> None:
    with pytest.raises(Error, match="holds a finished run"):
        distil(runs, runs[1].folder, dataset(shards[0]), dataset(shards[1]), console=CONSOLE)
    assert not (runs[1].folder / ENSEMBLE_FILE).exists()


def test_on_the_command_line(
    shards: tuple[Path, Path], runs: list[RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(shards[0]), "--validation", str(shards[1])]
    folders = [str(one.folder) for one in runs]
    assert main(["ensemble", *folders, *data, "--out", str(tmp_path / "one"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"run", "ensemble", "distilled"}
    assert main(["evaluate", str(tmp_path / "one"), "--data", str(shards[1])]) == 0
    assert main(["ensemble", folders[0], str(tmp_path), *data, "--out", str(tmp_path / "two")]) == 1
    assert "not a run folder" in capsys.readouterr().err
    assert RunFolder.load(tmp_path / "one").labelling == LABELLING
