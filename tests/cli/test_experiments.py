"""`counterpoint reproduce` on a data set so small that a suite takes seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from counterpoint import __version__, experiments
from counterpoint.cli.main import main
from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.experiments import jobs, report
from counterpoint.experiments.engine import Log
from counterpoint.experiments.predictions import Truth, draw_runs, probabilities
from counterpoint.experiments.suites import KNOWN_TRUTH, SUITES
from counterpoint.run import RunFolder, environment
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy
from counterpoint.training import train as training

TINY = [
    *("--families", "nv", "--datasets", "unrelated-0.25-shift-0", "--epochs", "1", "--tower-epochs", "1"),
    *("--clips", '{"train": 24, "validation": 12, "test": 16}', "--resamples", "20", "--test-runs", "2"),
]
ALL = ["--models", "l", "cm", "cm-g", "cm-c", "ensemble", "distilled", "--seeds", "2", "--control-seeds", "1"]


def reproduce(out: Path, *arguments: str) -> int:
    return main(["reproduce", "synthetic", "--out", str(out), *TINY, *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment, interrupted once on the way."""
    out = tmp_path_factory.mktemp("suite") / "out"
    patch = pytest.MonkeyPatch()
    fit, trained = jobs.Jobs._fit, []

    def interrupted(self: jobs.Jobs, *arguments: object) -> object:
        trained.append(arguments)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fit(self, *arguments)  # type: ignore[arg-type]

    patch.setattr(jobs.Jobs, "_fit", interrupted)
    assert reproduce(out, *ALL, "--negative-weights", "2") == 130
    patch.undo()
    assert reproduce(out, *ALL, "--negative-weights", "2") == 0
    return out


def test_every_job_is_done_once(finished: Path) -> None:
    names = [line["job"] for line in Log(finished).lines()]
    assert len(names) == len(set(names))
    dataset = "unrelated-0.25-shift-0"
    assert {f"train {dataset} nv-{name} seed {seed}" for name in ("l", "cm", "cm-c") for seed in (0, 1)} <= set(names)
    assert f"train {dataset} nv-distilled seed 0" in names
    assert f"evaluate {dataset} nv-ensemble seed 0" in names
    assert f"train {dataset} nv-distilled seed 1" not in names


