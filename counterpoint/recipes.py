"""Recipes: complete experiments by the paper's names.

``nv-`` NetVLAD, ``tm-`` Transformer, ``rnn-`` attention clusters; then ``e`` early, ``l`` late, ``cm`` cross-modal,
``cm-g`` gated, ``cm-c`` concatenated. Then what the paper leaves out: ``cm-a``, told all that the tower compares;
``cm-self``, whose modalities each hear themselves; ``picture`` or ``sound`` alone; and the rivals ``tm-xattn``
cross-attention, ``tm-mbt`` attention bottlenecks, ``tm-bert`` one stream.

A recipe is plain data: print it, change a field with `dataclasses.replace`, or build it::

    recipe = RECIPES["nv-l"]
    model = recipe.build({"video": 1024, "audio": 128}, categories=640)
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

from counterpoint.errors import Error
from counterpoint.families import AttentionClusterFamily as AttentionClusterFamily
from counterpoint.families import BottleneckFamily, CrossAttentionFamily, OneStreamFamily
from counterpoint.families import Family as Family
from counterpoint.families import NetVLADFamily as NetVLADFamily
from counterpoint.families import TransformerFamily as TransformerFamily
from counterpoint.models.categorizer import JOINED, Categorizer, Head, Read, Trunk
from counterpoint.models.correlation import Comparison, Constant, Contrastive, Joined, Tower
from counterpoint.models.fusion import Concatenated, CrossModal, Early, Fusion, Gated, Late, SelfModal

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]
"""As in Lightning."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The deep network that joins the modalities."""

    hidden: int = 1024
    dropout: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train; the defaults are the paper's (section 4.2) where it gives them.

    Args:
        influence_lr_scale: F learns at so many times the learning rate.
        patience: the learning rate is multiplied by ``factor`` where validation GAP (a tower's AUC) is no better, by a
            ten-thousandth of it, for more epochs than this.
        stop_patience: training stops where it is no better at all for so many epochs.
        modality_dropout: in this share of training clips one of the data's modalities, chosen evenly, is taken away.
        max_epochs: 0 leaves the model as it was drawn, for a control.
        batch_size: clips in a batch, of all processes together where several train.
        precision: of the arithmetic; ``bf16-mixed`` takes about half the time where the processor has it.
        compile: let `torch.compile` make the model's kernels: minutes before the first steps, faster ones after.
        accumulate: batches whose gradients make one step.
    """

    learning_rate: float = 2e-4
    influence_lr_scale: float = 1.0
    weight_decay: float = 0.0
    batch_size: int = 128
    max_epochs: int = 10
    patience: int = 2
    factor: float = 0.5
    stop_patience: int = 5
    modality_dropout: float = 0.0
    precision: Precision = "32-true"
    compile: bool = False
    accumulate: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class JoinedConfig:
    """The paper's comparison: a deep network over both modalities' vectors."""

    hidden: int = 512

    def build(self, sizes: dict[str, int]) -> Comparison:
        return Joined(sizes, self.hidden)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """An embedding for each modality and their cosine."""

    embedding: int = 256
    dropout: float = 0.5

    def build(self, sizes: dict[str, int]) -> Comparison:
        return Contrastive(sizes, self.embedding, self.dropout)


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """No comparison: the same probability for every clip."""

    probability: float = 0.5

    def build(self, sizes: dict[str, int]) -> Comparison:
        return Constant(self.probability)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """False pairs in a tower's training.

    Args:
        weight: of a false pair against a true one (2 is the one plotted in Fig. 9).
        hard_share: joined form: the share of false pairs that are the most convincing ones of their batch.
        hard_from: the epoch from which on they are.
    """

    weight: float = 1.0
    hard_share: float = 0.5
    hard_from: int = 1


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """A correlation tower's complete experiment (section 3).

    Args:
        damping: see `counterpoint.models.categorizer.Read`; only where features are principal components.
        averaged: a clip is read as one step, the mean over its steps, as YouTube-8M's video-level records are.
    """

    name: str
    family: Family
    comparison: JoinedConfig | ContrastiveConfig | ConstantConfig = field(default_factory=ContrastiveConfig)
    negatives: Negatives = field(default_factory=Negatives)
    training: Training = field(default_factory=lambda: Training(learning_rate=1e-3, batch_size=256))
    damping: float = 20.0
    max_steps: int = 300
    averaged: bool = False

    def build(
        self, sizes: Mapping[str, int], categories: int = 0, tower: Tower | None = None, components: bool = False
    ) -> Tower:
        """The untrained tower, for features of these sizes by modality; it needs no categories and no other tower."""
        damping = self.damping if components else 0.0
        trunk, widths = build_trunk(self.family, Late(), sizes, self.max_steps, damping=damping, averaged=self.averaged)
        return Tower(trunk, self.comparison.build(widths))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named, complete experiment.

    Args:
        max_steps: longer clips are cut here (300 s in the paper).
        modalities: those that the model reads; none named: all. A tower that it listens to reads its own.
        averaged: a clip is read as one step, the mean over its steps, as YouTube-8M's video-level records are.
    """

    name: str
    family: Family
    fusion: Fusion
    head: HeadConfig = field(default_factory=HeadConfig)
    training: Training = field(default_factory=Training)
    max_steps: int = 300
    modalities: tuple[str, ...] = ()
    averaged: bool = False

    def build(
        self, sizes: Mapping[str, int], categories: int, tower: Tower | None = None, components: bool = False
    ) -> Categorizer:
        """The untrained model, for features of these sizes by modality; ``components`` makes it no different.

        Raises:
            Error: the fusion needs a trained tower and there is none, or the features lack a modality.
        """
        if unknown := set(self.modalities) - set(sizes):
            raise Error(f"{self.name} reads {min(unknown)!r}, and the features are {', '.join(sizes)}")
        sizes = {name: size for name, size in sizes.items() if name in (self.modalities or sizes)}
        if self.fusion.tower and tower is None:
            raise Error(f"{self.name} needs a trained correlation tower")
        context = self.fusion.context(tower.comparison.size) if self.fusion.tower and tower is not None else 0
        trunk, widths = build_trunk(self.family, self.fusion, sizes, self.max_steps, context, averaged=self.averaged)
        head = Head(sum(widths.values()), self.head.hidden, categories, self.head.dropout)
        return Categorizer(trunk, head, tower)


def build_trunk(
    family: Family,
    fusion: Fusion,
    sizes: Mapping[str, int],
    max_steps: int,
    context: int = 0,
    damping: float = 0.0,
    averaged: bool = False,
) -> tuple[Trunk, dict[str, int]]:
    """Everything before the head, and how many features it gives by track."""
    tracks = {JOINED: sum(sizes.values())} if fusion.joined else dict(sizes)
    readers = {name: family.reader(name, size) for name, size in tracks.items()}
    read = Read({name: reader for name, (reader, _) in readers.items()}, sizes, fusion.joined, damping, averaged)
    layers, widths = family.stack({name: width for name, (_, width) in readers.items()}, fusion, max_steps, context)
    return Trunk(read, layers), dict(widths)


def _recipes(prefix: str, family: Family, influence: CrossModal) -> list[Recipe]:
    """One family's nine; ``influence`` is its F."""
    f: dict[str, Any] = {"hidden": influence.hidden, "reach": influence.reach, "start": influence.start}
    fusions = {"e": Early(), "l": Late(), "cm": influence, "cm-g": Gated(**f), "cm-c": Concatenated(**f)}
    fusions |= {"cm-a": Concatenated(told="agreement", **f), "cm-self": SelfModal(**f)}
    alone = {"picture": ("video",), "sound": ("audio",)}
    return [
        *(Recipe(name=f"{prefix}-{name}", family=family, fusion=fusion) for name, fusion in fusions.items()),
        *(Recipe(name=f"{prefix}-{name}", family=family, fusion=Late(), modalities=m) for name, m in alone.items()),
    ]


FAMILIES: dict[str, Family] = {
    "nv": NetVLADFamily(),
    "tm": TransformerFamily(),
    "rnn": AttentionClusterFamily(),
}
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # Over clusters a hidden layer pays. Over time, a map of distances learns from far fewer clips than one of all
        # pairs of steps, and serves any length; `--fusion.reach null` is the paper's. It begins as the other's own
        # weights: near zero, its one ReLU can fall silent in the first steps, and then never learns.
        *_recipes("nv", FAMILIES["nv"], CrossModal(hidden=(64,))),
        *_recipes("tm", FAMILIES["tm"], CrossModal(reach=30, start="identity")),
        *_recipes("rnn", FAMILIES["rnn"], CrossModal(reach=30, start="identity")),
        # At these widths they have about as many parameters as tm-cm-c.
        Recipe(name="tm-xattn", family=CrossAttentionFamily(), fusion=Late()),
        Recipe(name="tm-mbt", family=BottleneckFamily(), fusion=Late()),
        Recipe(name="tm-bert", family=OneStreamFamily(), fusion=Late()),
    )
}
# A tower decides one thing of a clip and overfits sooner: few clusters and a wide descriptor.
TOWER_FAMILIES: dict[str, Family] = {**FAMILIES, "nv": NetVLADFamily(clusters={"video": 8, "audio": 8}, hidden=1024)}
UNTRAINED = Training(learning_rate=1e-3, batch_size=256, max_epochs=0)


