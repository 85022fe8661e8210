import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training.world import LABELLING, SIZES, TAXONOMY, clip, clips, codes, dataset, run, write

from counterpoint import recommendation as recommending
from counterpoint.cli.main import main
from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.ranking import log_odds
from counterpoint.evaluation.survey import Survey
from counterpoint.recommendation import Library, Rows, beside, build, interests, places, read, recommend
from counterpoint.run import RunFolder

pytest.importorskip("faiss", reason="the extra `recommend` is not installed")

FOOD, DESSERT, SOUP, SPORT, BALL = range(5)
KINDS = {"dessert": (FOOD, DESSERT), "soup": (FOOD, SOUP), "ball": (SPORT, BALL)}


def library(kinds: list[str], ids: list[str] | None = None, sure: float = 0.9, seed: int = 0) -> Library:
    """Clips of a kind are sure of its categories, and their hidden layers point the same way but for some noise."""
    random = np.random.default_rng(seed)
    probability = np.full((len(kinds), len(TAXONOMY)), 0.02, np.float32)
    hidden = random.normal(0, 0.1, (len(kinds), 8)).astype(np.float32)
    for i, kind in enumerate(kinds):
        probability[i, list(KINDS[kind])] = sure
        hidden[i, list(KINDS).index(kind)] += 1
    names = np.array([name.encode() for name in ids or [f"{kind}{i}" for i, kind in enumerate(kinds)]])
    figures = np.zeros((len(kinds), 1), np.float32)
    answers = Survey(Path(), {"pairs": []}, names, log_odds(probability), figures, None, hidden.astype(np.float16))
    rows = Rows.of(answers)
    return Library(rows, build(rows, len(rows), rows.size), TAXONOMY)


def ids(found: recommending.Recommendations) -> list[str]:
    return [one.id for one in found.clips]


# --- the score --------------------------------------------------------------------------------------------------------


def test_the_score_is_two_cosines() -> None:
    shown = library(["dessert", "soup", "ball", "dessert", "ball"])
    answers = shown.rows.survey
    assert answers.vectors is not None
    hidden = answers.vectors.astype(np.float64)
    probability = answers.probabilities(slice(None)).astype(np.float64)
    rarity = -np.log2(probability.mean(0))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    rows = shown.rows[slice(0, 5)]
    for i, j in ((0, 1), (0, 3), (2, 2)):
        embeddings = cosine(hidden[i] - hidden.mean(0), hidden[j] - hidden.mean(0))
        categories = cosine(probability[i] * rarity, probability[j] * rarity)
        assert rows[i] @ rows[j] == pytest.approx(0.5 * embeddings + 0.5 * categories, abs=1e-4)


def test_neighbours_are_the_best_of_all() -> None:
    shown = library(["dessert", "soup", "ball"] * 50)
    query = shown.rows[np.array([4])][0]
    scores = shown.rows[slice(0, 150)] @ query
    best = [i for i in np.argsort(-scores, kind="stable").tolist() if i != 4][:7]
    found = shown.neighbours(query, 7, {"soup4"})
    assert [i for _, i in found] == best
    np.testing.assert_allclose([score for score, _ in found], scores[best], atol=1e-5)


# --- the history ------------------------------------------------------------------------------------------------------


def test_one_interest() -> None:
    found = recommend(library(["dessert", "soup", "ball"] * 4), ["soup1", "soup4"], 2)
    assert sorted(ids(found)) == ["soup10", "soup7"]
    assert [(i.clips, i.places, i.category) for i in found.interests] == [(("soup1", "soup4"), 2, "Food:Soup")]
    for one in found.clips:
        assert (one.category, one.like in ("soup1", "soup4")) == ("Food:Soup", True)
        assert one.reason == f"because of Food:Soup, like {one.like}"