def test_the_report_shows_what_was_measured(finished: Path) -> None:
    numbers = json.loads((finished / "report.json").read_text())
    gaps = {
        name: [1 - run["overall"]["gap"] for one in numbers["test_runs"] if one["model"] == name for run in one["runs"]]
        for name in ("l", "cm-c")
    }
    assert len(gaps["l"]) == 4  # two seeds, two test runs
    text = (finished / "report.md").read_text()
    for errors in gaps.values():
        assert f"{100 * np.mean(errors):.2f}" in text
    gain = next(
        gain
        for gain in numbers["gains"]
        if (gain["model"], gain["over"], gain["metric"], gain["group"]) == ("cm-c", "l", "gap", "all")
    )
    assert gain["percent"] == pytest.approx(100 * (1 - np.mean(gaps["cm-c"]) / np.mean(gaps["l"])))
    assert gain["low"] <= gain["high"]
    assert "too few to draw 2 samples of 128,000" in text
    for part in ("as the paper's Table 8", "as the paper's Table 9", "Tables 1 to 3", "Fig. 1", "Fig. 8", "Fig. 9"):
        assert part in text
    page = (finished / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#|https://data\.yt8m)', page)
    assert Path(sys.argv[0]).name in page  # the command


def test_the_report_separates_related_from_unrelated_sound(finished: Path) -> None:
    """As the data set itself and the scores that were kept have it, over seeds and test runs."""
    dataset, errors = "unrelated-0.25-shift-0", []
    drawn, _ = draw_runs(16, 2, 128_000)
    for seed in (0, 1):
        related = np.array([KNOWN_TRUTH[0].generator(seed).clip(i, "test")[1].related for i in range(16)])
        labels = Truth.load(finished / "worlds" / f"{dataset}-seed-{seed}" / "test.npz").labels
        scores = probabilities(finished / "runs" / dataset / f"nv-l-seed-{seed}" / "evaluation" / "scores.npy")
        for clips in (clips[related[clips]] for clips in drawn):
            assert 0 < len(clips) < 16
            errors.append(100 * (1 - global_average_precision(scores[clips], labels[clips], top=20)))
    text = (finished / "report.md").read_text()
    part = text[text.index("where sound and picture belong together") :]
    row = next(line for line in part.splitlines() if "| related" in line)
    assert f"{np.mean(errors):.2f}" in row
    opened = []
    for seed in (0, 1):
        related = np.array([KNOWN_TRUTH[0].generator(seed).clip(i, "test")[1].related for i in range(16)])
        figures = finished / "towers" / dataset / f"nv-trained-seed-{seed}" / "evaluation" / "tower.json"
        opened.append(100 * (np.array(json.loads(figures.read_text())["true"])[related] >= 0.5).mean())
    assert f"| {np.mean(opened):.0f} " in row
    aucs = []
    for seed in (0, 1):
        related = np.array([KNOWN_TRUTH[0].generator(seed).clip(i, "test")[1].related for i in range(16)])
        figures = finished / "towers" / dataset / f"nv-trained-seed-{seed}" / "evaluation" / "tower.json"
        aucs.append(roc_auc_score(related, json.loads(figures.read_text())["true"]))
    row = next(line for line in text.splitlines() if line.startswith("| NetVLAD | contrastive | 1 | 2 "))
    assert row.split("|")[-2].strip().startswith(f"{np.mean(aucs):.3f} ± {np.std(aucs, ddof=1):.3f}")


def test_the_report_names_the_hardware_of_the_jobs_and_not_its_own(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr(report, "environment", lambda: {**environment(), "processor": "an abacus"})
    assert reproduce(out, *ALL, "--negative-weights", "2", "--report") == 0
    row = next(line for line in (out / "report.md").read_text().splitlines() if line.startswith("| hardware"))
    assert environment()["processor"] in row
    assert "abacus" not in row


def test_the_commit_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed below a repository of something else, it has none."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    installed = tmp_path / "lib" / "report.py"
    installed.parent.mkdir()
    installed.touch()
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "other"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(report, "__file__", str(installed))
    assert report.commit() == f"counterpoint {__version__}"
    subprocess.run([*git, "add", "lib"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "own"], check=True)
    assert re.fullmatch("[0-9a-f]{7,}", report.commit())


def test_trees_of_categories_whose_ids_are_no_file_names() -> None:
    taxonomy = Taxonomy((Category("/m/04rlf", "", "Music"), Category("/m/0l14jd", "/m/04rlf", "Choir")))
    (tree,) = report.trees(Labelling(taxonomy, LabelMap.identity(taxonomy)))
    assert Path(tree.name).name == tree.name
    assert b"Choir" in tree.content


def test_a_report_of_seeds_that_are_not_begun(finished: Path) -> None:
    """A seed draws its clips: those of later seeds are not there."""
    assert reproduce(finished, *ALL, "--negative-weights", "2", "--seeds", "4", "--report") == 0
    assert "Not finished yet" in (finished / "report.md").read_text()
    assert reproduce(finished, *ALL, "--negative-weights", "2", "--report") == 0


def test_the_best_trial_is_the_first_seeds_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(run: RunFolder, *data: Any, **options: Any) -> Any:
        trained.append(run.folder.name)
        return training.train(run, *data, **options)

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setitem(SUITES, "synthetic", replace(SUITES["synthetic"], equal=False))
    grid = json.dumps({"nv": {"head.hidden": [16, 32]}})
    assert reproduce(tmp_path, "--models", "l", "--seeds", "2", "--grid", grid, "--trials", "3") == 0
    assert len(trained) == 3 + 1
    assert trained[-1] == "nv-l-seed-1"
    found = [json.loads(path.read_text()) for path in (tmp_path / "search" / "nv-l").glob("trial-*.json")]
    best = max(found, key=lambda trial: trial["validation_gap"])
    run = RunFolder.load(tmp_path / "runs" / "unrelated-0.25-shift-0" / "nv-l-seed-0")
    assert run.trained
    assert run.recipe.training.seed == 0
    assert {"head.hidden": run.recipe.head.hidden} == (best["settings"] or {"head.hidden": 256})


def test_another_data_set_is_not_where_the_search_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs are its own, with the architecture that was chosen on the first data set."""
    monkeypatch.setitem(SUITES, "synthetic", replace(SUITES["synthetic"], equal=False))
    options = ["--models", "l", "--seeds", "1", "--grid", '{"nv": {"head.hidden": [16, 32]}}', "--trials", "2"]
    assert reproduce(tmp_path, *options, "--datasets", "unrelated-0-shift-0") == 0
    trials = [path.read_bytes() for path in (tmp_path / "search" / "nv-l").glob("*/weights.safetensors")]
    run = tmp_path / "runs" / "unrelated-0-shift-0" / "nv-l-seed-0" / "weights.safetensors"
    assert len(trials) == 2
    assert (tmp_path / "worlds" / "unrelated-0.25-shift-0-seed-0").exists()
    assert run.read_bytes() not in trials


def test_settings_that_would_change_runs_may_not(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(finished, *ALL, "--negative-weights", "2", "--epochs", "2") == 1
    assert "holds an experiment with epochs 1, not 2" in capsys.readouterr().err
    assert reproduce(finished, "--models", "l", "--seeds", "1", "--report") == 0  # a smaller table of the same runs


def test_a_finished_run_of_another_recipe_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    recipe = next(out.glob("runs/*/nv-cm-c-seed-1")) / "recipe.json"
    stored = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(stored | {"training": stored["training"] | {"learning_rate": 0.5}}))
    assert reproduce(out, *ALL, "--negative-weights", "2", "--report") == 1
    assert f"{recipe.parent}: was trained with training.learning_rate 0.5, " in capsys.readouterr().err
    assert reproduce(out, "--models", "l", "cm-c", "--seeds", "1", "--report") == 0  # which leaves it out


def test_an_ensemble_of_runs_that_are_others_now_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = "unrelated-0.25-shift-0"
    for missing in (True, False):
        out = shutil.copytree(finished, tmp_path / str(missing))
        member = out / "runs" / dataset / "nv-cm-seed-0"
        if missing:
            member.rename(tmp_path / "moved away")
        else:
            shutil.copy(out / "runs" / dataset / "nv-cm-seed-1" / "weights.safetensors", member)
        assert reproduce(out, *ALL, "--negative-weights", "2", "--report") == 1
        message = "was made from another nv-cm-seed-0 than there is now; move it away to make it again"
        assert f"{out / 'runs' / dataset / 'nv-ensemble-seed-0'}: {message}" in capsys.readouterr().err
        shutil.rmtree(out / "runs" / dataset / "nv-ensemble-seed-0")
        assert reproduce(out, *ALL, "--negative-weights", "2", "--report") == 1
        assert f"{out / 'runs' / dataset / 'nv-distilled-seed-0'}: {message}" in capsys.readouterr().err


def test_a_run_that_uses_another_tower_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    towers = out / "towers" / "unrelated-0.25-shift-0"
    shutil.copy(towers / "nv-trained-seed-1" / "weights.safetensors", towers / "nv-trained-seed-0")
    assert reproduce(out, *ALL, "--negative-weights", "2", "--report") == 1
    run = out / "runs" / "unrelated-0.25-shift-0" / "nv-cm-g-seed-0"
    assert f"{run}: uses another tower than {towers / 'nv-trained-seed-0'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", '{"vn": {"head.hidden": [8]}}'), "--grid: no family 'vn'; there are nv, tm, rnn"),
        (
            ("--grid", '{"nv": {"head.colour": [8]}}'),
            "--grid: head.colour of nv may not be 8: nv-l: no field head.colour",
        ),
        (("--grid", '{"nv": {"head.hidden": ["wide"]}}'), "--grid: head.hidden of nv may not be 'wide'"),
        (("--grid", '{"nv": {"head.dropout": [2]}}'), "--grid: head.dropout of nv may not be 2: nv-l: head.dropout"),
        (("--clips", '{"tests": 8}'), "--clips: no split 'tests'"),
        (("--negative-weights", "-1"), "negatives.weight must be at least 0"),
        (("--taxonomy", "youtube8m"), "this suite generates its clips; leave --data and --taxonomy out"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert reproduce(tmp_path / "out", "--models", "l", *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_that_need_more_than_the_records_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures alone: nothing is trained before the error."""
    random = np.random.default_rng(0)
    with Writer(tmp_path / "train.tfrecord") as writer:
        for i in range(100):
            codes = random.integers(0, 256, (1, 6), dtype=np.uint8)
            writer.write(encode(Clip(f"{i}", np.array([0]), {"video": codes})))
    FeatureSet({"video": 6}, "own").save(tmp_path)
    (tmp_path / "categories.tsv").write_text("id\tparent\tname\nf\t\tFood\n")
    command = ["reproduce", "video-level", "--data", str(tmp_path / "train.tfrecord"), "--out", str(tmp_path / "out")]
    for models, cause in (
        (("l", "sound"), "nv-sound reads 'audio', and the features are video"),
        (("l", "cm-g"), "a correlation tower compares two modalities, and the clips have video alone"),
    ):
        assert main([*command, "--taxonomy", str(tmp_path / "categories.tsv"), "--models", *models]) == 1
        assert cause in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_plan_leaves_nothing(tmp_path: Path) -> None:
    """Plans are there to be compared with each other."""
    for epochs in ("3", "2"):
        assert reproduce(tmp_path / "out", "--models", "l", "--seeds", "1", "--epochs", epochs, "--plan") == 0
    assert not (tmp_path / "out").exists()


def test_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(tmp_path / "out", "--models", "l", "cm-c", "--seeds", "3", "--plan") == 0
    printed = capsys.readouterr().out
    assert re.search(r"train nv-cm-c\W+0\W+3\W+", printed)
    assert re.search(r"\d+ of \d+ jobs to do, about \d+", printed)


def test_real_suites_ask_for_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "mosaic", "--out", str(tmp_path / "out")]) == 1
    assert "name their shards with --data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_precision_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(tmp_path / "out", "--precision", "foo") == 2
    assert "bf16-mixed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_goes_on_after_being_killed(tmp_path: Path) -> None:
    """Killed in the middle of a training, twice."""
    out = tmp_path / "out"
    arguments = [
        "reproduce",
        "synthetic",
        "--out",
        str(out),
        *TINY,
        "--models",
        "l",
        "cm",
        "--seeds",
        "2",
        "--epochs",
        "40",
    ]
    command = [sys.executable, "-m", "counterpoint.cli.main", *arguments]
    for run in ("nv-l-seed-0", "nv-cm-seed-0"):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        last = out / "runs" / "unrelated-0.25-shift-0" / run / "checkpoints" / "last.ckpt"
        while not last.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "report.html").exists()
    assert main(arguments) == 0
    names = [line["job"] for line in Log(out).lines()]
    assert len(names) == len(set(names)) == 2 + 4 + 4  # data sets, trainings, evaluations
    assert (out / "report.html").exists()