def _towers(name: str, family: Family) -> list[TowerRecipe]:
    """One family's three; the last is a control, which knows nothing."""
    joined, weight = JoinedConfig(), Negatives(weight=2.0)
    return [
        TowerRecipe(name=f"correlation-{name}", family=family),
        TowerRecipe(name=f"correlation-{name}-joined", family=family, comparison=joined, negatives=weight),
        TowerRecipe(name=f"correlation-{name}-random", family=family, training=UNTRAINED),
    ]


# Nothing of its trunk counts.
CONSTANT = TowerRecipe(
    name="correlation-constant",
    family=NetVLADFamily(clusters={"video": 1, "audio": 1}, hidden=1),
    comparison=ConstantConfig(),
    training=UNTRAINED,
)
TOWER_RECIPES: dict[str, TowerRecipe] = {
    recipe.name: recipe
    for recipe in (*(tower for name, family in TOWER_FAMILIES.items() for tower in _towers(name, family)), CONSTANT)
}

MANY = 10**6
# What numbers may be, by their field's name, where it is not from 1 to a million for whole ones, and from 0 for others.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("max_epochs", "patience", "hard_from", "reach"), (0, MANY)),
    "seed": (0, 2**63 - 1),
    "layers": (1, 1000),
    **dict.fromkeys(("dropout", "modality_dropout", "hard_share", "threshold"), (0, 1)),
    "factor": (0, 0.999),
}


