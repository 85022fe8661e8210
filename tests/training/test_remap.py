from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.models.baselines import TokenFamily
from counterpoint.predict import Predictor, batches
from counterpoint.recipes import RECIPES, TOWER_RECIPES, AttentionClusterFamily, ContrastiveConfig, TransformerFamily
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy
from counterpoint.training.remap import remap
from training.world import LABELLING, SIZES, TAXONOMY, clips, dataset, recipe, write

EDITED = Taxonomy(
    (
        Category("ball", "sport", "Ball Game"),  # renamed, and another row
        Category("sport", "", "Sport"),
        Category("meal", "food", "Meal"),  # new, above survivors
        Category("soup", "meal", "Soup"),  # moved
        Category("food", "", "Food"),
        Category("racing", "sport", "Racing"),  # new; dessert is gone
    )
)
MAPPED = Labelling(EDITED, LabelMap((Label(10, "Racing", 1, ("racing",)), Label(11, "Soup", 1, ("soup",))), EDITED))


WIDTHS = {"video": 8, "audio": 8, "joined": 8}
FAMILIES = {
    "nv": recipe().family,
    "tm": TransformerFamily(widths=WIDTHS, heads=2),
    "rn": AttentionClusterFamily(widths=WIDTHS, units=2, hidden=4),
}


def untrained(folder: Path, name: str) -> RunFolder:
    """A run with random weights, and a tower's run in it where its recipe needs one."""
    torch.manual_seed(3)
    features = FeatureSet(SIZES)
    if name in TOWER_RECIPES:
        tower = replace(
            TOWER_RECIPES[name], family=recipe().family, comparison=ContrastiveConfig(embedding=4), max_steps=5
        )
        run = RunFolder(folder, tower, LABELLING, features)
    else:
        family = RECIPES[name].family
        small = replace(family, width=8, heads=2) if isinstance(family, TokenFamily) else FAMILIES.get(name[:2], family)
        run = RunFolder(folder, replace(RECIPES[name], family=small, max_steps=5), LABELLING, features)
    run.save()
    if name in RECIPES and RECIPES[name].needs_tower:
        run.take_in(untrained(folder.parent / f"{name}-tower", "correlation-nv"))
    model = run.build()
    for parameter in model.parameters():  # so that the rows of the head differ
        torch.nn.init.normal_(parameter, std=0.3)
    run.save_weights(model)
    return RunFolder.load(folder)


def logits(run: RunFolder, shard: Path) -> np.ndarray:
    """(clip, category), each category by itself."""
    model = run.categorizer()
    batch = next(batches(run, Dataset([shard], run.labelling, labelled=False)))
    with torch.no_grad():
        return model(batch.tracks).logits.numpy()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "test.tfrecord", *clips(8))


@pytest.mark.parametrize("name", RECIPES)
def test_what_survives_is_the_same(name: str, tmp_path: Path, shard: Path) -> None:
    run = untrained(tmp_path / "one", name)
    changes = remap(run, MAPPED, tmp_path / "two")
    assert [change.what for change in changes.added] == ["meal", "racing"]
    assert [change.what for change in changes.removed] == ["dessert"]
    assert [change.what for change in changes.renamed] == ["ball"]
    assert [change.what for change in changes.moved] == ["soup"]

    moved = RunFolder.load(tmp_path / "two")
    assert moved.labelling == MAPPED
    assert moved.untrained == {"meal", "racing"}
    before, after = logits(run, shard), logits(moved, shard)
    for category in ("food", "soup", "sport", "ball"):
        np.testing.assert_allclose(
            after[:, EDITED.index(category)], before[:, TAXONOMY.index(category)], rtol=1e-4, atol=1e-5
        )
    # Above a survivor: as its own nearest ancestor that survives. The other begins rare.
    np.testing.assert_allclose(after[:, EDITED.index("meal")], after[:, EDITED.index("food")], rtol=1e-4)
    np.testing.assert_allclose(after[:, EDITED.index("racing")], -np.log(5), rtol=1e-5)


def test_consistent_predictions_of_survivors_stay(tmp_path: Path, shard: Path) -> None:
    """Whatever stands above them now."""
    run = untrained(tmp_path / "one", "nv-l")
    top = Taxonomy((Category("life", "", "Life"), *(replace(c, parent=c.parent or "life") for c in TAXONOMY)))
    remap(run, Labelling(top, LabelMap.identity(top)), tmp_path / "two")
    before = next(Predictor(run).predict(dataset(shard))).probabilities
    moved = RunFolder.load(tmp_path / "two")
    after = next(Predictor(moved).predict(Dataset([shard], moved.labelling, labelled=False))).probabilities
    np.testing.assert_allclose(after[:, 1:], before, rtol=1e-4)


def test_there_and_back_is_where_we_were(tmp_path: Path, shard: Path) -> None:
    run = untrained(tmp_path / "one", "nv-l")
    shuffled = Taxonomy(tuple(reversed(TAXONOMY.categories)))
    remap(run, Labelling(shuffled, LabelMap.identity(shuffled)), tmp_path / "two")
    assert remap(RunFolder.load(tmp_path / "two"), LABELLING, tmp_path / "three").rows() != []
    np.testing.assert_allclose(logits(RunFolder.load(tmp_path / "three"), shard), logits(run, shard), rtol=1e-4)


def test_a_tower_moves_as_it_is(tmp_path: Path) -> None:
    run = untrained(tmp_path / "one", "correlation-nv")
    remap(run, MAPPED, tmp_path / "two")
    before, after = run.tower().state_dict(), RunFolder.load(tmp_path / "two").tower().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_refusals(tmp_path: Path) -> None:
    run = untrained(tmp_path / "one", "nv-l")
    with pytest.raises(Error, match="holds a run already"):
        remap(run, MAPPED, tmp_path / "one")
    other = Taxonomy((Category("x", "", "X"),))
    with pytest.raises(Error, match="no category of its taxonomy"):
        remap(run, Labelling(other, LabelMap.identity(other)), tmp_path / "two")
    assert not (tmp_path / "two").exists()
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    for folder in (foreign, Path("/")):
        with pytest.raises(Error, match="holds something else; choose another --out"):
            remap(run, MAPPED, folder)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    (tmp_path / "one" / "weights.safetensors").unlink()
    with pytest.raises(Error, match="training has not ended"):
        remap(run, MAPPED, tmp_path / "two")


def test_goes_on_where_the_disk_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained(tmp_path / "one", "nv-l")

    def full(self: RunFolder, model: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_weights", full)
        with pytest.raises(OSError, match="No space"):
            remap(run, MAPPED, tmp_path / "two")
    remap(run, MAPPED, tmp_path / "two")
    assert RunFolder.load(tmp_path / "two").trained
