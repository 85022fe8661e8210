"""The taxonomy's verbs and flags on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.world import LABELLING, TAXONOMY, clip, clips, codes, dataset, run, write

from counterpoint.cli.main import main
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Label, Labelling, LabelMap, Taxonomy, load, youtube8m


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command: its exit code, output and messages."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A taxonomy of three leaves, one of them with a code."""
    coded = Taxonomy(tuple(replace(c, iab="210" if c.id == "food" else "") for c in TAXONOMY))
    Labelling(coded, LabelMap(LABELLING.labels.labels, coded)).save(tmp_path / "own")
    return tmp_path / "own"


def test_the_shipped_taxonomy_is_the_default(command: Any) -> None:
    code, out, _ = command("taxonomy", "show", "--json")
    shown = json.loads(out)
    assert (code, len(shown["categories"]), len(shown["labels"])) == (0, 640, 3862)
    assert command("taxonomy", "show")[1].startswith("640 categories, 3862 labels\n")
    assert command("taxonomy", "show", "youtube8m")[1] == command("taxonomy", "show")[1]
    assert command("taxonomy", "check", "--style") == (0, "no findings\n", "")


def test_a_folder_of_the_shipped_ones_name_comes_first(
    command: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.rename(tmp_path / "youtube8m")
    monkeypatch.chdir(tmp_path)
    assert command("taxonomy", "show", "youtube8m")[1].startswith("5 categories")


def test_a_folder_of_shards_is_no_taxonomy_and_no_run(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called."""
    (tmp_path / "youtube8m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert command("taxonomy", "show")[1].startswith("640 categories")
    assert RunFolder.load("youtube8m").trained


def test_shards_of_several_folders(command: Any, own: Path, tmp_path: Path) -> None:
    """Each with its taxonomy: the same serves, others would be taken for each other."""
    shards = [write(tmp_path / name / "a.tfrecord", *clips(4, prefix=name)) for name in ("a", "b")]
    for shard in shards:
        LABELLING.save(shard.parent / "taxonomy")
    result = json.loads(command("inspect", *shards, "--json")[1])["categories"]
    assert set(result) == set(TAXONOMY.paths)
    renamed = LabelMap((replace(LABELLING.labels.labels[0], name="Sleet", categories=("ball",)),), TAXONOMY)
    Labelling(TAXONOMY, renamed).save(tmp_path / "b" / "taxonomy")
    code, _, err = command("inspect", *shards)
    assert code == 1
    assert f"{tmp_path}/b/taxonomy: is another taxonomy than {tmp_path}/a/taxonomy; name the one of all shards" in err
    code, _, err = command("train", "nv-l", "--data", *shards, "--taxonomy", own, "--out", tmp_path / "run")
    assert code == 1
    assert f"{tmp_path}/b/taxonomy: label 10 is 'Sleet' there and 'Ice cream' in the taxonomy that is used" in err
    assert not (tmp_path / "run").exists()
    for path in (tmp_path / "b" / "taxonomy").iterdir():
        path.unlink()
    assert f"{tmp_path}/b/taxonomy: is not there, unlike {tmp_path}/a/taxonomy" in command("inspect", *shards)[2]


def test_pages_and_pictures(command: Any, own: Path, tmp_path: Path) -> None:
    html, svg = tmp_path / "tree.html", tmp_path / "food.svg"
    code, out, err = command("taxonomy", "show", own, "--html", html, "--svg", "Food", "--out", svg)
    assert (code, out) == (0, "")
    assert err.count("written: ") == 2
    assert "<title>The taxonomy own</title>" in html.read_text()
    assert "Food: 3 categories" in svg.read_text()
    assert json.loads(command("taxonomy", "show", own, "--html", html, "--json")[1])["categories"]
    code, out, err = command("taxonomy", "show", own, "--svg", "Food")
    assert (code, err) == (1, "counterpoint: --svg CATEGORY and --out FILE go together\n")
    assert command("taxonomy", "show", own, "--svg", "Boat", "--out", svg)[0] == 1
    assert "--levels is about the tree that is printed" in command("taxonomy", "show", own, "--levels", 1, "--json")[2]


def test_exceptions_excuse(command: Any, own: Path) -> None:
    assert "Sport" in command("taxonomy", "check", own)[1]  # with one child
    (own / "exceptions.tsv").write_text("check\tsubject\treason\nchildren\tSport\tit will grow\n")
    assert command("taxonomy", "check", own) == (0, "no findings\n", "")


def test_measure(command: Any, own: Path, tmp_path: Path) -> None:
    alike = [clip(f"a{i}", [10, 11]) for i in range(10)]
    apart = [clip(f"b{i}", [10, 20]) for i in range(20)]
    for one in (*alike, *apart):
        one.tracks["video"] = np.ones((1, 16), np.uint8)
    shard = write(tmp_path / "data" / "a.tfrecord", *alike, *apart)
    code, out, _ = command("taxonomy", "measure", own, "--data", shard)
    assert code == 1
    assert "30 labelled clips" in out
    assert "unexplained: label 10 (Ice cream) in Food:Dessert" in out
    result = json.loads(command("taxonomy", "measure", own, "--data", shard, "--json")[1])
    assert result["clips"] == 30
    subjects = result["unexplained"]
    rows = "".join(f"lift\t{subject}\tno wonder\n" for subject in subjects)
    (own / "exceptions.tsv").write_text(f"check\tsubject\treason\n{rows}")
    code, out, _ = command("taxonomy", "measure", own, "--data", shard)
    assert code == 0
    assert "no wonder" in out
    stranger = write(tmp_path / "data" / "b.tfrecord", clip("stranger", [99], video=codes(2, 16)))
    code, _, err = command("taxonomy", "measure", own, "--data", stranger)
    assert code == 1
    assert "b.tfrecord: record 0" in err
    assert "stranger" in err


def test_import_by_kind(command: Any, tmp_path: Path) -> None:
    nodes = [{"id": "a", "name": "A", "child_ids": ["b"]}, {"id": "c", "name": "C", "child_ids": ["b"]}]
    (tmp_path / "ontology.json").write_text(json.dumps([*nodes, {"id": "b", "name": "B", "child_ids": []}]))
    code, out, _ = command("taxonomy", "import", tmp_path / "ontology.json", "--out", tmp_path / "made")
    assert code == 0
    assert out.splitlines() == [
        f"{tmp_path / 'made'}: 3 categories, 3 labels",
        "1 categories have several parents; other-parents.tsv lists all but the first",
    ]
    assert load(tmp_path / "made").taxonomy.paths == ("A", "C", "A:B")
    (tmp_path / "made" / "labels.tsv").write_text("by hand")
    code, _, err = command("taxonomy", "import", tmp_path / "ontology.json", "--out", tmp_path / "made")
    assert (code, err) == (1, f"counterpoint: {tmp_path}/made: holds something else; choose another --out\n")
    assert (tmp_path / "made" / "labels.tsv").read_text() == "by hand"


def test_diff(command: Any, own: Path, tmp_path: Path) -> None:
    assert command("taxonomy", "diff", own, own) == (0, "no differences\n", "")
    LABELLING.save(tmp_path / "other")
    code, out, _ = command("taxonomy", "diff", own, tmp_path / "other", "--json")
    assert code == 0
    assert json.loads(out)["recoded"] == [{"what": "food", "before": "210", "after": ""}]
    assert "recoded" in command("taxonomy", "diff", own, tmp_path / "other")[1]


def test_merge(command: Any, own: Path, tmp_path: Path) -> None:
    for name, category in (("a", "dessert"), ("b", "soup")):
        labels = (Label(10, "Ice cream", 700, (category,)), Label(20, "Football", 800, ("ball",)))
        LabelMap(labels, TAXONOMY).write(tmp_path / f"{name}.tsv")
    words = ["taxonomy", "merge", tmp_path / "a.tsv", tmp_path / "b.tsv", "--taxonomy", own, "--out", tmp_path / "out"]
    code, out, _ = command(*words)
    assert code == 0
    assert "2 labels of 2 annotators, Krippendorff's alpha 0." in out
    assert "1 conflicts, 1 open" in out
    path = tmp_path / "out" / "conflicts.tsv"
    path.write_text(path.read_text().rstrip("\n") + "soup\n")
    figures = json.loads(command(*words, "--json")[1])
    assert figures["open"] == 0
    assert load(tmp_path / "out").labels.labels[0].categories == ("soup",)
    before = (own / "labels.tsv").read_bytes()
    assert "holds something else; choose another --out" in command(*words[:-1], own)[2]
    assert "no annotator's" in command(*words[:3], tmp_path / "out" / "labels.tsv", *words[4:])[2]
    assert (own / "labels.tsv").read_bytes() == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the weights it began with."""
    made = run(tmp_path_factory.mktemp("run") / "run")
    made.save()
    made.save_weights(made.build())
    return made.folder


def test_remap(command: Any, own: Path, trained: Path, tmp_path: Path) -> None:
    code, out, err = command("taxonomy", "remap", trained, own, "--out", tmp_path / "moved", "--json")
    assert code == 0
    assert json.loads(out)["kept"] == 5
    assert "5 categories kept, 0 untrained, 0 gone" in err
    shard = write(tmp_path / "a.tfrecord", *clips(3))
    before, after = (
        next(Predictor(RunFolder.load(folder)).predict(dataset(shard))) for folder in (trained, tmp_path / "moved")
    )
    assert np.array_equal(before.probabilities, after.probabilities)
    assert command("evaluate", tmp_path / "moved", "--data", shard)[0] == 0

    code, out, _ = command("categorize", tmp_path / "moved", shard, "--codes", "iab", "--top", "5", "--json")
    assert code == 0
    codes = {row["path"]: row["iab"] for row in json.loads(out)[0]["categories"]}
    assert codes == {"Food": "210", "Food:Dessert": "210", "Food:Soup": "210", "Sport": None, "Sport:Ball": None}
    assert "IAB" in command("categorize", tmp_path / "moved", shard, "--codes", "iab")[1]


def test_without_codes(command: Any, trained: Path, tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tfrecord", *clips(3))
    assert "iab" not in command("categorize", trained, shard, "--json")[1]
    code, _, err = command("categorize", trained, shard, "--codes", "iab")
    assert (code, "no category of its taxonomy has an IAB code" in err) == (1, True)


def test_train_takes_the_shipped_taxonomy_for_youtube8ms_features(command: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [
        clip(
            f"c{i}",
            [i % 9],
            video=rng.standard_normal((1, 1024), np.float32),
            audio=rng.standard_normal((1, 128), np.float32),
        )
        for i in range(24)
    ]
    shard, other = (write(tmp_path / name / "a.tfrecord", *made) for name in ("data", "validation"))
    small = ["--family.clusters", '{"video": 2, "audio": 2}', "--family.hidden", 8, "--head.hidden", 8]
    small += ["--training.max_epochs", 1]
    words = ["train", "nv-l", "--data", shard, "--validation", other, "--out", tmp_path / "run", *small]
    assert command(*words)[0] == 0
    assert RunFolder.load(tmp_path / "run").labelling == youtube8m()


def test_train_asks_for_a_taxonomy_elsewhere(command: Any, tmp_path: Path) -> None:
    shard = write(tmp_path / "data" / "a.tfrecord", *clips(12))
    code, out, err = command("train", "nv-l", "--data", shard, "--out", tmp_path / "run")
    assert (code, out) == (1, "")
    assert "(audio 8, video 16): the shipped taxonomy is for YouTube-8M's labels" in err
    assert "--taxonomy" in err


def test_measure_asks_for_a_taxonomy_elsewhere(command: Any, tmp_path: Path) -> None:
    """AudioSet's labels would pass for YouTube-8M's."""
    shard = write(tmp_path / "a.tfrecord", *clips(3))
    code, out, err = command("taxonomy", "measure", "--data", shard)
    assert (code, out) == (1, "")
    assert "name the taxonomy of this data before --data" in err
    assert command("taxonomy", "measure", "youtube8m", "--data", shard)[1] != ""


def test_inspect_counts_categories(command: Any, own: Path, tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tfrecord", *clips(3))
    assert json.loads(command("inspect", shard, "--json")[1])["categories"] == {}
    result = json.loads(command("inspect", shard, "--taxonomy", own, "--json")[1])["categories"]
    assert set(result) == set(TAXONOMY.paths)
    assert result["Food"] + result["Sport"] == 3
    own.rename(tmp_path / "taxonomy")  # beside the shard
    assert json.loads(command("inspect", shard, "--json")[1])["categories"] == result


def test_a_group_alone_lists_its_verbs(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command("taxonomy")
    assert code == 0
    assert "measure" in out


def test_names_of_strangers_do_nothing_to_a_terminal(command: Any, tmp_path: Path) -> None:
    names = ("\x1b]0;pwned\x07\x1b[31mred", "\u202egnp.exe", "[bold]click[/bold]", "=1+1")
    rows = "".join(f"c{i}\t\t{name}\n" for i, name in enumerate(names))
    (tmp_path / "categories.tsv").write_text(f"id\tparent\tname\n{rows}", encoding="utf-8")
    code, out, err = command("taxonomy", "show", tmp_path / "categories.tsv")
    assert code == 0, err
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert r"\x1b]0;pwned" in out
    assert "[bold]click[/bold]" in out


def test_secrets_of_urls_are_not_printed(command: Any, tmp_path: Path) -> None:
    code, out, err = command("inspect", "http://me:hidden@127.0.0.1:9/a.tfrecord?X-Amz-Signature=0a1b&part=1")
    assert code == 1
    assert "hidden" not in out + err
    assert "0a1b" not in out + err