def test_a_table_from_another_module(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One function in one file, for each family or once."""
    (tmp_path / "own_tables.py").write_text(
        """
from counterpoint.experiments.report import report_table
from counterpoint.tables import Table


@report_table("{family}")
def gaps(frame):
    rows = [[entry.title, f"{frame.main.value(entry.name).mean:.3f}"] for entry in frame.main.entries()]
    return Table("GAP error in short", ["model", "GAP"], rows)


@report_table("Of all families")
def count(frame):
    return f"{len(frame.select(metric='gap', group='all'))} test runs."
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    chapters = [chapter._replace(tables=list(chapter.tables)) for chapter in report.CHAPTERS]
    monkeypatch.setattr(report, "CHAPTERS", chapters)
    out = shutil.copytree(finished, tmp_path / "out")
    assert reproduce(out, *ALL, "--negative-weights", "2", "--report", "--tables", "own_tables") == 0
    text = (out / "report.md").read_text()
    own = text[text.index("**GAP error in short**") :]
    assert own.index("| L |") < own.index("the paper's tables")
    assert "## Of all families\n\n20 test runs." in text  # of five models with two seeds, one of them with one


def test_an_experiment_of_version_0_1_goes_on(finished: Path, tmp_path: Path) -> None:
    """Its data sets were called worlds."""
    out = shutil.copytree(finished, tmp_path / "out")
    stored = json.loads((out / "suite.json").read_text())
    stored["scale"]["worlds"] = stored["scale"].pop("datasets")
    (out / "suite.json").write_text(json.dumps(stored))
    jobs_done = Log(out).lines()
    assert reproduce(out, *ALL, "--negative-weights", "2") == 0
    assert Log(out).lines() == jobs_done
    assert "datasets" in json.loads((out / "suite.json").read_text())["scale"]


def test_from_python(finished: Path, tmp_path: Path) -> None:
    tiny = {"families": ("nv",), "datasets": ["unrelated-0.25-shift-0"], "epochs": 1, "tower_epochs": 1, "seeds": 1}
    tiny |= {"clips": {"train": 24, "validation": 12, "test": 16}, "resamples": 20, "test_runs": 2, "models": ["l"]}
    experiment = experiments.open_experiment("synthetic", finished, **tiny)
    planned = experiments.plan(experiment)
    assert ["train nv-l", "1", "0", ""] in [list(row) for row in planned.rows]
    out = shutil.copytree(finished, tmp_path / "out")
    written = experiments.reproduce(experiments.open_experiment("synthetic", out, **tiny), report_only=True)
    assert written == out / "report.html"


@pytest.mark.parametrize(
    ("suite", "settings", "message"),
    [
        ("synthetics", {}, "no suite 'synthetics'; there are video-level, mosaic, synthetic"),
        ("synthetic", {"worlds": ()}, "a suite has no setting 'worlds'; there are families, models, datasets"),
        ("synthetic", {"datasets": ("a",)}, "--datasets: no 'a'; there are unrelated-0.25-shift-0, "),
        ("synthetic", {"models": ("xattn",)}, "--models: no 'xattn'; there are mean-linear, "),
    ],
)
def test_names_that_there_are_not(tmp_path: Path, suite: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=re.escape(message)):
        experiments.open_experiment(suite, tmp_path / "out", **settings)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("own")
    assert reproduce(tmp_path, "--models", "l") == 1
    assert f"{tmp_path}: holds something else; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
