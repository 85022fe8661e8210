"""Recipes: complete experiments by the paper's names.

``nv-`` NetVLAD, ``tm-`` Transformer, ``rnn-`` attention clusters; then ``e`` early, ``l`` late, ``cm`` cross-modal,
``cm-g`` gated, ``cm-c`` concatenated. Then what the paper leaves out: ``cm-a``, which concatenates the tower's whole
agreement; ``cm-self``, whose modalities each influence themselves; ``picture`` or ``sound`` alone; and the baselines
``tm-xattn`` cross-attention, ``tm-mbt`` attention bottlenecks, ``tm-bert`` one stream; and on averaged features
``mean-linear`` logistic regression, ``mean-mlp`` and ``mean-residual`` plain networks. A recipe that ends in ``-s``
looks more at the seconds that the correlation tower finds in the other modality too; ``mean-s`` is the plainest one.

A recipe is plain data: print it, change fields with `Recipe.with_`, or build it::

    recipe = RECIPES["nv-l"].with_({"training.learning_rate": 1e-3})
    model = recipe.build({"video": 1024, "audio": 128}, categories=640)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from counterpoint.errors import UNREADABLE, Error, suggestion
from counterpoint.fields import (
    MANY,
    TYPE,
    FieldInfo,
    UnknownFieldError,
    bounded,
    changed,
    imported,
    listed,
    out_of_bounds,
    restored,
    stored,
    unknown_modalities,
    whole_numbers,
)
from counterpoint.models.attention_cluster import AttentionClusterFamily as AttentionClusterFamily
from counterpoint.models.baselines import BottleneckFamily, CrossAttentionFamily, OneStreamFamily
from counterpoint.models.categorizer import Categorizer, build_trunk
from counterpoint.models.correlation import ComparisonConfig, Tower
from counterpoint.models.correlation import ConstantConfig as ConstantConfig
from counterpoint.models.correlation import ContrastiveConfig as ContrastiveConfig
from counterpoint.models.correlation import JoinedConfig as JoinedConfig
from counterpoint.models.family import MODALITIES
from counterpoint.models.family import Family as Family
from counterpoint.models.fusion import JOINED, Concatenated, CrossModal, Early, Fusion, Gated, Late, SelfModal
from counterpoint.models.heads import HeadConfig as HeadConfig
from counterpoint.models.heads import HeadKind, LinearHead, MLPHead, ResidualHead
from counterpoint.models.mean import MeanFamily
from counterpoint.models.netvlad import NetVLADFamily as NetVLADFamily
from counterpoint.models.transformer import TransformerFamily as TransformerFamily
from counterpoint.tables import Table

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]
"""As in Lightning."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train; the defaults are the paper's (section 4.2) where it gives them.

    Args:
        learning_rate: of Adam.
        influence_lr_scale: F's learning rate as a multiple of the learning rate.
        weight_decay: of Adam.
        batch_size: clips in a batch, of all processes together where several train.
        max_epochs: 0 leaves the model as it was drawn, for a control.
        schedule: ``plateau`` lowers the learning rate where validation is no better (see patience); ``cosine`` lets it
            rise over the first 500 steps, at most a tenth of all, and then fall to zero at the last.
        averaging: the weights that are validated and kept are a moving average over the steps, of which each step keeps
            this share; 0 keeps the weights themselves.
        patience: the learning rate is multiplied by ``factor`` where validation GAP (a tower's AUC) is no better, by a
            ten-thousandth of it, for more epochs than this.
        factor: see patience.
        stop_patience: training stops where it is no better at all for so many epochs.
        modality_dropout: the share of training clips in which one of the data's modalities, chosen evenly, is dropped.
        precision: of the arithmetic; ``bf16-mixed`` takes about half the time where the processor has it.
        compile: let `torch.compile` make the model's kernels: minutes before the first steps, faster ones after.
        accumulate: batches whose gradients make one step.
        balance: how far the loss makes up for rare categories: a true category counts (clips without it / clips with
            it) to this power; 0 counts all alike.
        seed: of all random numbers.
    """

    learning_rate: float = 2e-4
    influence_lr_scale: float = 1.0
    weight_decay: float = 0.0
    batch_size: int = 128
    max_epochs: int = bounded(10, 0, MANY)
    schedule: Literal["plateau", "cosine"] = "plateau"
    averaging: float = bounded(0.0, 0, 0.99999)
    patience: int = bounded(2, 0, MANY)
    factor: float = bounded(0.5, 0, 0.999)
    stop_patience: int = 5
    modality_dropout: float = bounded(0.0, 0, 1)
    precision: Precision = "32-true"
    compile: bool = False
    accumulate: int = 1
    balance: float = bounded(0.0, 0, 1)
    seed: int = bounded(0, 0, 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """False pairs in a tower's training.

    Args:
        weight: of a false pair against a true one (2 is the one plotted in Fig. 9).
        hard_share: joined form: the share of false pairs that are the most convincing ones of their batch.
        hard_from: the epoch from which on they are.
    """

    weight: float = 1.0
    hard_share: float = bounded(0.5, 0, 1)
    hard_from: int = bounded(1, 0, MANY)


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """The part that recipes of categorizers and of correlation towers have in common."""

    name: str
    family: Family

    def with_(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """A copy with other values in its fields.

        >>> RECIPES["nv-cm"].with_({"training.learning_rate": "1e-3", "fusion.hidden": [32]}, max_steps=120).max_steps
        120

        Args:
            changes: by field: its name, a dotted name (``training.learning_rate``, ``family.clusters.video``), or a
                name with the changes of that part's fields. Values are typed, or texts as on a command line: "1e-3",
                '{"video": 32}', "null".
            more: the same, by keyword.

        Raises:
            Error: a field does not exist, or a value is not of its type or out of its bounds.
        """
        try:
            recipe = changed(self, {_today(name): value for name, value in {**(changes or {}), **more}.items()})
        except UnknownFieldError as error:
            own = [info.name for info in listed(self)]
            part = error.name.rpartition(".")[0]
            real = [name for name in own if name.startswith(f"{part}.")] or own
            close = suggestion(error.name, own)
            has = f"{close} It has" if close else "; it has"
            raise Error(f"{self.name}: no field {error.name}{has} {', '.join(real)}") from error
        except ValueError as error:
            raise Error(f"{self.name}: {error}") from error
        check(recipe)
        return recipe

    def fields(self) -> list[FieldInfo]:
        """All fields: dotted name, type in words, value, help and bounds."""
        return list(listed(self))

    def table(self) -> Table:
        """All fields as a table."""
        rows = [
            (info.name, info.kind, _shown(info.value), _span(info.bounds), info.help.rstrip("."))
            for info in self.fields()
            if info.name != "name"
        ]
        return Table(self.name, ("field", "type", "value", "from, to", "meaning"), rows, labels=5)

    def _check_modalities(self, sizes: Mapping[str, int]) -> None:
        """Raise Error for a setting of a modality that there is not."""
        for name, key in unknown_modalities(self, {*sizes, *MODALITIES, JOINED}):
            real = ", ".join(sizes)
            raise Error(f"{self.name}: {name} names no modality with {key!r}{suggestion(key, sizes)}; there are {real}")


@dataclass(frozen=True, kw_only=True)
class TowerRecipe(BaseRecipe):
    """A correlation tower's complete experiment (section 3).

    Args:
        damping: see `counterpoint.models.categorizer.Read`; only where features are principal components.
        max_steps: longer clips are cut here (300 s in the paper).
        averaged: a clip is read as one step, the mean over its steps, as YouTube-8M's video-level records are.
    """

    needs_tower: ClassVar[bool] = False
    may_be_idle: ClassVar[bool] = True  # a batch whose clips lack a modality leaves comparisons without a gradient
    comparison: ComparisonConfig = field(default_factory=ContrastiveConfig)
    negatives: Negatives = field(default_factory=Negatives)
    training: Training = field(default_factory=lambda: Training(learning_rate=1e-3, batch_size=256))
    damping: float = 20.0
    max_steps: int = 300
    averaged: bool = False

    def build(
        self, sizes: Mapping[str, int], categories: int = 0, tower: Tower | None = None, components: bool = False
    ) -> Tower:
        """The untrained tower, for features of these sizes by modality.

        Args:
            sizes: features of each modality.
            categories: not used.
            tower: not used.
            components: whether features are principal components, so that ``damping`` counts.

        Raises:
            Error: a field names a modality that there is not.
        """
        self._check_modalities(sizes)
        damping = self.damping if components else 0.0
        trunk, widths = build_trunk(self.family, Late(), sizes, self.max_steps, damping=damping, averaged=self.averaged)
        return Tower(trunk, self.comparison.build(widths))


@dataclass(frozen=True, kw_only=True)
class Recipe(BaseRecipe):
    """A named, complete experiment.

    Args:
        max_steps: longer clips are cut here (300 s in the paper).
        modalities: those that the model reads; none named: all. Its tower reads all of its own.
        averaged: a clip is read as one step, the mean over its steps, as YouTube-8M's video-level records are.
        damping: see `counterpoint.models.categorizer.Read`; only where features are principal components.
        standardize: features are brought to mean 0 over the training clips and vary alike, and modalities alike in
            all; not where features are damped.
        consistency: how no category becomes more probable than its parent: ``lower`` lowers it to its parent, ``raise``
            raises the parent to it.
    """

    fusion: Fusion
    head: HeadKind = field(default_factory=HeadConfig)
    training: Training = field(default_factory=Training)
    max_steps: int = 300
    modalities: tuple[str, ...] = ()
    averaged: bool = False
    damping: float = 0.0
    standardize: bool = False
    consistency: Literal["lower", "raise"] = "lower"

    @property
    def needs_tower(self) -> bool:
        """Whether it reads a trained correlation tower."""
        return self.fusion.needs_tower or self.fusion.per_second

    @property
    def may_be_idle(self) -> bool:
        """Whether a batch may leave some parameters of its model without a gradient."""
        return self.fusion.may_be_idle

    def build(
        self, sizes: Mapping[str, int], categories: int, tower: Tower | None = None, components: bool = False
    ) -> Categorizer:
        """The untrained model, for features of these sizes by modality.

        Args:
            sizes: features of each modality.
            categories: how many the model answers for.
            tower: a trained correlation tower, where the fusion needs one.
            components: whether features are principal components, so that ``damping`` counts.

        Raises:
            Error: the fusion needs a trained tower and there is none, the features lack a modality, or a field names
                a modality that there is not.
        """
        if unknown := set(self.modalities) - set(sizes):
            raise Error(f"{self.name} reads {min(unknown)!r}, and the features are {', '.join(sizes)}")
        self._check_modalities(sizes)
        sizes = {name: size for name, size in sizes.items() if name in (self.modalities or sizes)}
        if self.needs_tower and tower is None:
            raise Error(f"{self.name} needs a trained correlation tower")
        if self.fusion.per_second and (self.averaged or self.fusion.joined):
            raise Error(f"{self.name}: per_second weighs the seconds of single modalities; it has none to weigh")
        context = self.fusion.context_size(tower.comparison.size) if self.needs_tower and tower is not None else 0
        damping = self.damping if components else 0.0
        trunk, widths = build_trunk(
            self.family,
            self.fusion,
            sizes,
            self.max_steps,
            context,
            damping=damping,
            averaged=self.averaged,
            standardize=self.standardize and not damping,
        )
        return Categorizer(trunk, self.head.build(sum(widths.values()), categories), tower)


AnyRecipe = Recipe | TowerRecipe


# --- the catalogue ----------------------------------------------------------------------------------------------------


def _recipes(family: Family, influence: CrossModal) -> list[Recipe]:
    """One family's nine; ``influence`` is its F."""
    f: dict[str, Any] = {"hidden": influence.hidden, "reach": influence.reach, "start": influence.start}
    fusions = {"e": Early(), "l": Late(), "cm": influence, "cm-g": Gated(**f), "cm-c": Concatenated(**f)}
    fusions |= {"cm-a": Concatenated(context="agreement", **f), "cm-self": SelfModal(**f)}
    fusions |= {"l-s": Late(per_second=True), "cm-s": CrossModal(per_second=True, **f)}
    single = {"picture": ("video",), "sound": ("audio",)}
    return [
        *(Recipe(name=f"{family.prefix}-{name}", family=family, fusion=fusion) for name, fusion in fusions.items()),
        *(
            Recipe(name=f"{family.prefix}-{name}", family=family, fusion=Late(), modalities=modalities)
            for name, modalities in single.items()
        ),
    ]


def _mean(name: str, head: HeadKind, per_second: bool = False) -> Recipe:
    """A baseline on averaged features."""
    training = Training(learning_rate=1e-3, max_epochs=15, schedule="cosine", averaging=0.999)
    return Recipe(
        name=name,
        family=MeanFamily(),
        fusion=Late(per_second=per_second),
        head=head,
        damping=20.0,
        standardize=True,
        consistency="raise",
        training=training,
    )


FAMILIES: dict[str, Family] = {
    family.prefix: family for family in (NetVLADFamily(), TransformerFamily(), AttentionClusterFamily())
}
"""The paper's families, by prefix."""
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # Over clusters a hidden layer pays. Over time, a map of distances learns from far fewer clips than one of all
        # pairs of steps, and serves any length; `--fusion.reach null` is the paper's. It begins as the other modality's
        # own weights: near zero, its one ReLU can be zero everywhere in the first steps, and then never learns.
        *_recipes(FAMILIES["nv"], CrossModal(hidden=(64,))),
        *_recipes(FAMILIES["tm"], CrossModal(reach=30, start="identity")),
        *_recipes(FAMILIES["rnn"], CrossModal(reach=30, start="identity")),
        # At these widths they have about as many parameters as tm-cm-c.
        Recipe(name="tm-xattn", family=CrossAttentionFamily(), fusion=Late()),
        Recipe(name="tm-mbt", family=BottleneckFamily(), fusion=Late()),
        Recipe(name="tm-bert", family=OneStreamFamily(), fusion=Late()),
        # What anyone would try first.
        _mean("mean-linear", LinearHead()),
        _mean("mean-mlp", MLPHead()),
        _mean("mean-residual", ResidualHead()),
        _mean("mean-s", MLPHead(), per_second=True),
    )
}
# A tower decides one thing of a clip and overfits sooner: few clusters and a wide descriptor.
TOWER_FAMILIES: dict[str, Family] = {**FAMILIES, "nv": NetVLADFamily(clusters={"video": 8, "audio": 8}, hidden=1024)}
UNTRAINED = Training(learning_rate=1e-3, batch_size=256, max_epochs=0)


