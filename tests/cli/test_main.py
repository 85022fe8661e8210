import csv
import errno
import functools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from training.world import (
    LABELLING,
    SIZES,
    TAXONOMY,
    clip,
    clips,
    codes,
    cut,
    damage,
    write,
)

from counterpoint import __version__
from counterpoint.cli import data as data_verbs
from counterpoint.cli import models as model_verbs
from counterpoint.cli.main import GROUPS, VERBS, main
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.breakdown import Breakdown
from counterpoint.recipes import RECIPES, TOWER_RECIPES, NetVLADFamily, Recipe, Training
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy, load

TINY = ["--family.clusters", '{"video": 2, "audio": 2}', "--family.hidden", "8", "--head.hidden", "8"]
TINY += ["--training.batch_size", "16", "--training.learning_rate", "0.02", "--max_steps", "5"]


class Printed(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Printed:
        self.capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # help, and what is wrong in the arguments themselves
            code = int(stopped.code or 0)
        return Printed(code, *self.capsys.readouterr())

    def fails(self, *arguments: object) -> str:
        """The one line that is message of an error."""
        printed = self(*arguments)
        assert printed.code not in (0, None)
        assert printed.out == ""
        assert "Traceback" not in printed.err
        lines = printed.err.splitlines()
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("counterpoint")
        return lines[0]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a taxonomy and a trained run."""
    folder = tmp_path_factory.mktemp("world")
    write(folder / "train" / "a.tfrecord", *clips(64))
    write(folder / "validation" / "b.tfrecord", *clips(24, seed=1, prefix="val"))
    damage(write(folder / "bad" / "c.tfrecord", *clips(10, prefix="bad")), 3, 5)
    cut(write(folder / "cut" / "d.tfrecord", *clips(4, prefix="cut")))
    LABELLING.save(folder / "taxonomy")
    assert main(training(folder, folder / "run", "--validation", str(folder / "validation"))) == 0
    return folder


def training(world: Path, out: Path, *more: str, recipe: str = "nv-l") -> list[str]:
    arguments = ["train", recipe, "--data", str(world / "train"), "--taxonomy", str(world / "taxonomy")]
    return [*arguments, "--out", str(out), *TINY, "--training.max_epochs", "3", *more]


def tower_training(world: Path, out: Path, *more: str) -> list[str]:
    """Of a correlation tower, which has no head."""
    arguments = training(world, out, *more, recipe="correlation-nv")
    head = arguments.index("--head.hidden")
    return [*arguments[:head], *arguments[head + 2 :], "--comparison.embedding", "4"]


@pytest.fixture(scope="module")
def tower(world: Path) -> Path:
    """A trained tower's run."""
    assert main(tower_training(world, world / "tower", "--validation", str(world / "validation"))) == 0
    return world / "tower"


@pytest.fixture(scope="module")
def gated(world: Path, tower: Path) -> Path:
    """A run that listens to it."""
    validation = ["--validation", str(world / "validation")]
    assert main(training(world, world / "gated", "--tower", str(tower), *validation, recipe="nv-cm-g")) == 0
    return world / "gated"


def shell(*arguments: object) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "counterpoint.cli.main", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_names_every_verb(command: Command) -> None:
    for arguments in ((), ("--help",)):
        printed = command(*arguments)
        assert printed.code == 0
        assert printed.err == ""
        names = re.findall(r"^│ (\w+) ", printed.out, re.MULTILINE)
        assert names == [*(verb for verb in VERBS if " " not in verb), *GROUPS]


@pytest.mark.parametrize("verb", [*VERBS, *GROUPS, "train nv-l", "train correlation-nv", "reproduce mosaic"])
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_of_every_verb(command: Command, monkeypatch: pytest.MonkeyPatch, verb: str, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    printed = command(*verb.split(), "--help")
    assert printed.code == 0
    assert printed.err == ""
    assert " ".join(printed.out.split()).startswith(f"Usage: counterpoint {verb.split()[0]}")
    for noise in ("type:", "CONFIG", "Available subcommands", "``", "None", "<class", "[default: False]"):
        assert noise not in printed.out
    assert max(map(len, printed.out.splitlines())) <= min(int(columns), 120)
    if verb not in GROUPS:
        _, _, example = printed.out.partition("\nExample:\n")
        assert example.startswith(f"  counterpoint {' '.join(verb.split()[: 1 if verb not in VERBS else None])}")
    assert command(*verb.split(), "-h").out == printed.out


def test_train_help_names_where_recipes_and_fields_are_listed(command: Command) -> None:
    text = " ".join(command("train", "--help").out.replace("│", " ").split())
    assert "Every field of the recipe is an option too" in text
    assert "`counterpoint train RECIPE --help` and `counterpoint recipes RECIPE` list" in text
    words = set(re.findall(r"[\w-]+", command("recipes").out))
    assert set(RECIPES) | set(TOWER_RECIPES) <= words
    assert [one["recipe"] for one in command("recipes", "--json").json] == [*RECIPES, *TOWER_RECIPES]


def test_train_help_lists_the_fields_of_a_recipe(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(command("train", "nv-l", "--help").out.replace("│", " ").split())
    listed = command("recipes", "nv-l").out
    for option, default in {
        "--training.learning-rate": "0.0002",
        "--training.batch-size": "128",
        "--training.max-epochs": "10",
        "--training.accumulate": "1",
        "--family.hidden": f"{NetVLADFamily().hidden}",
        "--max-steps": "300",
        "--family.clusters": '{"video": 128, "audio": 64, "joined": 128}',
    }.items():
        assert re.search(rf"{option} [^\[]*\[default: {re.escape(default)}\]", text), option
        assert re.search(rf"{option} +│[^│]+│ {re.escape(default)} ", listed), option
    assert "--family.heads" in command("train", "tm-l", "--help").out


def test_version(command: Command) -> None:
    assert command("--version").out == f"counterpoint {__version__}\n"


# --- wrong arguments --------------------------------------------------------------------------------------------------


LISTS = "`counterpoint train --help` lists the options"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nosuch", "counterpoint: no command 'nosuch' (`counterpoint --help` lists the commands)"),
        ("trian", "counterpoint: no command 'trian'; did you mean train? (`counterpoint --help` lists the commands)"),
        ("mosaic", "no command 'mosaic'; did you mean data mosaic?"),
        ("inspect", "counterpoint inspect: DATA is missing (`counterpoint inspect --help` lists the options)"),
        ("inspect --colour red x", "no option --colour"),
        ("inspect x --skip-bad-record", "no option --skip-bad-record; did you mean --skip-bad-records?"),
        ("taxonomy nosuch", "counterpoint taxonomy: no command 'nosuch'"),
        ("taxonomy shw", "counterpoint taxonomy: no command 'shw'; did you mean show?"),
        ("train", "RECIPE is missing: name it right after `train` (`counterpoint recipes` lists them)"),
        ("train nv-x --data a --taxonomy b --out nv-l", "no recipe 'nv-x'; did you mean nv-l? (`counterpoint recipes`"),
        ("train --recipe nv-x --data a --out nv-l", "no recipe 'nv-x'; did you mean nv-l? (`counterpoint recipes`"),
        ("train --out nv-l tm-e --data a --taxonomy b", "RECIPE is missing: name it right after `train`"),
        ("train nv-l --data a --taxonomy b", f"counterpoint train: --out is missing ({LISTS})"),
        ("train nv-l --data a --out", f"counterpoint train: --out needs a value ({LISTS})"),
        ("train nv-l --data --out c", f"counterpoint train: --data needs a value ({LISTS})"),
        ("train nv-l --data a --out c --training.colour 3", "training.colour"),
        ("train nv-l --data a --out c --training.batch-sise 3", "did you mean "),
        ("train nv-l --data a --out c --training.batch-size many", "training.batch_size"),
        ("train nv-l --data a --out c --training.batch-size 0", "training.batch_size must be at least 1, not 0"),
        ("train nv-l --data a --out c --family.clusters 3", "family.clusters"),
        ("train nv-l --data a --out c --max-step 3", "no option --max-step; did you mean --max-steps?"),
        ("train nv-l --data a --taxonomy b --out c --workers -1", "--workers must be at least 0, not -1"),
        ("train nv-l --data a --taxonomy b --out c --workers some", "--workers: 'some' is not a whole number"),
        ("categorize a b --top 0", "--top must be at least 1, not 0"),
        ("categorize a b --codes iba", "--codes: no 'iba'; did you mean iab? (there are iab)"),
        ("reproduce mosaik --out c", "SUITE: no 'mosaik'; did you mean mosaic?"),
        ("reproduce synthetic --out c --models cmg", "--models: no 'cmg'; did you mean cm-g?"),
        ("reproduce synthetic --out c --seeds 0", "--seeds must be at least 1, not 0"),
        ("reproduce synthetic --out c --clips 3", "--clips"),
        ("ensemble a --data b --out c --share 2", "--share must be at most 1, not 2"),
    ],
)
def test_wrong_arguments(command: Command, arguments: str, expected: str) -> None:
    line = command.fails(*arguments.split())
    assert expected in line
    for noise in ("Parser", "<class", "Error:", "typing", "Token", "Argument"):
        assert noise not in line
    assert command(*arguments.split()).code == 2


def test_options_of_version_0_1_are_still_read(capsys: pytest.CaptureFixture[str]) -> None:
    for command, noted in (
        (["recommend", "nowhere", "--history", "a", "--library", "x"], "--library is now --data"),
        (["data", "mosaic", "--from=x", "--out", "y"], "--from is now --data"),
        (["reproduce", "synthetic", "--worlds", "nothing", "--out", "y"], "--worlds is now --datasets"),
    ):
        main(command)
        printed = capsys.readouterr().err
        assert noted in printed
        assert "no option" not in printed
    old = RECIPES["nv-cm-c"].with_({"training.hearing_rate": 3, "fusion.told": "agreement"})
    assert old == RECIPES["nv-cm-c"].with_({"training.influence_lr_scale": 3, "fusion.context": "agreement"})


def test_a_mistyped_key_is_refused(command: Command, world: Path, tmp_path: Path) -> None:
    """A split's before any data is read, a modality's before anything is written: the data has the modalities."""
    arguments = training(world, tmp_path / "run", "--validation", str(world / "validation"))
    line = refused(command, [*arguments, "--family.clusters", '{"pictures": 8}'])
    assert "'pictures'" in line
    assert line.endswith("there are audio, video")
    assert not (tmp_path / "run").exists()
    line = command.fails("data", "mosaic", "--data", "nowhere", "--out", "x", "--clips", '{"tests": 8}')
    assert "--clips: no 'tests'; did you mean test? (there are train, validation, test)" in line
    line = command.fails("data", "mosaic", "--data", "nowhere", "--out", "x", "--clips", '{"test": -8}')
    assert "--clips: test must be a whole number from 0, not -8" in line


def test_a_run_that_is_not_there(command: Command, world: Path) -> None:
    line = command.fails("evaluate", world / "rum", "--data", "nowhere")
    expected = f"not a run folder (no recipe.json); did you mean {world / 'run'}?"
    assert line == f"counterpoint: {world / 'rum'}: {expected}"
    assert "did you mean youtube8m?" in command.fails("categorize", "youtube8", "nowhere")


def test_underscores_are_accepted(command: Command, world: Path) -> None:
    printed = command("inspect", world / "bad", "--skip_bad_records", "--json")
    assert printed.json["records"] == 8


def test_data_is_named_one_way(command: Command, world: Path) -> None:
    """After --data or last, in one value or several."""
    shards = [world / "train" / "a.tfrecord", world / "validation" / "b.tfrecord"]
    assert command("inspect", "--data", *shards, "--json").json["records"] == 88
    assert command("inspect", *shards, "--json").json["records"] == 88
    one = command("categorize", world / "run", shards[1], "--json").json
    assert command("categorize", world / "run", "--data", shards[1], "--json").json == one
    assert command("evaluate", world / "run", world / "validation", "--json").json["overall"]["videos"] == 24


def test_checks_come_before_data_is_read(command: Command, world: Path, tmp_path: Path) -> None:
    """What is wrong with options is message where the data is not there either."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / "mine.csv").write_text("mine,yours\n")
    full, run, nowhere = tmp_path / "full", world / "run", tmp_path / "nowhere"
    train = ["train", "nv-l", nowhere, "--out"]
    for arguments, expected in (
        ([*train, "x", "--training.batch-size", 0], "batch_size must be at least 1"),
        (["train", "nv-cm-c", nowhere, "--out", "x"], "nv-cm-c needs a trained correlation tower (--tower RUN)"),
        ([*train, run], "holds a finished run"),
        (["explain", run, f"{nowhere}#0", "--out", "x.gif"], "x.gif: a picture is called"),
        (["categorize", run, nowhere, "--out", "x.txt"], "x.txt: a table is called *.csv or *.jsonl"),
        (["browse", run, nowhere, "--export", "x.txt"], "x.txt: a list is written as .csv or .json"),
        *(
            ([*verb, full], f"{full}: ")
            for verb in (
                train,
                ["evaluate", run, nowhere, "--out"],
                ["tower", run, "--data", nowhere, "--out"],
                ["ensemble", run, "--data", nowhere, "--out"],
                ["browse", run, nowhere, "--export", tmp_path / "x.csv", "--out"],
                ["recommend", run, nowhere, "--history", "a", "--index"],
                ["data", "mosaic", nowhere, "--out"],
                ["taxonomy", "import", nowhere, "--out"],
                ["taxonomy", "merge", nowhere, "--out"],
                ["taxonomy", "remap", nowhere, nowhere, "--out"],
                ["reproduce", "synthetic", "--out"],
                ["demo", "--out"],
            )
        ),
        *(
            ([*verb, name], f"{name}: ")
            for verb, name in (
                (["explain", run, f"{nowhere}#0", "--out"], tmp_path / "mine.png"),
                (["categorize", run, nowhere, "--out"], tmp_path / "mine.csv"),
                (["browse", run, nowhere, "--export"], tmp_path / "mine.csv"),
                (["taxonomy", "show", nowhere, "--html"], tmp_path / "mine.csv"),
                (["taxonomy", "show", nowhere, "--svg", "Food", "--out"], tmp_path / "mine.csv"),
            )
        ),
    ):
        line = command.fails(*arguments)
        assert expected in line, arguments
        assert "nowhere" not in line, line
    assert sorted(path.name for path in full.iterdir()) == ["mine.txt"]
    assert (tmp_path / "mine.csv").read_text() == "mine,yours\n"
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_extract_refuses_a_folder_of_something_else(command: Command, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert f"{tmp_path / 'full'}: " in command.fails("extract", tmp_path / "a.mp4", "--out", tmp_path / "full")
    assert sorted(path.name for path in (tmp_path / "full").iterdir() if path.name[0] != ".") == ["mine.txt"]


@pytest.mark.parametrize(("group", "verb"), [("taxonomy", "remap"), ("data", "mosaic")])
def test_a_group_of_verbs_alone_lists_them(command: Command, group: str, verb: str) -> None:
    printed = command(group)
    assert printed.code == 0
    assert f"Usage: counterpoint {group} COMMAND" in printed.out
    assert verb in printed.out


def test_a_shard_may_have_the_name_of_a_verb(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "train", *clips(2))
    assert command("inspect", "--json", tmp_path / "train").json["records"] == 2


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect(command: Command, world: Path) -> None:
    printed = command("inspect", world / "train")
    assert printed.code == 0
    assert "64 in 1 shards" in printed.out
    assert re.search(r"audio +│ 8 +│ uint8 │ 64 +│ 0 +│ 2 / ", printed.out)
    assert "no problems" in printed.out


def test_inspect_json(command: Command, world: Path) -> None:
    found = command("inspect", world / "train", world / "validation", "--json").json
    assert (found["shards"], found["records"], found["labels"]) == (2, 88, 3)
    assert {name: modality["size"] for name, modality in found["modalities"].items()} == SIZES


def test_inspect_skips_bad_records(command: Command, world: Path) -> None:
    found = command("inspect", world / "bad", world / "cut", "--json", "--skip-bad-records").json
    assert found["records"] == 8 + 3
    assert [re.sub(r" at byte \d+: .*", "", problem.rpartition("/")[2]) for problem in found["problems"]] == [
        "c.tfrecord: record 3",
        "c.tfrecord: record 5",
        "d.tfrecord: record 3",
        "3 clips are copies: they have the features of an earlier clip",
    ]


# --- taxonomy ---------------------------------------------------------------------------------------------------------

VOCABULARY = """Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription
0,900,/m/0,Game,,Games,,,
1,800,/m/1,Cake: the film,,Food,Arts,,
2,70,/m/2,Soup,,Food,,,
3,6,/m/3,,,Games,,,
"""


def test_taxonomy_import_show_check(command: Command, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.csv").write_text(VOCABULARY)
    printed = command("taxonomy", "import", tmp_path / "vocabulary.csv", "--top", 2, "--out", tmp_path / "made")
    assert printed == (0, f"{tmp_path / 'made'}: 5 categories, 4 labels\n", "")
    assert load(tmp_path / "made").taxonomy.paths == ("Games", "Food", "Arts", "Games:Game", "Food:Cake - the film")

    shown = command("taxonomy", "show", tmp_path / "made")
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "5 categories, 4 labels",
        "├── Games  906",
        "│   └── Game  900",
        "├── Food  870",
        "│   └── Cake - the film  800",
        "└── Arts  800",
    ]
    stored = command("taxonomy", "show", tmp_path / "made", "--json").json
    assert [category["count"] for category in stored["categories"]] == [906, 870, 800, 900, 800]
    assert len(stored["labels"]) == 4

    checked = command("taxonomy", "check", tmp_path / "made", "--json", "--few", 850)
    assert checked.code == 0  # warnings only
    assert {finding["subject"] for finding in checked.json if "few" in finding["message"]} == {
        "Arts",
        "Food:Cake - the film",
    }


def test_taxonomy_check_exit_code(command: Command, tmp_path: Path) -> None:
    unreached = Labelling(TAXONOMY, LabelMap((Label(0, "Soup", 900, ("soup",)),), TAXONOMY))
    unreached.save(tmp_path)
    printed = command("taxonomy", "check", tmp_path)
    assert printed.code == 1
    assert "Sport:Ball" in printed.out
    assert {f["severity"] for f in command("taxonomy", "check", tmp_path, "--json").json} == {"error", "warning"}


def test_taxonomy_check_without_findings(command: Command, tmp_path: Path) -> None:
    tree = Taxonomy((Category("a", "", "A"), Category("b", "a", "B"), Category("c", "a", "C")))
    Labelling(tree, LabelMap.identity(tree)).save(tmp_path)
    assert command("taxonomy", "check", tmp_path) == (0, "no findings\n", "")
    assert command("taxonomy", "check", tmp_path, "--json").json == []


def test_taxonomy_errors_name_file_and_line(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "categories.tsv"
    path.write_text("id\tparent\tname\nx\t\tX\na\tb\tA\nb\ta\tB\n")
    for verb in ("show", "check"):
        message = command.fails("taxonomy", verb, path)
        assert message == f"counterpoint: {path}, line 3: a cycle of parents: a -> b -> a"
    assert f"{path}, line 3" in command.fails("train", "nv-l", "--data", path, "--taxonomy", path, "--out", "x")
    assert f"{tmp_path / 'none.tsv'}: cannot be read" in command.fails("taxonomy", "show", tmp_path / "none.tsv")
    assert "vocabulary.csv" in command.fails(
        "taxonomy", "import", tmp_path / "vocabulary.csv", "--out", tmp_path / "out"
    )


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_overrides_every_kind_of_field(world: Path) -> None:
    recipe = RunFolder.load(world / "run").recipe
    assert isinstance(recipe, Recipe)
    assert recipe.family == NetVLADFamily(clusters={"video": 2, "audio": 2}, hidden=8)
    assert recipe.head.hidden == 8
    assert recipe.training == Training(batch_size=16, learning_rate=0.02, max_epochs=3)
    assert recipe.max_steps == 5
    assert recipe.fusion == RECIPES["nv-l"].fusion


def test_train_output(command: Command, world: Path, tmp_path: Path) -> None:
    printed = command(*training(world, tmp_path / "run", "--validation", str(world / "validation")))
    assert printed.code == 0
    first, few, *epochs, kept = printed.err.splitlines()
    sizes = "youtube8m features (audio 8, video 16)"
    assert first == f"nv-l: 64 clips, 24 for validation, {sizes}, 5 categories"
    assert few == "24 validation clips are too few to choose an epoch by GAP: the validation loss decides"
    assert len(epochs) == 3
    assert kept.startswith("kept epoch ")
    line = re.compile(r"epoch +\d/3  train loss [\d.]+  validation loss [\d.]+  (GAP error \d+\.\d\d %)  \(\d+ s\)")
    gaps = [match[1] for match in map(line.fullmatch, epochs) if match]
    number = int(re.findall(r"kept epoch (\d+) of 3", kept)[0])
    assert printed.out == f"{tmp_path / 'run'}: validation {gaps[number - 1]}\n"


def test_train_without_validation_shards(command: Command, world: Path, tmp_path: Path) -> None:
    """A tenth of the clips is held out, by a hash of their ids."""
    printed = command(*training(world, tmp_path / "run", "--json", "--training.max_epochs", "1"))
    match = re.match(r"nv-l: (\d+) clips, (\d+) for validation", printed.err)
    assert match
    assert int(match[1]) + int(match[2]) == 64
    assert 1 <= int(match[2]) <= 15
    assert printed.json.keys() == {"run", "validation_gap"}
    assert 0 < printed.json["validation_gap"] <= 1
    seed = ("--training.max_epochs", "1", "--training.seed", "5")  # whose clips an ensemble may hold out likewise
    again = command(*training(world, tmp_path / "again", "--json", *seed))
    assert again.err.splitlines()[0] == printed.err.splitlines()[0]


def test_train_with_another_fusion(command: Command, world: Path, tmp_path: Path) -> None:
    clusters = ["--family.clusters", '{"joined": 3}', "--training.max_epochs", "1"]
    assert command(*training(world, tmp_path / "run", *clusters, recipe="nv-e")).code == 0
    assert command("categorize", tmp_path / "run", world / "validation").code == 0


def test_train_refusals(command: Command, world: Path, tmp_path: Path) -> None:
    assert "holds a finished run" in refused(command, training(world, world / "run"))
    message = refused(command, training(world, tmp_path / "run", "--validation", str(world / "train")))
    assert "in more than one split; splits share no shards" in message
    (tmp_path / "few").mkdir()
    write(tmp_path / "few" / "a.tfrecord", *clips(1))
    arguments = ["train", "nv-l", "--data", tmp_path / "few", "--taxonomy", world / "taxonomy", "--out", "x"]
    assert "no clips in" in command.fails(*arguments)


def test_train_on_one_modality(command: Command, world: Path, tmp_path: Path) -> None:
    validation = ["--validation", str(world / "validation")]
    assert command(*training(world, tmp_path / "run", *validation, "--modalities", "audio")).code == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["modalities"] == ["audio"]
    assert RunFolder.load(tmp_path / "run").recipe.modalities == ("audio",)
    assert command(*training(world, tmp_path / "sound", *validation, recipe="nv-sound")).code == 0
    message = refused(command, training(world, tmp_path / "smell", *validation, "--modalities", "smell"))
    assert message == "counterpoint: nv-l reads 'smell', and the features are audio, video"


def test_train_a_tower(command: Command, world: Path, tmp_path: Path) -> None:
    printed = command(*tower_training(world, tmp_path / "run", "--validation", str(world / "validation")))
    assert printed.code == 0
    first, _, *epochs, kept = printed.err.splitlines()
    assert first.startswith("correlation-nv: 64 clips, 24 for validation, youtube8m features")
    number = int(re.findall(r"kept epoch (\d+) of ", kept)[0])
    aucs = [re.search(r"  AUC ([01]\.\d{4})  ", line).group(1) for line in epochs]  # type: ignore[union-attr]
    assert printed.out == f"{tmp_path / 'run'}: validation AUC {aucs[number - 1]}\n"
    assert command(*tower_training(world, tmp_path / "again", "--json", "--training.max_epochs", "1")).json.keys() == {
        "run",
        "validation_auc",
    }


def test_train_with_a_tower(command: Command, world: Path, tower: Path, gated: Path, tmp_path: Path) -> None:
    """The run takes the tower in, and goes wherever it goes."""
    weights = Path("tower", "weights.safetensors")
    assert (gated / weights).read_bytes() == (tower / weights.name).read_bytes()
    expected = command("categorize", gated, world / "validation", "--json").json
    moved = Path(shutil.copytree(gated, tmp_path / "elsewhere"))
    for unneeded in ("checkpoints", "tensorboard"):
        shutil.rmtree(moved / unneeded)
    hidden = tower.rename(tower.with_name("hidden"))
    try:
        assert command("categorize", moved, world / "validation", "--json").json == expected
    finally:
        hidden.rename(tower)
    shutil.rmtree(moved / "tower")
    assert "nv-cm-g needs a trained correlation tower" in command.fails("categorize", moved, world / "validation")


def test_train_with_the_wrong_tower(command: Command, world: Path, tower: Path, tmp_path: Path) -> None:
    out, validation = tmp_path / "run", ["--validation", str(world / "validation")]
    for recipe, more, message in (
        ("nv-cm-c", [], "nv-cm-c needs a trained correlation tower (--tower RUN)"),
        ("nv-l", ["--tower", str(tower)], "nv-l needs no correlation tower; leave --tower out"),
        ("nv-cm-c", ["--tower", str(world / "run")], f"{world / 'run'}: a nv-l run, not a correlation tower"),
        ("nv-cm-c", ["--tower", str(world / "train")], f"{world / 'train'}: not a run folder"),
    ):
        assert message in refused(command, training(world, out, *validation, *more, recipe=recipe))
        assert not out.exists()


def test_train_with_a_tower_for_other_features(command: Command, world: Path, tower: Path, tmp_path: Path) -> None:
    write(tmp_path / "ours" / "a.tfrecord", *clips(40))
    FeatureSet(SIZES, "ours").save(tmp_path / "ours")
    arguments = training(world, tmp_path / "run", "--tower", str(tower), recipe="nv-cm-g")
    message = refused(command, [str(tmp_path / "ours") if word == str(world / "train") else word for word in arguments])
    assert f"{tower}: a tower for youtube8m features (audio 8, video 16), not ours features" in message


def refused(command: Command, arguments: Sequence[object]) -> str:
    """What is message last, where the command has message something before."""
    printed = command(*arguments)
    assert printed.code == 1
    assert printed.out == ""
    assert "Traceback" not in printed.err
    message = printed.err.splitlines()[-1]
    assert message.startswith("counterpoint: ")
    return message


def test_train_on_an_unknown_label(command: Command, world: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", *clips(20), clip("strange", [99], video=codes(1, 16)))
    arguments = training(world, tmp_path / "run", "--validation", str(world / "validation"))
    message = refused(command, [path if word == str(world / "train") else word for word in arguments])
    assert f"{path}: record 20 (clip strange): the label mapping has no label with the index 99" in message


def test_an_unforeseen_error_is_one_line(
    command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*result: object, **settings: object) -> None:
        raise ValueError("too\nmany")

    monkeypatch.setattr("counterpoint.training.train.train", fails)
    arguments = training(world, tmp_path / "run")
    assert refused(command, arguments) == "counterpoint: ValueError: too many (--debug shows where)"
    with pytest.raises(ValueError, match="many"):
        main([*arguments, "--debug", "--out", str(tmp_path / "again")])


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate(command: Command, world: Path) -> None:
    printed = command("evaluate", world / "run", "--data", world / "validation")
    assert printed.code == 0
    assert "Error in %, 24 clips" in printed.out
    for row in ("GAP", "MAP", "PERR", "Hit@1", "Food", "Sport"):
        assert row in printed.out
    assert printed.out.splitlines()[-1] == f"saved in {world / 'run' / 'evaluation'}"
    stored = json.loads((world / "run" / "evaluation" / "metrics.json").read_text())
    error = 100 * (1 - stored["overall"]["gap"])
    assert re.search(rf"GAP +│ all +│ +{error:.2f} ", printed.out)
    assert (world / "run" / "evaluation" / "metrics.csv").read_text().startswith("group,name,videos,gap,")
    assert "Confusion matrix" in printed.out
    with (world / "run" / "evaluation" / "categories.csv").open(newline="") as file:
        support = {row["category"]: int(row["support"]) for row in csv.DictReader(file)}
    assert support["Food"] + support["Sport"] == 24
    with (world / "run" / "evaluation" / "confusion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert sum(int(row[leaf]) for leaf in row if leaf != "label") == support[row["label"]]
    assert (world / "run" / "evaluation" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_shows_what_it_cannot_save(
    command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Breakdown, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "metrics.json"))

    monkeypatch.setattr(Breakdown, "save", full)
    out = tmp_path / "here"
    printed = command("evaluate", world / "run", "--data", world / "validation", "--out", out)
    assert printed.code == 1
    assert "Error in %, 24 clips" in printed.out
    assert f"{out}: the figures above could not be saved (No space left on device); choose another --out" in printed.err


def test_evaluate_tries_its_output_first(command: Command, world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "here"
    printed = command("evaluate", world / "run", "--data", world / "validation", "--out", out)
    assert printed.code == 1
    assert printed.out == ""
    assert f"{out}: cannot be written (Not a directory); choose another --out" in printed.err


def test_evaluate_json(command: Command, world: Path, tmp_path: Path) -> None:
    printed = command("evaluate", world / "run", "--data", world / "validation", "--json", "--out", tmp_path / "here")
    assert printed.json["overall"]["videos"] == 24
    assert printed.json["tops"].keys() == {"Food", "Sport"}
    assert len(printed.json["levels"]) == 2
    assert printed.json == json.loads((tmp_path / "here" / "metrics.json").read_text())
    with_workers = command("evaluate", world / "run", "--data", world / "validation", "--json", "--workers", 1)
    assert with_workers.json == printed.json


def test_evaluate_robustness(command: Command, world: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", world / "run", "--data", world / "validation", "--out", tmp_path]
    plain = command(*arguments, "--json").json
    assert not list(tmp_path.glob("robustness*"))
    printed = command(*arguments, "--robustness")
    stored = json.loads((tmp_path / "robustness.json").read_text())
    assert stored["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert stored["gap"].keys() == {"audio", "video", "any"}
    assert [curve[0] for curve in stored["gap"].values()] == pytest.approx([plain["overall"]["gap"]] * 3)
    ends = " │ +".join(f"{100 * (1 - curve[-1]):.2f}" for curve in stored["gap"].values())
    assert re.search(rf"GAP +│ 100% +│ +{ends} ", printed.out)
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert command(*arguments, "--robustness", "--json").json == {**plain, "robustness": stored}
    assert json.loads((tmp_path / "metrics.json").read_text()) == plain


def test_only_categorizers_categorize(command: Command, world: Path, tower: Path) -> None:
    for arguments in (
        ["evaluate", tower, "--data", world / "validation"],
        ["evaluate", tower, "--data", world / "validation", "--robustness"],
        ["categorize", tower, world / "validation"],
        ["explain", tower, f"{world / 'validation' / 'b.tfrecord'}#0"],
    ):
        assert command.fails(*arguments) == f"counterpoint: {tower}: a correlation tower, which names no categories"


# --- tower ------------------------------------------------------------------------------------------------------------


def test_tower(command: Command, world: Path, tower: Path) -> None:
    printed = command("tower", tower, "--data", world / "validation")
    assert printed.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.out.splitlines() if "│" in line]
    assert rows[0][:2] == ["correlation-nv", "1"]
    assert [row[0] for row in rows[1:]] == ["true"] * 10 + ["false"] * 10
    assert printed.out.splitlines()[-1] == f"drawn in {tower / 'evaluation' / 'true-pairs.png'}"
    stored = command("tower", tower, "--data", world / "validation", "--json", "--workers", 1).json
    assert [entry["true_pairs"] for entry in stored] == [24]
    assert rows[0][-1].startswith(f"{stored[0]['auc']:.4f} [")
    assert [row[2:] for row in rows[1:]] == [
        [pair["clips"]["audio"], pair["clips"]["video"]]
        for kind in ("true", "false")
        for pair in stored[0]["surprising"][kind]
    ]


def test_towers_side_by_side(command: Command, world: Path, tower: Path, gated: Path, tmp_path: Path) -> None:
    """Also the one inside another run."""
    printed = command("tower", tower, gated / "tower", "--data", world / "validation", "--json", "--out", tmp_path)
    one, other = printed.json
    assert one == other
    assert {path.name for path in tmp_path.iterdir()} == {"true-pairs.png", "negative-weight.png"}


def test_tower_errors(command: Command, world: Path, tower: Path, tmp_path: Path) -> None:
    message = command.fails("tower", world / "run", "--data", world / "validation")
    assert message == f"counterpoint: {world / 'run'}: a nv-l run, not a correlation tower"
    silent = write(tmp_path / "silent.tfrecord", *clips(4, sound=False))
    assert f"{tower}: no clips to measure a tower on" in command.fails("tower", tower, "--data", silent)
    FeatureSet(SIZES, "ours").save(tmp_path)
    assert f"{tower} reads youtube8m features" in command.fails("tower", tower, "--data", silent)


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain(command: Command, world: Path, gated: Path, tmp_path: Path) -> None:
    shard = world / "validation" / "b.tfrecord"
    printed = command("explain", gated, f"{shard}#val003", "--top", 2, "--out", tmp_path / "x.png")
    assert printed.code == 0
    header, *rows = [
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        for line in printed.out.splitlines()
        if re.search("[│┃]", line)
    ]
    changes = ["without audio", "without video", "audio of val004", "video of val004"]
    assert header == ["category", "probability", *changes]
    assert printed.out.splitlines()[-1] == f"drawn in {tmp_path / 'x.png'}"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    stored = command("explain", gated, f"{shard}#3", "--top", 2, "--out", tmp_path / "x.png", "--json").json
    assert stored["clip"] == "val003"
    assert list(stored["changes"]) == changes
    categorized = command("categorize", gated, shard, "--top", 2, "--json").json[3]["categories"]
    for row, result, known in zip(rows, stored["categories"], categorized, strict=True):
        assert row[0] == result["path"] == known["path"]
        assert result["probability"] == pytest.approx(known["probability"], abs=1e-6)
    steps = len(stored["timelines"]["audio"]["present"])
    assert len(stored["per_second"]["audio and video"]) == steps


def test_explain_draws_again(command: Command, world: Path, tmp_path: Path) -> None:
    """Over its own picture, of each kind."""
    shard = world / "validation" / "b.tfrecord"
    for suffix in (".png", ".svg", ".pdf", ".jpg"):
        for _ in range(2):
            printed = command("explain", world / "run", f"{shard}#0", "--top", 1, "--out", tmp_path / f"x{suffix}")
            assert printed.code == 0, printed.err


def test_explain_swaps(command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next clip's tracks, those of one that is named, or nobody's; the picture is named after the clip."""
    monkeypatch.chdir(tmp_path)
    shard = world / "validation" / "b.tfrecord"
    for clip_id, more, other in (("val023", [], "val000"), ("val001", ["--swap", "val007"], "val007")):
        stored = command("explain", world / "run", f"{shard}#{clip_id}", *more, "--json").json
        assert list(stored["changes"])[2:] == [f"audio of {other}", f"video of {other}"]
        assert (tmp_path / f"{clip_id}.png").exists()
    alone = write(tmp_path / "alone.tfrecord", clip("alone", [99], video=codes(3, 16)))  # a label nobody knows
    assert list(command("explain", world / "run", f"{alone}#alone", "--json").json["changes"]) == ["without video"]


def test_a_picture_is_drawn_where_one_is(
    command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips of videos are called by their paths, and other people's clips as they please."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ids = ["trip/reef.mp4", "../above", f"{tmp_path}/away", "Episode #3.mp4"]
    shard = write(tmp_path / "a.tfrecord", *(clip(name, [10], video=codes(3, 16)) for name in ids))
    for name in ids:
        assert command("explain", world / "run", f"{shard}#{name}").code == 0
    assert sorted(path.name for path in Path().iterdir()) == [
        "Episode #3.mp4.png",
        "above.png",
        "away.png",
        "reef.mp4.png",
    ]
    assert not list(tmp_path.glob("*.png"))


def test_explain_errors(command: Command, world: Path) -> None:
    shard = world / "validation" / "b.tfrecord"
    assert "name the clip as SHARD#ID" in command.fails("explain", world / "run", shard)
    message = command.fails("explain", world / "run", f"{shard}#0", "--out", "x.gif")
    assert "x.gif: a picture is called *.png, *.svg" in message
    assert f"{shard}: no clip 'nobody'" in command.fails("explain", world / "run", f"{shard}#nobody")
    assert f"{shard}: no clip 'nobody'" in command.fails("explain", world / "run", f"{shard}#0", "--swap", "nobody")
    assert "c.tfrecord: record 3 at byte " in command.fails("explain", world / "run", f"{world / 'bad'}#0")


# --- categorize -------------------------------------------------------------------------------------------------------


def test_categorize(command: Command, world: Path) -> None:
    printed = command("categorize", world / "run", world / "validation", "--top", 2)
    assert printed.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.out.splitlines() if "│" in line]
    assert len(rows) == 24 * 2
    assert [row[0] for row in rows[::2]] == [f"val{i:03}" for i in range(24)]
    assert {row[0] for row in rows[1::2]} == {""}
    assert all(row[2] in TAXONOMY.paths for row in rows)
    assert all(re.fullmatch(r"[01]\.\d{3}", row[1]) for row in rows)


def test_categorize_explains_video_files_alone(command: Command, world: Path, tmp_path: Path) -> None:
    message = command.fails("categorize", world / "run", world / "validation", "--explain", tmp_path / "why")
    assert "--explain is for video files" in message


def test_categorize_json(command: Command, world: Path) -> None:
    answers = command("categorize", world / "run", world / "validation", "--top", 9, "--json").json
    assert [answer["id"] for answer in answers] == [f"val{i:03}" for i in range(24)]
    for answer in answers:
        probabilities = {category["path"]: category["probability"] for category in answer["categories"]}
        assert set(probabilities) == set(TAXONOMY.paths)
        assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
        for path, probability in probabilities.items():
            parent = path.rpartition(":")[0]
            assert not parent or probability <= probabilities[parent]
    best = command("categorize", world / "run", world / "validation", "--top", 1, "--json").json
    assert [answer["categories"] for answer in best] == [answer["categories"][:1] for answer in answers]


def test_categorize_needs_no_labels(command: Command, world: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "new.tfrecord", clip("new", [99], video=codes(3, 16)))
    assert command("categorize", world / "run", path, "--json").json[0]["id"] == "new"


def test_names_are_printed_as_they_are(command: Command, world: Path, tmp_path: Path) -> None:
    """Neither [brackets] nor :colons: mean anything to whoever prints them."""
    tree = Taxonomy((Category("v", "", "Vehicle [bold]"), Category("c", "v", "car"), Category("d", "c", "drift")))
    Labelling(tree, LabelMap(tuple(Label(i, "x", 9, ("d",)) for i in (10, 11, 20)), tree)).save(tmp_path / "taxonomy")
    arguments = training(world, tmp_path / "run", "--training.max_epochs", "1")
    assert command(*[tmp_path / "taxonomy" if w == str(world / "taxonomy") else w for w in arguments]).code == 0
    path = write(tmp_path / "[red]" / "a.tfrecord", *clips(1, prefix="[i]"))
    out = command("categorize", tmp_path / "run", path).out
    assert "│ [i]000 " in out
    assert "Vehicle [bold]:car:drift" in out
    assert "Vehicle [bold]" in command("evaluate", tmp_path / "run", "--data", path).out
    assert "Vehicle [bold]" in command("taxonomy", "show", tmp_path / "taxonomy").out
    assert "Vehicle [bold]" in command("taxonomy", "check", tmp_path / "taxonomy", "--few", 100).out
    assert f"skipped: {path}: record 0" in command("inspect", damage(path, 0), "--skip-bad-records").out.replace(
        "problem ", "skipped: "
    )


def test_nothing_is_folded_into_a_pipe(command: Command, world: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "long.tfrecord", *clips(1, prefix="x" * 300))
    assert f"│ {'x' * 300}000 │" in command("categorize", world / "run", path).out


# --- damage and other errors ------------------------------------------------------------------------------------------


def on_data(world: Path, out: Path, data: Path) -> list[list[str]]:
    """Every verb that reads shards."""
    arguments = training(world, out, "--training.max_epochs", "1", "--validation", str(world / "validation"))
    return [
        ["inspect", str(data)],
        [str(data) if word == str(world / "train") else word for word in arguments],
        ["evaluate", str(world / "run"), "--data", str(data)],
        ["categorize", str(world / "run"), str(data)],
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("nowhere", "nowhere: no shards there"),
        ("bad", "c.tfrecord: record 3 at byte "),
        ("bad/c.tfrecord", "c.tfrecord: record 3 at byte "),
        ("cut/*.tfrecord", "d.tfrecord: record 3 at byte "),
        ("taxonomy", "taxonomy: no shards there"),
        ("taxonomy/labels.tsv", "labels.tsv: record 0 at byte 0: not a TFRecord file"),
    ],
)
def test_errors_name_file_and_record(command: Command, world: Path, tmp_path: Path, data: str, expected: str) -> None:
    for arguments in on_data(world, tmp_path / "run", world / data):
        assert expected in command.fails(*arguments)
    assert not (tmp_path / "run").exists()


