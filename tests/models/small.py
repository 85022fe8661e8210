"""The recipes at a size that takes milliseconds, and batches for them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks
from counterpoint.models.baselines import BottleneckFamily, CrossAttentionFamily, OneStreamFamily
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.models.fusion import Correlation
from counterpoint.models.heads import HeadKind, LinearHead, MLPHead, ResidualHead
from counterpoint.models.mean import MeanFamily
from counterpoint.recipes import (
    RECIPES,
    TOWER_RECIPES,
    AttentionClusterFamily,
    ConstantConfig,
    ContrastiveConfig,
    Family,
    HeadConfig,
    JoinedConfig,
    NetVLADFamily,
    Recipe,
    TowerRecipe,
    TransformerFamily,
)

TWO = {"video": 5, "audio": 3}
THREE = {**TWO, "text": 2}
STEPS = 5
"""The longest clip of a dense influence along steps."""
CATEGORIES = 4
FAMILIES: dict[str, Family] = {
    "nv": NetVLADFamily(clusters={"video": 4, "audio": 3, "text": 2, "joined": 4}, hidden=6),
    "tm": TransformerFamily(widths={"video": 8, "audio": 4, "text": 4, "joined": 8}, heads=2),
    "rnn": AttentionClusterFamily(widths={"video": 6, "audio": 4, "text": 4, "joined": 6}, units=3, hidden=6),
}
MEAN = MeanFamily()
HEADS: tuple[HeadKind, ...] = (
    HeadConfig(hidden=7),
    LinearHead(),
    MLPHead(hidden=7),
    ResidualHead(width=6, hidden=5),
)
BASELINES: dict[str, Family] = {
    "tm-xattn": CrossAttentionFamily(width=6, heads=2),
    "tm-mbt": BottleneckFamily(width=6, heads=2, tokens=2),
    "tm-bert": OneStreamFamily(width=6, heads=2),
}


def family_of(name: str) -> str:
    """The first part of a recipe's name."""
    return name.partition("-")[0]


def small(name: str, family: Mapping[str, object] | None = None, **fusion: object) -> Recipe:
    """A recipe at this size, with other settings of its family and fusion; F is one dense map unless set otherwise."""
    if RECIPES[name].fusion.has_influence:
        fusion = {"hidden": (), "reach": None, **fusion}
    return replace(
        RECIPES[name],
        family=replace(BASELINES.get(name) or FAMILIES.get(family_of(name), MEAN), **(family or {})),  # type: ignore[arg-type]
        fusion=replace(RECIPES[name].fusion, **fusion),  # type: ignore[arg-type]
        head=next(head for head in HEADS if type(head) is type(RECIPES[name].head)),
        max_steps=STEPS,
    )


def small_tower(name: str) -> TowerRecipe:
    """A tower's recipe at this size."""
    recipe = TOWER_RECIPES[name]
    hidden = 6 if isinstance(recipe.comparison, ContrastiveConfig) and recipe.comparison.hidden else 0
    contrastive = ContrastiveConfig(embedding=4, hidden=hidden)
    comparisons = {JoinedConfig: JoinedConfig(hidden=6), ContrastiveConfig: contrastive}
    comparison = comparisons.get(type(recipe.comparison), ConstantConfig(probability=0.25))
    family = FAMILIES.get(name.split("-")[1], recipe.family)
    return replace(recipe, family=family, comparison=comparison, max_steps=STEPS)