def check(recipe: Recipe | TowerRecipe) -> None:
    """Raise Error, which names the field, for a number that makes no model or no training."""
    for path, name, value in _numbers(recipe):
        low, high = BOUNDS.get(name, (1, MANY) if isinstance(value, int) else (0, sys.float_info.max))
        if not low <= value <= high:
            bound = f"at most {high:g}" if value > high else f"at least {low:g}"
            allowed = f"from {low:g} to {high:g}" if high == 1 else bound
            raise Error(f"{recipe.name}: {path} must be {allowed}, not {value}")


def largest(recipe: Recipe | TowerRecipe) -> float:
    """The largest number that sizes a part of the model: a trained one has at least so many weights."""
    parts = (getattr(recipe, name) for name in ("family", "fusion", "head", "comparison") if hasattr(recipe, name))
    return max((value for part in parts for _, _, value in _numbers(part)), default=0)


def _numbers(part: Any, path: str = "", name: str = "") -> Iterator[tuple[str, str, float]]:
    """The path of each number in a recipe, its field's name and the number itself."""
    if isinstance(part, int | float) and not isinstance(part, bool):
        yield path, name, part
    elif is_dataclass(part):
        for inner, value in vars(part).items():
            yield from _numbers(value, f"{path}.{inner}".lstrip("."), inner)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _numbers(value, f"{path} of {key}", name)
    elif isinstance(part, tuple):
        for value in part:
            yield from _numbers(value, path, name)