def test_bad_records_are_skipped_and_reported(command: Command, world: Path, tmp_path: Path) -> None:
    _, *others = on_data(world, tmp_path / "run", world / "*")
    for arguments in others:
        data = [str(world / "[bc]*") if word == str(world / "*") else word for word in arguments]
        printed = command(*data, "--skip-bad-records", "--json")
        assert printed.code == 0, printed.err
        skipped = [line for line in printed.err.splitlines() if line.startswith("skipped: ")]
        assert [re.search(r"(\w+\.tfrecord): record (\d+) at byte \d+: \w+", line).groups() for line in skipped] == [  # type: ignore[union-attr]
            ("c.tfrecord", "3"),
            ("c.tfrecord", "5"),
            ("d.tfrecord", "3"),
        ]
        assert "damaged records left out: 3" in printed.err.splitlines()
        if arguments[0] == "train":
            assert "nv-l: 11 clips, 24 for validation" in printed.err
        if arguments[0] == "evaluate":
            assert printed.json["overall"]["videos"] == 11
        if arguments[0] == "categorize":
            assert [answer["id"][:3] for answer in printed.json] == ["bad"] * 8 + ["cut"] * 3


def test_bad_records_are_reported_once(command: Command, world: Path, tmp_path: Path) -> None:
    """Also where the same shards are read for training and for validation."""
    shards = damage(write(tmp_path / "bad.tfrecord", *clips(40)), 3, 5)
    arguments = ["train", "nv-l", "--data", shards, "--taxonomy", world / "taxonomy", "--out", tmp_path / "run", *TINY]
    printed = command(*arguments, "--skip-bad-records", "--training.max_epochs", 1)
    assert printed.code == 0, printed.err
    assert printed.err.count("record 3 ") == printed.err.count("record 5 ") == 1
    assert "damaged records left out: 2" in printed.err