MODELS: dict[str, tuple[Recipe, dict[str, int]]] = {
    **{name: (small(name), TWO) for name in RECIPES},
    **{f"{name} deep": (small(name, hidden=(4,)), TWO) for name in ("nv-cm", "tm-cm", "rnn-cm", "tm-cm-c")},
    "nv-cm reach deep": (small("nv-cm", reach=1, hidden=(4,)), TWO),
    "nv-cm-g reach": (small("nv-cm-g", reach=2), TWO),
    "nv-cm-c reach": (small("nv-cm-c", reach=1), TWO),
    "rnn-cm-g reach": (small("rnn-cm-g", reach=2), TWO),
    "tm-cm reach deep": (small("tm-cm", reach=1, hidden=(1, 1)), TWO),
    "rnn-cm reach deep": (small("rnn-cm", reach=1, hidden=(1,)), TWO),
    "tm-cm-c reach deep": (small("tm-cm-c", reach=1, hidden=(1,)), TWO),
    **{f"{name} input": (small(name, into="input"), TWO) for name in ("nv-cm-c", "tm-cm-c", "rnn-cm-c")},
    "rnn-cm gru": (small("rnn-cm", {"recurrence": "gru"}), TWO),
    "rnn-cm none": (small("rnn-cm", {"recurrence": "none"}), TWO),
    "tm-cm-g layers": (small("tm-cm-g", {"layers": 2}), TWO),
    **{f"{name} three": (small(name), THREE) for name in ("nv-e", "nv-cm-c", "tm-cm-g", "rnn-cm")},
    "tm-cm-c input three": (small("tm-cm-c", into="input"), THREE),
    **{f"{name} three": (small(name), THREE) for name in BASELINES},
    "tm-mbt layers": (small("tm-mbt", {"layers": 3}), TWO),
    **{
        f"{name} sound": (replace(small(name), modalities=("audio",)), TWO) for name in ("nv-e", "rnn-cm-g", *BASELINES)
    },
    **{f"{name} averaged": (replace(small(name), averaged=True), TWO) for name in ("nv-e", "nv-cm-g", "nv-cm-c")},
    "tm-cm-c two of three": (replace(small("tm-cm-c"), modalities=("text", "audio")), THREE),
}
"""All recipes, and what else a fusion or family can do."""


class GivenTower(Tower):
    """A tower whose probabilities are given."""

    def __init__(self, tower: Tower, probability: Tensor) -> None:
        super().__init__(tower.trunk, tower.comparison)
        self.probability = probability

    def forward(self, tracks: Tracks, per_second: bool = False) -> Correlation:
        own = super().forward(tracks, per_second)
        return own._replace(probability={pair: self.probability.to(was) for pair, was in own.probability.items()})


def stir(module: nn.Module) -> None:
    """Move every parameter, as training does: what begins at zero could hide a leak."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


def build_tower(name: str, sizes: Mapping[str, int]) -> Tower:
    torch.manual_seed(1)
    tower = small_tower(name).build(sizes)
    stir(tower)
    return tower.double().eval()


def build(recipe: Recipe, sizes: Mapping[str, int], probability: Tensor | None = None, seed: int = 0) -> Categorizer:
    """A model of float64 in evaluation mode; its tower, if any, gives ``probability`` or its own."""
    tower = build_tower(f"correlation-{family_of(recipe.name)}", sizes) if recipe.needs_tower else None
    if tower is not None and probability is not None:
        tower = GivenTower(tower, probability)
    torch.manual_seed(seed)
    model = recipe.build(sizes, CATEGORIES, tower)
    for part in (model.trunk, model.head):
        stir(part)
    return model.double().eval()


@cache
def model(name: str) -> Categorizer:
    """One of `MODELS`; the same object each time, so leave it as it is."""
    return build(*MODELS[name])


def track(generator: torch.Generator, clips: int, steps: int, size: int, codes: bool, present: float) -> Track:
    shape = (clips, steps, size)
    features = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if not codes:
        features = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Track(features, torch.rand(clips, steps, generator=generator) < present)


def batch(
    sizes: Mapping[str, int], clips: int = 4, steps: int = STEPS, seed: int = 0, codes: bool = False, present: float = 1
) -> Tracks:
    """Random tracks that have a share ``present`` of their steps; something stands in the others as well."""
    generator = torch.Generator().manual_seed(seed)
    return {name: track(generator, clips, steps, size, codes, present) for name, size in sizes.items()}


@st.composite
def batches(draw: st.DrawFn, sizes: Mapping[str, int], least: int = 1) -> Tracks:
    """Batches of at least ``least`` clips; some clips have none of a modality's steps."""
    return batch(
        sizes,
        clips=draw(st.integers(least, 4)),
        steps=draw(st.integers(1, STEPS)),
        seed=draw(st.integers(0, 1 << 31)),
        codes=draw(st.booleans()),
        present=draw(st.sampled_from([0.3, 0.8, 1.0])),
    )


def pick(tracks: Tracks, clips: Tensor) -> Tracks:
    return {name: Track(track.features[clips], track.mask[clips]) for name, track in tracks.items()}