def test_each_interest_gets_its_share() -> None:
    shown = library(["dessert", "ball"] * 20)
    found = recommend(shown, ["ball1", "dessert0", "ball3", "ball5"], 8)
    assert [(i.clips, i.places, i.category) for i in found.interests] == [
        (("ball1", "ball3", "ball5"), 6, "Sport:Ball"),
        (("dessert0",), 2, "Food:Dessert"),
    ]
    for one in found.clips:
        assert one.id.startswith(["ball", "dessert"][one.interest])
        assert one.like.startswith(["ball", "dessert"][one.interest])
    # the mean of all would be nearer to the many
    mean = shown.rows[np.array(shown.find(["ball1", "dessert0", "ball3", "ball5"]))].mean(0)
    assert {shown.rows.survey.name(i)[:4] for _, i in shown.neighbours(mean, 8, set())} == {"ball"}


def test_what_one_interest_leaves_goes_to_others() -> None:
    found = recommend(library(["dessert", "ball", "ball", "ball", "ball", "ball"]), ["dessert0", "ball1"], 10)
    assert sorted(ids(found)) == ["ball2", "ball3", "ball4", "ball5"]


@pytest.mark.parametrize(
    ("sizes", "top", "expected"),
    [
        ([1], 3, [0, 0, 0]),
        ([3, 1], 4, [0, 1, 0, 0]),
        ([40, 1], 2, [0, 1]),
        ([2, 1, 1], 2, [0, 1]),
        ([1, 1], 4, [0, 1] * 2),
    ],
)
def test_places(sizes: list[int], top: int, expected: list[int]) -> None:
    assert places(sizes, top) == expected


def test_interests_by_average_linkage() -> None:
    # cosines: 0 and 1 are alike, 2 is like 1 by 0.5 and like 0 by 0.17: 0.34 on average, which is too little
    angles = np.radians([0.0, 20.0, 80.0])
    assert interests(np.stack([np.cos(angles), np.sin(angles)], 1)) == [[0, 1], [2]]
    angles = np.radians([0.0, 20.0, 70.0])  # 0.64 and 0.34: 0.49
    assert interests(np.stack([np.cos(angles), np.sin(angles)], 1)) == [[0, 1, 2]]


def test_the_history_is_never_recommended() -> None:
    names = ["a", "b", "a", "c", "d", "e", "f"]  # one clip is there twice
    found = recommend(library(["soup"] * 5 + ["ball"] * 2, names), ["a", "b", "a"], 10)
    assert sorted(ids(found)) == ["c", "d", "e", "f"]
    assert found.interests[0].clips == ("a", "b")


def test_no_id_twice() -> None:
    found = recommend(library(["soup"] * 4, ["a", "b", "b", "c"]), ["a"], 10)
    assert sorted(ids(found)) == ["b", "c"]
    # a clip that is there as two unlike ones is not recommended for two interests
    found = recommend(library(["soup", "ball", "soup", "ball"], ["a", "b", "c", "c"]), ["a", "b"], 10)
    assert ids(found) == ["c"]


def test_without_a_sure_category_the_reason_says_so() -> None:
    found = recommend(library(["soup", "soup", "ball"], sure=0.4), ["soup0"], 1)
    assert found.clips[0].category is None
    assert found.clips[0].reason == "by its features like soup0, though they share no sure category"


def test_the_reason_is_the_most_specific_one_that_both_are_sure_of() -> None:
    shown = library(["soup", "soup", "dessert", "ball"])
    scores = shown.rows.survey.scores
    scores[1, SOUP] = -1  # sure of Food alone
    found = recommend(shown, ["soup0"], 1)
    assert (found.clips[0].id, found.clips[0].category) == ("soup1", "Food")


def test_what_many_clips_share() -> None:
    """Their product is below what a float can be; the category that adds most is named all the same."""
    shown = library([name for _ in range(400) for name in ("dessert", "soup")])
    scores, rarity = shown.rows.survey.scores, shown.rows.rarity
    scores[:] = -9
    scores[:, [DESSERT, SOUP]] = log_odds(np.array([0.55, 0.8]))
    rarity[DESSERT], rarity[SOUP] = 1.2, 1.0  # 1.2 * 0.55 < 0.8
    assert recommending._shared(shown, np.arange(800)) == "Food:Soup"


