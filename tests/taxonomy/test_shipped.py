"""The shipped taxonomy's promises; where only real files can tell, a twin asks the shipped ones."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from counterpoint.taxonomy import load, youtube8m
from counterpoint.taxonomy.check import check, exceptions, measure, unexplained
from counterpoint.taxonomy.importers import read
from counterpoint.taxonomy.render import svg, tree
from counterpoint.taxonomy.tree import SHIPPED, read_table

TAXONOMY, LABELS = youtube8m()
REASONS = exceptions(SHIPPED)

SHUNNED = {"Sensitive Topics", "Crime"}  # branches of IAB's that keep advertisements away

PAPER = [
    *("Games", "Transport", "Electronics", "Sports", "MovieOrTV", "Art", "Food", "Travel", "Animal", "Music"),
    *("Transport:Land", "Transport:Land:Car", "Transport:Land:Car:Italian", "Transport:Water:Ship"),
    *("Games:VideoGame:Adventure:Interactive", "Games:VideoGame:Adventure:Action"),
    *("MovieOrTV:Adventure:Animation", "MovieOrTV:News", "Music:Concert:DJ"),
    *("Sports:Ball:BallBat:Hockey", "Sports:Racing", "Electronics:Gadget:Phone"),
    *("Food:FoodItems:Dessert", "Food:FoodItems:Dairy", "Food:FoodItems:Sandwich", "Food:Recipe"),
    *("Art:Painting", "Art:Photo", "Animal:Land", "Animal:Bird:Fowl", "Animal:Farm"),
]


def test_size_and_depth():
    assert len(TAXONOMY) == 640
    assert set(TAXONOMY.levels.tolist()) == {0, 1, 2, 3}
    assert 10 <= (TAXONOMY.levels == 0).sum() <= 30


def test_the_papers_categories_are_in_their_places():
    assert set(PAPER) <= set(TAXONOMY.paths)


def test_every_top_category_has_children():
    assert min(len(TAXONOMY.children(i)) for i in np.flatnonzero(TAXONOMY.levels == 0)) >= 2


def test_no_finding_without_a_reason():
    """Labels everywhere, 500 videos a leaf, no siblings alike; singular names in title case that can be said."""
    findings = check(youtube8m(), few=500, style=True)
    assert unexplained(findings, REASONS) == []
    # Nor a reason without a finding; the lifts need real clips.
    assert {key for key in REASONS if key[0] != "lift"} <= {(finding.check, finding.subject) for finding in findings}


def test_every_category_has_a_label():
    assert LABELS.matrix.any(axis=0).all()


def test_every_label_has_its_row():
    assert [label.index for label in LABELS.labels] == list(range(3862))
    assert all(label.count > 0 for label in LABELS.labels)
    assert all(label.note for label in LABELS.labels if not label.name)


def test_few_labels_lead_nowhere_and_each_says_why():
    nowhere = [label for label in LABELS.labels if not label.categories]
    assert len(nowhere) <= 0.02 * len(LABELS)
    assert sum(label.count for label in nowhere) <= 0.02 * sum(label.count for label in LABELS.labels)
    assert all(label.note for label in nowhere)


def test_labels_name_the_most_specific_categories():
    for label in LABELS.labels:
        indices = [TAXONOMY.index(category) for category in label.categories]
        assert len(set(indices)) == len(indices)
        assert not {j for i in indices for j in TAXONOMY.ancestors(i)} & set(indices), label


def test_it_is_a_folder_like_any_other(tmp_path):
    youtube8m().save(tmp_path)
    assert load(tmp_path) == load(SHIPPED) == youtube8m()


def test_the_documents_show_it():
    """`counterpoint taxonomy show --levels 2` and `--svg Transport` made what they show."""
    docs = Path(__file__).parents[2] / "docs"
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(tree(youtube8m(), levels=2))
    printed = "\n".join(line.rstrip() for line in capture.get().splitlines())
    assert printed in (docs / "taxonomy.md").read_text(encoding="utf-8")
    assert svg(youtube8m(), "Transport") == (docs / "images" / "taxonomy-transport.svg").read_text(encoding="utf-8")


def test_the_last_draw_is_clean():
    """Labels of the draw that lead elsewhere since then are to be judged anew."""
    path = Path(__file__).parents[2] / "docs" / "taxonomy-draws" / "last.tsv"
    lines, rows = read_table(path, ("index", "label", "path", "verdict", "remark"))
    assert [int(index) for index, *_ in rows] == random.Random(302).sample(range(3862), 100)
    assert {verdict for *_, verdict, _ in rows} == {"ok"}
    for line, (index, name, judged, *_) in zip(lines, rows, strict=True):
        label = LABELS.labels[int(index)]
        paths = "; ".join(TAXONOMY.paths[TAXONOMY.index(category)] for category in label.categories)
        assert (name, judged) == (label.name, paths or f"(none) {label.note}"), f"line {line}"


# --- beside the real data ---------------------------------------------------------------------------------------------


def test_labels_and_counts_are_the_vocabularys(real_data: Path):
    path = real_data / "yt8m" / "vocabulary.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(int(row["Index"]), row["Name"].strip(), int(row["TrainVideoCount"])) for row in csv.DictReader(file)]
    assert [(label.index, label.name.strip(), label.count) for label in LABELS.labels] == sorted(rows)


def test_codes_are_iabs(real_data: Path):
    path = real_data / "taxonomies" / "iab_content_taxonomy_3.1.tsv"
    if not path.exists():
        pytest.skip(f"no {path}")
    iab = read(path).labelling.taxonomy
    assert {category.iab for category in TAXONOMY} - {""} <= set(iab.ids)
    tops = {code: iab.names[iab.top(iab.index(code))] for code in TAXONOMY.codes if code}
    shunned = [
        path for path, code in zip(TAXONOMY.paths, TAXONOMY.codes, strict=True) if code and tops[code] in SHUNNED
    ]
    assert shunned == ["Military:Weapon"]


def test_codes_look_like_iabs():
    assert all(code.isalnum() for code in TAXONOMY.codes if code)
    # IAB has no node for these, and a narrower one would be wrong of most of their clips.
    without = [path for path, code in zip(TAXONOMY.paths, TAXONOMY.codes, strict=True) if not code]
    assert [path for path in without if ":" not in path] == ["Transport", "Animal", "Society"]
    assert len(without) < 0.05 * len(TAXONOMY)


def test_labels_get_along_in_real_clips(real_data: Path):
    from counterpoint.data.dataset import Dataset

    # The reasons were written for these 80 shards; others have others' chance neighbours.
    shards = sorted((real_data / "yt8m" / "video").glob("validate00[0-7]?.tfrecord"))
    if len(shards) != 80:
        pytest.skip(f"{len(shards)} of the 80 video-level shards")
    dataset = Dataset(shards, youtube8m())
    evidence = measure(youtube8m(), (dataset.clip(i).labels.tolist() for i in range(len(dataset))))
    assert unexplained(evidence.findings(), REASONS) == []
    assert {key for key in REASONS if key[0] == "lift"} == {(f.check, f.subject) for f in evidence.findings()}
    assert len(evidence.links) > 500
    assert all(scarce < size / 5 for _, size, scarce in evidence.scarce())