def _towers(name: str, family: Family) -> list[TowerRecipe]:
    """One family's three; the last is an untrained control, as ``correlation-mean-random`` is."""
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
    for recipe in (
        *(tower for name, family in TOWER_FAMILIES.items() for tower in _towers(name, family)),
        # For single seconds: a network of its own for each modality, which costs little for every second of a clip.
        *(
            TowerRecipe(
                name=f"correlation-mean{suffix}",
                family=MeanFamily(),
                comparison=ContrastiveConfig(embedding=128, hidden=256),
                training=training,
            )
            for suffix, training in (
                ("", Training(learning_rate=1e-3, batch_size=512, max_epochs=20, schedule="cosine", averaging=0.999)),
                ("-random", UNTRAINED),
            )
        ),
        CONSTANT,
    )
}


def recipe(name: str) -> AnyRecipe:
    """A recipe by its built-in name, or a recipe of your own as ``package.module:NAME``.

    A module is also looked for in the working directory, last of all.

    Raises:
        Error: there is no such recipe.
    """
    if ":" in name:
        found = imported(name)
        if not isinstance(found, Recipe | TowerRecipe):
            raise Error(f"{name}: not a recipe but a {type(found).__name__}")
        return found
    built_in: dict[str, AnyRecipe] = {**RECIPES, **TOWER_RECIPES}
    if name not in built_in:
        close = suggestion(name, built_in) or f"; there are {', '.join(built_in)}"
        raise Error(f"no recipe {name!r}{close} (`counterpoint recipes` lists them; package.module:NAME is your own)")
    return built_in[name]


