"""What is compared: the paper's models, the controls that tell the idea from capacity, and ensembles."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a comparison.

    Attributes:
        name: as in folders and on the command line.
        title: as in the paper's tables.
        recipe: what follows the family's name, as in ``nv-cm-c``; a rival's is the same in every family.
        what: for a reader who knows the paper.
        part: where the report shows it.
        tower: which correlation tower it listens to, if any.
        like: the entry whose number of parameters it gets.
        widths: whether it gets there by other widths, rather than by the head alone.
        of: the entries whose answers it averages; one that is named again is another seed's.
    """

    name: str
    title: str
    recipe: str
    what: str
    part: Literal["paper", "control", "ensemble"] = "control"
    tower: Literal["", "trained", "random", "constant"] = ""
    like: str = ""
    widths: bool = False
    of: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """How many seeds it averages."""
        return max(map(self.of.count, self.of), default=1)

    @property
    def rival(self) -> bool:
        return self.recipe.startswith("tm-")


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
    Entry(name="l", title="L", recipe="l", part="paper", what="late fusion: nobody hears anybody"),
    Entry(name="cm", title="CM", recipe="cm", part="paper", what="cross-modal: each hears the other, without a tower"),
    Entry(
        name="cm-g",
        title="CM-G",
        recipe="cm-g",
        part="paper",
        tower="trained",
        what="gated: heard where the tower says so",
    ),
    Entry(
        name="cm-c",
        title="CM-C",
        recipe="cm-c",
        part="paper",
        tower="trained",
        what="concatenated: F is told what the tower says",
    ),
)
CONTROLS = (
    Entry(
        name="cm-a",
        title="CM-A",
        recipe="cm-a",
        tower="trained",
        what="as CM-C, but F is told the product of the tower's two embeddings",
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
        what="F is told what an untrained tower says",
    ),
    Entry(
        name="cm-c-constant",
        title="CM-C, constant tower",
        recipe="cm-c",
        tower="constant",
        what="F is told the same of every clip",
    ),
    Entry(
        name="cm-self",
        title="CM, hearing itself",
        recipe="cm-self",
        what="all that F brings, but each modality hears itself and not the other",
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
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*PAPER, *CONTROLS, *ENSEMBLES)}
