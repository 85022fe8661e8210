"""What is compared: the paper's models, controls that separate the idea from capacity, ensembles; the paper's numbers.

The numbers are Goyal et al.'s (Tables 4, 5, 8 and 9; section 5.1), error rates in percent. They are of 128,000 test
videos of frame-level YouTube-8M, with models trained on 4 million. Beside another data set's numbers they show what to
compare, not what to reach.
"""

from dataclasses import dataclass
from typing import Literal

from counterpoint import recipes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a comparison.

    Attributes:
        name: as in folders and on the command line.
        title: as in the paper's tables.
        recipe: what follows the family's name, as in ``nv-cm-c``; a baseline's is the same in every family.
        what: for a reader who knows the paper.
        part: where the report shows it.
        tower: the kind of correlation tower that it uses, if any; ``seconds`` are made for single seconds.
        searched: of a plain network, the one whose search it takes its settings from.
        like: the entry whose number of parameters it gets.
        widths: whether it gets there by other widths, rather than by the head alone.
        of: the entries whose probabilities it averages; one that is named again is another seed's.
    """

    name: str
    title: str
    recipe: str
    what: str
    part: Literal["plain", "paper", "control", "ensemble"] = "control"
    tower: Literal["", "trained", "random", "constant", "seconds", "seconds-random"] = ""
    searched: str = ""
    like: str = ""
    widths: bool = False
    of: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """How many seeds it averages."""
        return max(map(self.of.count, self.of), default=1)

    @property
    def baseline(self) -> bool:
        """Whether it is a model of other papers, which has no family."""
        return self.recipe.startswith("tm-")

    @property
    def plain(self) -> bool:
        """Whether it is a network on averaged features, which has no family and a search of its own."""
        return self.part == "plain"

    @property
    def cross_modal(self) -> bool:
        """Whether it has F, whose sizes are searched."""
        return self.recipe.startswith(SEARCHED)


BASELINE, HEADLINE = "l", "cm-c"
SEARCHED = "cm"  # F is searched without a tower, which it would have to wait for
PAPER = (
    Entry(
        name="e",
        title="E",
        recipe="e",
        part="paper",
        widths=True,
        what="early fusion: features joined per second",
    ),
    Entry(name="l", title="L", recipe="l", part="paper", what="late fusion: no influence between modalities"),
    Entry(
        name="cm",
        title="CM",
        recipe="cm",
        part="paper",
        what="cross-modal: each modality influences the other, without a tower",
    ),
    Entry(
        name="cm-g",
        title="CM-G",
        recipe="cm-g",
        part="paper",
        tower="trained",
        what="gated: influence in clips that the tower calls correlated",
    ),
    Entry(
        name="cm-c",
        title="CM-C",
        recipe="cm-c",
        part="paper",
        tower="trained",
        what="concatenated: the tower's output is an input of F",
    ),
)
PLAIN = (
    Entry(
        name="mean-linear",
        title="mean, linear",
        recipe="mean-linear",
        part="plain",
        searched="mean-linear",
        what="logistic regression on the mean over seconds",
    ),
    Entry(
        name="mean-mlp",
        title="mean, MLP",
        recipe="mean-mlp",
        part="plain",
        searched="mean-mlp",
        what="a network with one hidden layer on the mean over seconds",
    ),
    Entry(
        name="mean-residual",
        title="mean, residual MLP",
        recipe="mean-residual",
        part="plain",
        searched="mean-residual",
        what="a residual network on the mean over seconds",
    ),
    Entry(
        name="mean-s",
        title="mean by tower, MLP",
        recipe="mean-s",
        part="plain",
        tower="seconds",
        searched="mean-mlp",
        what="the same MLP on a mean in which a second counts more where the tower finds it in the other modality",
    ),
)
PER_SECOND = (
    Entry(
        name="l-s",
        title="L-S",
        recipe="l-s",
        tower="seconds",
        what="late fusion whose attention looks more at the seconds that the tower finds in the other modality",
    ),
    Entry(name="cm-s", title="CM-S", recipe="cm-s", tower="seconds", what="CM, looking more at those seconds too"),
    Entry(
        name="cm-s-random",
        title="CM-S, random tower",
        recipe="cm-s",
        tower="seconds-random",
        what="CM-S with an untrained tower",
    ),
)
CONTROLS = (
    Entry(
        name="cm-a",
        title="CM-A",
        recipe="cm-a",
        tower="trained",
        what="as CM-C, but the input of F is the product of the tower's two embeddings",
    ),
    Entry(
        name="l-equal",
        title="L, equal",
        recipe="l",
        like=HEADLINE,
        what="late fusion with as many parameters as CM-C (a wider head)",
    ),
    Entry(
        name="e-equal",
        title="E, equal",
        recipe="e",
        like=HEADLINE,
        widths=True,
        what="early fusion with as many parameters as CM-C",
    ),
    Entry(
        name="cm-g-random",
        title="CM-G, random tower",
        recipe="cm-g",
        tower="random",
        what="half of the gates open, by chance",
    ),
    Entry(
        name="cm-c-random",
        title="CM-C, random tower",
        recipe="cm-c",
        tower="random",
        what="an untrained tower's output is an input of F",
    ),
    Entry(
        name="cm-c-constant",
        title="CM-C, constant tower",
        recipe="cm-c",
        tower="constant",
        what="F gets the same input for every clip",
    ),
    Entry(
        name="cm-self",
        title="CM, self-influence",
        recipe="cm-self",
        what="all that F brings, but each modality influences itself and not the other",
    ),
    Entry(name="picture", title="picture only", recipe="picture", what="late fusion's picture, without sound"),
    Entry(name="sound", title="sound only", recipe="sound", what="late fusion's sound, without picture"),
    *(
        Entry(
            name=name, title=name, recipe=name, like=HEADLINE, widths=True, what=f"{what}, as many parameters as CM-C"
        )
        for name, what in (
            ("tm-xattn", "cross-attention between modalities"),
            ("tm-mbt", "attention bottlenecks (Nagrani et al. 2021)"),
            ("tm-bert", "one Transformer over the steps of both modalities"),
        )
    ),
)
ENSEMBLES = (
    Entry(
        name="ensemble",
        title="ensemble",
        recipe="",
        part="ensemble",
        of=("cm", "cm-g", "cm-c"),
        what="CM's, CM-G's and CM-C's probabilities averaged",
    ),
    *(
        Entry(name=f"{name}-seeds", title=f"{name.upper()}, three seeds", recipe="", of=(name,) * 3, what=what)
        for name, what in (
            (BASELINE, "late fusion's probabilities averaged: what averaging alone gives"),
            (HEADLINE, "CM-C's probabilities averaged"),
        )
    ),
    Entry(
        name="distilled",
        title="distilled",
        recipe="cm",
        part="ensemble",
        of=("cm", "cm-g", "cm-c"),
        what="the ensemble distilled into one CM",
    ),
)
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*PLAIN, *PAPER, *PER_SECOND, *CONTROLS, *ENSEMBLES)}

# --- the paper's numbers ----------------------------------------------------------------------------------------------

FAMILIES = {name: family.label for name, family in recipes.FAMILIES.items()}
TOWERS = {**FAMILIES, "mean": "Mean of seconds"}
TABLE_NUMBERS = {
    "tm": {"levels": "4", "tops": "5", "wins": "6", "losses": "7"},
    "nv": {"levels": "8", "tops": "9", "wins": "10", "losses": "11"},
}
MODELS = ("e", "l", "cm-g", "cm-c")
_LEVELS = """
gap    all  9.18  8.67  8.65  8.49 10.81 10.61  9.90  9.75
map    all 12.44 11.82 11.82 11.66 13.46 13.14 12.58 12.43
perr   all 11.93 11.43 11.32 11.25 13.99 13.85 13.17 12.99
hit_at_1 all 5.84 5.60 5.47 5.49 7.14 6.95 6.61 6.56
gap 0 5.11 4.81 4.80 4.72 6.53 6.33 5.65 5.61
gap 1 7.00 6.59 6.61 6.52 8.13 8.03 7.38 7.26
gap 2 9.10 8.58 8.63 8.50 10.41 10.25 9.57 9.43
gap 3 12.23 11.42 11.34 11.27 14.34 13.78 13.12 12.85
map 0 11.29 10.79 10.88 10.69 13.52 13.51 12.18 12.32
map 1 11.15 10.74 10.81 10.71 12.36 12.19 11.36 11.32
map 2 10.53 10.05 9.99 9.84 11.14 10.94 10.48 10.31
map 3 12.17 11.25 11.14 11.09 13.73 13.07 12.63 12.48
perr 0 7.16 6.85 6.66 6.68 8.98 8.78 8.22 8.14
perr 1 8.73 8.45 8.27 8.24 10.30 10.29 9.69 9.50
perr 2 12.88 12.31 12.24 12.17 14.37 14.38 13.83 13.71
perr 3 16.30 15.36 15.19 14.87 17.88 17.32 17.19 16.88
hit_at_1 0 5.71 5.45 5.31 5.31 7.17 6.97 6.57 6.48
hit_at_1 1 6.64 6.35 6.20 6.11 7.87 7.79 7.34 7.13
hit_at_1 2 9.41 9.04 9.09 8.91 10.58 10.56 10.20 10.11
hit_at_1 3 12.71 11.89 11.76 11.59 14.24 13.13 13.15 12.91
"""
_TOPS = """
Electronics 13.72 13.67 15.42 15.49
Sports 2.19 2.10 3.15 2.85
MovieOrTV 3.31 3.34 4.94 4.17
Art 2.50 2.42 2.88 2.64
Transport 7.16 7.02 8.43 7.90
Food 13.81 13.44 15.12 14.53
Games 3.98 3.96 5.35 4.76
Travel 12.92 12.80 16.60 14.30
"""
TOWER = {"FPR": 9.6, "FNR": 4.1, "accuracy": 92.0}


def _levels() -> dict[str, dict[tuple[str, str], tuple[float, ...]]]:
    tables: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {"tm": {}, "nv": {}}
    for line in _LEVELS.split("\n")[1:-1]:
        metric, level, *numbers = line.split()
        values = tuple(map(float, numbers))
        tables["tm"][metric, level], tables["nv"][metric, level] = values[:4], values[4:]
    return tables


def _tops() -> dict[str, dict[str, tuple[float, ...]]]:
    rows = [line.split() for line in _TOPS.split("\n")[1:-1]]
    return {
        family: {name: tuple(map(float, numbers[at : at + 2])) for name, *numbers in rows}
        for family, at in (("tm", 0), ("nv", 2))
    }


LEVELS = _levels()
"""By family, metric and level: E, L, CM-G, CM-C."""
TOPS = _tops()
"""GAP by family and top-level category: L, CM-C."""