def test_not_a_run(command: Command, world: Path) -> None:
    for arguments in (["evaluate", world / "train", "--data", world / "train"], ["categorize", world / "train", "x"]):
        message = command.fails(*arguments)
        named = f"counterpoint: {world / 'train'}: not a run folder (no recipe.json)"
        expected = f"{named}; it is data, and the run is named before it"
        assert message == expected


def test_other_features(command: Command, world: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", *clips(2))
    FeatureSet(SIZES, "ours").save(tmp_path)
    message = command.fails("categorize", world / "run", path)
    assert f"{world / 'run'} reads youtube8m features (audio 8, video 16), not ours features" in message


def test_debug_shows_the_traceback(world: Path) -> None:
    plain, debug = shell("inspect", world / "bad"), shell("inspect", world / "bad", "--debug")
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert re.fullmatch(r"counterpoint: .*/c\.tfrecord: record 3 at byte \d+: payload checksum .*\n", plain.stderr)
    assert debug.returncode == 1
    assert debug.stderr.startswith("Traceback (most recent call last):")


def _like(verb: Callable[..., object], does: Callable[..., object]) -> Callable[..., object]:
    """A function with a verb's options that does something else."""
    return functools.wraps(verb)(lambda *args, **options: does())


def test_interrupts(command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_verbs, "inspect", _like(data_verbs.inspect, interrupted))
    assert command("inspect", "x") == (130, "", "counterpoint: interrupted\n")
    monkeypatch.setattr(model_verbs, "train", _like(model_verbs.train, interrupted))
    printed = command(*training(world, tmp_path / "run"))
    assert printed.code == 130
    assert printed.err == "counterpoint: interrupted; the same command goes on where it stopped\n"


# --- as a process -----------------------------------------------------------------------------------------------------


def test_the_reader_may_go_away(world: Path) -> None:
    """`counterpoint ... | head` says nothing about broken pipes."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "counterpoint.cli.main", "taxonomy", "show", str(world / "taxonomy")]
    for more in ([], ["--json"]):
        result = subprocess.run([*words, *more], stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
        assert result.stderr == b""
        assert result.returncode != 0
    os.close(writing)


def test_looking_needs_no_pytorch(world: Path) -> None:
    """It takes seconds to load."""
    program = "import sys; from counterpoint.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for arguments in (["inspect", world / "train"], ["taxonomy", "show", world / "taxonomy"], ["--help"]):
        words = [sys.executable, "-c", program, *map(str, arguments)]
        assert subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0


def _processor_seconds(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], capture_output=True, timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def test_help_is_quick() -> None:
    """Within a second of processor time, the interpreter's start included."""
    assert min(_processor_seconds("-m", "counterpoint.cli.main", "--help") for _ in range(3)) < 1
    nothing = min(_processor_seconds("-c", "pass") for _ in range(3))
    assert min(_processor_seconds("-c", "import counterpoint") for _ in range(3)) - nothing < 0.1


def test_a_recipe_of_ones_own(command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a module in the working directory, after --recipe or as the first word."""
    (tmp_path / "my_recipes.py").write_text(
        "from counterpoint.recipes import RECIPES\nMINE = RECIPES['nv-l'].with_(name='mine')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = [*training(world, tmp_path / "one")[2:], "--training.max-epochs", "1"]
    assert command("train", *options, "--recipe", "my_recipes:MINE").code == 0
    assert RunFolder.load(tmp_path / "one").recipe.name == "mine"
    printed = command("train", "my_recipes:MINE", *options, "--out", tmp_path / "two")
    assert printed.code == 0
    assert printed.err.startswith("mine: ")
    assert "did you mean MINE?" in command.fails("train", "my_recipes:MINES", *options)
    assert "--family.hidden" in command("train", "my_recipes:MINE", "--help").out


def test_completion(tmp_path: Path) -> None:
    """It is written for the shell that asks, and knows the verbs' options."""
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    words = [sys.executable, "-m", "counterpoint.cli.main", "--install-completion", "--shell", "bash"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "categorize" in written
    assert "--skip-bad-records" in written
