"""Suites: whole experiments as plain data. What is compared on which data sets, and how large.

The protocol is the paper's (section 4.2): the baseline's architecture is searched on validation clips, its variants
keep it, F's sizes and depth are searched likewise, and five test runs measure every model. Plain networks on averaged
features are searched by as many trials, and stand in every table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from counterpoint.experiments.datasets import KnownTruth, Mosaics, RealRecords, Source
from counterpoint.experiments.paper import ENTRIES, HEADLINE, Entry
from counterpoint.models.fusion import JOINED
from counterpoint.recipes import (
    AttentionClusterFamily,
    ContrastiveConfig,
    Family,
    NetVLADFamily,
    Precision,
    TransformerFamily,
)

Settings = Mapping[str, Any]
"""Values by a recipe's dotted field, such as ``{"head.hidden": 256}``."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of a suite is run, and how large; each field is an option of the command line.

    Args:
        families: families of models.
        models: models of each family.
        datasets: data sets, where a suite has several; the first has all tables.
        clips: clips by split; without, as many as there are, or as the suite makes.
        seeds: seeds of each model and its tower.
        control_seeds: seeds of each control.
        epochs: epochs at most; training stops sooner where validation no longer improves.
        tower_epochs: the same of towers.
        precision: of training, as in Lightning; bf16-mixed takes about half the time where the processor has it.
        trials: architectures of late fusion that are tried on validation clips; 0: the suite's own.
        influence_trials: sizes and depths of F that are tried likewise.
        grid: values of late fusion to try, by family and dotted field, instead of the suite's.
        negative_weights: weights of false pairs that towers are trained with (the paper's Fig. 8).
        test_runs: random samples of the test clips.
        test_sample: clips of each; where there are not twice as many, bootstrap samples of all.
        resamples: bootstrap samples for intervals.
    """

    families: tuple[str, ...] = ("nv", "tm", "rnn")
    models: tuple[str, ...] = tuple(ENTRIES)
    datasets: tuple[str, ...] = ()
    clips: dict[str, int] = field(default_factory=dict)
    seeds: int = 5
    control_seeds: int = 5
    epochs: int = 30
    tower_epochs: int = 30
    precision: Precision = "32-true"
    trials: int = 12
    influence_trials: int = 6
    grid: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    negative_weights: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    test_runs: int = 5
    test_sample: int = 128_000
    resamples: int = 1000

    def seeds_of(self, entry: Entry) -> int:
        """How many times an entry is trained: with each seed, or of seeds that no other ensemble has."""
        every = entry.part in ("paper", "plain")
        return self.seeds if every else min(self.seeds // entry.seeds, self.control_seeds)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A whole experiment.

    Attributes:
        datasets: the first is compared in full, the others with ``further`` models only.
        settings, towers: what differs from the recipes of models and of towers, by family.
        tower_family: the family whose towers all models use; without, each family has its own.
        grid: values for the search of late fusion's architecture, by family, and of plain networks, by recipe.
        influence: the same for F.
        equal: whether all variants get as many parameters as CM-C.
    """

    name: str
    title: str
    what: str
    datasets: tuple[Source, ...]
    scale: Scale
    further: tuple[str, ...] = ("l", "cm", "cm-g", "cm-c")
    settings: Mapping[str, Settings] = field(default_factory=dict)
    towers: Mapping[str, Settings] = field(default_factory=dict)
    grid: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
    influence: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
    tower_family: str = ""
    equal: bool = False

    def tower_family_of(self, family: str) -> str:
        """The family whose towers a family's models use."""
        return self.tower_family or family

    def entry(self, name: str) -> Entry:
        """A model of the comparison, with the size that this suite gives it."""
        entry = ENTRIES[name]
        return replace(entry, like=HEADLINE) if self.equal and entry.part == "paper" and name != HEADLINE else entry


def settings_of(recipe: object, names: Iterable[str]) -> dict[str, Any]:
    """The values of a recipe's dotted fields, tuples as lists."""
    values = {name: reduce(getattr, name.split("."), recipe) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _clusters(video: int, audio: int) -> dict[str, int]:
    return {"video": video, "audio": audio, JOINED: video}


def _widths(video: int, audio: int) -> dict[str, int]:
    return {"video": video, "audio": audio, JOINED: video + audio}


# What makes plain networks strong on real records, for all families: on a base that loses to averaging a gain shows
# nothing.
STRONG: Settings = {
    **{"damping": 20.0, "standardize": True, "consistency": "raise"},
    **{"training.learning_rate": 1e-3, "training.schedule": "cosine", "training.averaging": 0.999},
    **{"head.hidden": 1024, "head.dropout": 0.5},
}
SETTINGS: dict[str, Settings] = {
    "nv": {**STRONG, "family.clusters": _clusters(32, 32)},
    "tm": {**STRONG, "family.widths": _widths(128, 128), "family.heads": 4},
    "rnn": {**STRONG, "family.recurrence": "none", "family.widths": _widths(256, 128), "family.hidden": 256},
}
# F has few parameters. At the learning rate of the rest they change too late, when the rest has overfitted.
INFLUENCE_SETTINGS: dict[str, Settings] = {
    family: {**settings, "training.influence_lr_scale": 10} for family, settings in SETTINGS.items()
}
HEADS: dict[str, list[Any]] = {
    "head.hidden": [512, 1024, 2048],
    "head.dropout": [0.3, 0.5, 0.7],
    "training.learning_rate": [5e-4, 1e-3, 2e-3],
}
DAMPED: dict[str, list[Any]] = {"damping": [0.0, 20.0, 60.0], "training.learning_rate": [3e-4, 1e-3, 3e-3]}
PLAIN_GRID: dict[str, dict[str, list[Any]]] = {
    "mean-linear": {**DAMPED, "training.weight_decay": [0.0, 1e-5, 1e-4]},
    "mean-mlp": {**DAMPED, "head.hidden": [1024, 2048, 4096], "head.dropout": [0.3, 0.5, 0.7]},
    "mean-residual": {**DAMPED, "head.width": [512, 1024, 2048], "head.dropout": [0.3, 0.5, 0.7]},
}
# Sizes that two cores can train; `--grid` names larger ones.
GRID: dict[str, dict[str, list[Any]]] = {
    "nv": {
        "family.clusters": [_clusters(16, 16), _clusters(32, 32), _clusters(64, 32)],
        "family.hidden": [128, 256],
        **HEADS,
    },
    **PLAIN_GRID,
    "tm": {
        "family.widths": [_widths(128, 64), _widths(128, 128), _widths(192, 128)],
        "family.dropout": [0.1, 0.3],
        **HEADS,
    },
    "rnn": {
        "family.widths": [_widths(256, 128), _widths(384, 128)],
        "family.units": [8, 16, 32],
        "family.hidden": [128, 256],
        **HEADS,
    },
}
OVER_TIME: dict[str, list[Any]] = {"fusion.hidden": [[], [1]], "fusion.reach": [10, 30]}  # of hidden, only the number
# With one step a clip there is no reach.
ONE_STEP: dict[str, dict[str, list[Any]]] = {"nv": {"fusion.hidden": [[], [32], [64], [128]]}}
FRAME_LEVEL: dict[str, dict[str, list[Any]]] = {
    "nv": {"fusion.hidden": [[64], [128]], "fusion.reach": [10, 30]},
    "tm": OVER_TIME,
    "rnn": OVER_TIME,
}
# Of the three families' towers NetVLAD's is the best: on mosaics AUC 0.64, where the attention clusters' reaches 0.57.
TOWER_FAMILY = "nv"
TOWERS: dict[str, Settings] = {TOWER_FAMILY: {"training.stop_patience": 3}}
SMALL: Settings = {"training.learning_rate": 1e-3, "training.batch_size": 64}
SMALL_FAMILIES: dict[str, Family] = {
    "nv": NetVLADFamily(clusters=_clusters(24, 24), hidden=128),
    "tm": TransformerFamily(widths=_widths(64, 64), heads=2),
    "rnn": AttentionClusterFamily(recurrence="none", widths=_widths(64, 64), units=8, hidden=128),
}

KNOWN_TRUTH = tuple(
    KnownTruth(
        name=f"unrelated-{share:g}-shift-{shift}",
        what=f"sound unrelated in {100 * share:.0f} % of clips, {shift} s later in the others",
        unrelated=share,
        shift=shift,
    )
    for share, shift in ((0.25, 0), (0.0, 0), (0.5, 0), (0.25, 10), (0.25, 20))
)

ANY_DELAY: dict[str, int] = {"shift": 0, "spread": 10}
SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="video-level",
            title="Video-level records",
            what="One step a clip, the mean over its seconds: no time to attend over.",
            datasets=(RealRecords(name="video-level", what="real video-level records, as they are"),),
            scale=Scale(
                families=("nv",),
                models=tuple(name for name, entry in ENTRIES.items() if not entry.tower.startswith("seconds")),
                epochs=12,
                tower_epochs=20,
                control_seeds=2,
                influence_trials=4,
            ),
            settings=SETTINGS,
            towers=TOWERS,
            tower_family=TOWER_FAMILY,
            grid=GRID,
            influence=ONE_STEP,
        ),
        Suite(
            name="mosaic",
            title="Mosaics of real records",
            what="Frame-level clips composed from real video-level records: vectors and labels are real, their order "
            "in time is made up.",
            datasets=(
                Mosaics(name="mosaic", what="sound 5 s later and a quarter longer; unrelated in a quarter of clips"),
                Mosaics(name="random-delay", what="as mosaic, but sound from 10 s before to 10 s after", **ANY_DELAY),
                Mosaics(
                    name="degrees",
                    what="as random-delay; of related clips a third has other records of the category in its sound, a "
                    "sixth records of the same top-level category",
                    same_category=1 / 3,
                    same_top=1 / 6,
                    **ANY_DELAY,
                ),
                Mosaics(
                    name="varied",
                    what="as random-delay; seconds vary around a video's mean as much as in real videos",
                    variation=1.0,
                    **ANY_DELAY,
                ),
                Mosaics(name="no-shift", what="sound and picture in step", shift=0, stretch=1.0, unrelated=0.0),
                Mosaics(name="unrelated", what="all sound unrelated: no information in it", unrelated=1.0),
            ),
            scale=Scale(
                families=("nv", "rnn", "tm"),
                datasets=("mosaic", "random-delay", "degrees", "varied", "no-shift", "unrelated"),
                clips={"train": 20_000, "validation": 1_000, "test": 2_000},
                epochs=10,
                control_seeds=2,
                influence_trials=4,
            ),
            further=("mean-mlp", "mean-s", "l", "cm", "cm-self", "cm-g", "cm-c", "l-s", "cm-s"),
            settings=INFLUENCE_SETTINGS,
            towers=TOWERS,
            tower_family=TOWER_FAMILY,
            grid=GRID,
            influence=FRAME_LEVEL,
        ),
        Suite(
            name="synthetic",
            title="Synthetic clips of known truth",
            what="Generated clips whose truth is known: each seed draws clips, tower and model anew.",
            datasets=KNOWN_TRUTH,
            scale=Scale(
                models=("l", "cm", "cm-g", "cm-c", "cm-g-random"),
                datasets=tuple(source.name for source in KNOWN_TRUTH),
                clips={"train": 3000, "validation": 400, "test": 500},
                epochs=8,
                tower_epochs=20,
                trials=0,
                influence_trials=0,
                negative_weights=(),
            ),
            further=("l", "cm", "cm-g", "cm-c", "cm-g-random"),
            settings={family: {"family": made, "head.hidden": 256, **SMALL} for family, made in SMALL_FAMILIES.items()},
            towers={
                family: {"family": made, "comparison": ContrastiveConfig(dropout=0.0), **SMALL}
                for family, made in SMALL_FAMILIES.items()
            },
            equal=True,
        ),
    )
}