def test_unknown_clips() -> None:
    shown = library(["soup", "ball"])
    with pytest.raises(Error, match="no clip 'x' in the library's 2"):
        recommend(shown, ["soup0", "x"])
    with pytest.raises(Error, match="no clip '0', '1', '2', '3', '4' and 2 more in"):
        recommend(shown, [str(i) for i in range(7)])


# --- the index --------------------------------------------------------------------------------------------------------


def test_a_large_library_finds_much_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    factors = random.normal(size=(12, 300)).astype(np.float32)
    rows = random.normal(size=(3000, 12)).astype(np.float32) @ factors + random.normal(0, 0.3, (3000, 300))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    monkeypatch.setattr(recommending, "EXACT", 100)
    monkeypatch.setattr(recommending, "REDUCED", 32)
    monkeypatch.setattr(recommending, "PROBED", 24)
    index = build(rows, 3000, 300)
    cells = recommending._faiss().extract_index_ivf(index)
    assert (cells.nlist, cells.d, cells.nprobe) == (3000 // 39, 32, 24)
    recommending._faiss().write_index(index, str(tmp_path / "index"))
    found = read(tmp_path / "index").search(rows[:40], 20)[1]
    exact = np.argsort(-rows[:40] @ rows.T)[:, :10]
    recall = np.mean([np.isin(exact[i], found[i]).mean() for i in range(40)])
    assert recall > 0.95


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    made = run(folder / "run")
    made.save()
    made.save_weights(made.build())
    write(folder / "shards" / "a.tfrecord", *clips(30))
    return folder


def command(world: Path, *more: object) -> int:
    arguments = ["recommend", world / "run", "--data", world / "shards", *more]
    return main([str(argument) for argument in arguments])


def test_command(world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "history").write_text("clip003\n\nclip007\n")
    assert command(world, "--history", "clip001", f"@{tmp_path / 'history'}", "--top", 4, "--json") == 0
    first = capsys.readouterr()
    found = json.loads(first.out)
    assert sorted(name for one in found["interests"] for name in one["clips"]) == ["clip001", "clip003", "clip007"]
    assert len({one["id"] for one in found["recommendations"]}) == 4
    assert not {one["id"] for one in found["recommendations"]} & {"clip001", "clip003", "clip007"}
    assert "an index of 30 clips" in first.err
    made = RunFolder.load(world / "run")
    folder = beside(made, Dataset([world / "shards"], LABELLING))
    assert folder.parent == world / "shards" / "counterpoint-recommend"
    time = (folder / "index.faiss").stat().st_mtime_ns
    assert command(world, "--history", "clip001", "--top", 4) == 0  # nothing is made again
    second = capsys.readouterr()
    assert second.err == ""
    assert "like clip001" in second.out
    assert (folder / "index.faiss").stat().st_mtime_ns == time


def test_an_index_of_other_shards_is_refused(world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command(world, "--history", "clip001", "--index", tmp_path / "index") == 0
    other = write(tmp_path / "other.tfrecord", *clips(30, seed=8))
    assert command(world, "--history", "clip001", "--index", tmp_path / "index", "--data", other) == 1
    assert "other clips" in capsys.readouterr().err.splitlines()[-1]


def test_beside_shards_that_nobody_may_write(tmp_path: Path, cache_folder: Path) -> None:
    data = dataset(write(tmp_path / "shards" / "a.tfrecord", *clips(3)))
    (tmp_path / "shards").chmod(0o555)
    assert beside(run(tmp_path / "run"), data).parent == cache_folder / "counterpoint-recommend"


@pytest.mark.parametrize(
    ("history", "message"), [("nobody", "no clip 'nobody'"), ("@none", "none: cannot be read as a list of ids")]
)
def test_command_errors(world: Path, capsys: pytest.CaptureFixture[str], history: str, message: str) -> None:
    assert command(world, "--history", history) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_library_of_one_clip(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "mute.tfrecord", clip("mute", [10], video=codes(2, SIZES["video"])))
    assert command(world, "--history", "mute", "--data", tmp_path / "mute.tfrecord") == 0
    assert "mute" in capsys.readouterr().out  # nothing is left to recommend