def recipes_table() -> Table:
    """All built-in recipes: name, family, fusion (a tower's comparison), and whether they need a correlation tower."""
    rows = [
        (
            each.name,
            each.family.label,
            "its own" if each.family.fuses else each.fusion.label,
            "a tower" if each.needs_tower else "",
            f"{' and '.join(each.modalities)} only"
            if each.modalities
            else f"{each.family.summary}: {each.head.summary[:1].lower()}{each.head.summary[1:]}"
            if isinstance(each.family, MeanFamily)
            else each.family.summary
            if each.family.fuses
            else each.fusion.summary,
        )
        for each in RECIPES.values()
    ]
    rows += [
        (
            each.name,
            each.family.label,
            each.comparison.label,
            "",
            "a correlation tower" + (", untrained: a control" if not each.training.max_epochs else ""),
        )
        for each in TOWER_RECIPES.values()
    ]
    return Table("", ("recipe", "family", "fusion", "needs", "what it is"), rows, labels=5)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return value if isinstance(value, str) else json.dumps(value)


def _span(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return ""
    low, high = bounds
    return f"from {low:g}" if high > MANY else f"{low:g} to {high:g}"


# --- checks and files -------------------------------------------------------------------------------------------------


def check(recipe: AnyRecipe | BaseRecipe) -> None:
    """Raise Error, with the field's name, for a number that makes no model or no training."""
    for fault in out_of_bounds(recipe):
        raise Error(f"{recipe.name}: {fault}")


def largest(recipe: AnyRecipe) -> int:
    """The largest whole number that sizes a part of the model: a trained one has at least so many weights."""
    parts = (getattr(recipe, name) for name in ("family", "fusion", "head", "comparison") if hasattr(recipe, name))
    return max((value for part in parts for value in whole_numbers(part)), default=0)


def to_json(recipe: AnyRecipe) -> dict[str, Any]:
    """A recipe for JSON; each part with its class: by name, or ``module:Class`` from outside this package."""
    return stored(recipe)


def from_json(content: Any) -> AnyRecipe:
    """A recipe that `to_json` wrote, or version 0.1.

    The module of a class from outside this package is imported, from the working directory too; the class is used only
    if it is a subclass of its field's type, such as `Family` or `Fusion`.

    Raises:
        Error: it is not a recipe, or a class cannot be imported.
    """
    try:
        made: Any = restored(BaseRecipe, content if TYPE in content else _from_0_1(content))
    except UNREADABLE as error:
        raise Error(repr(error)) from error
    if not isinstance(made, Recipe | TowerRecipe):
        raise Error("neither a recipe nor a tower's recipe")
    check(made)
    return made


OLD_NAMES = {"fusion": {"context": "told"}, "training": {"influence_lr_scale": "hearing_rate"}}
"""Fields by part, and their names in version 0.1."""


LATER: dict[str, dict[str, Any]] = {
    "": {"damping": 0.0, "standardize": False, "consistency": "lower"},
    "training": {"balance": 0.0, "schedule": "plateau", "averaging": 0.0},
    "fusion": {"per_second": False},
    "comparison": {"hidden": 0},
}
"""Fields by part that version 0.1 lacks, and their values that make no difference."""


def _today(name: str) -> str:
    """A dotted field of version 0.1 by its name of today.

    >>> _today("training.hearing_rate"), _today("fusion.reach")
    ('training.influence_lr_scale', 'fusion.reach')
    """
    part, _, field_ = name.replace("-", "_").partition(".")
    today = {old: new for new, old in OLD_NAMES.get(part, {}).items()}
    return f"{part}.{today[field_]}" if field_ in today else name


def _from_0_1(content: Any) -> dict[str, Any]:
    """A recipe of version 0.1 in today's form: it had no classes, which the recipe's name implies, and other names."""
    usual = stored((RECIPES | TOWER_RECIPES)[content["name"]])
    found = {TYPE: usual[TYPE], **content}
    for name, part in usual.items():
        if isinstance(part, dict) and TYPE in part and name in content:
            today = {old: new for new, old in OLD_NAMES.get(name, {}).items()}
            found[name] = {TYPE: part[TYPE]} | {today.get(each, each): value for each, value in content[name].items()}
    return found


def identity(recipe: AnyRecipe) -> dict[str, Any]:
    """A recipe's fields by the names of version 0.1, without classes: what a run's fingerprint is made of."""
    plain = without_types(to_json(recipe))
    for part, later in LATER.items():
        fields_ = plain.get(part, {}) if part else plain
        for name, default in later.items():
            if fields_.get(name) == default:
                del fields_[name]
    for name, names in OLD_NAMES.items():
        if name in plain:
            plain[name] = {names.get(each, each): value for each, value in plain[name].items()}
    return plain


def without_types(content: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in content.items() if name != TYPE}
    return {name: without_types(value) if isinstance(value, dict) else value for name, value in values.items()}
