import math
import sys

import pytest

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Label, LabelMap, Taxonomy, load
from counterpoint.taxonomy.check import check
from counterpoint.taxonomy.compare import Conflict, agreement, merge, settlements

from .trees import BY_HAND


def annotator(**answers: str) -> LabelMap:
    """Answers by label: ids with commas, or "none" with a note, or "" for not yet."""
    labels = (
        Label(
            int(name[1:]), name, 7, tuple(text.split(",")) if text not in ("", "none") else (), "why" * (text == "none")
        )
        for name, text in answers.items()
    )
    return LabelMap(tuple(labels), BY_HAND)


def outcome(*annotators: LabelMap) -> tuple[tuple[str, ...], Conflict | None]:
    merged = merge(annotators)
    assert len(merged.labelling.labels) == 1
    return merged.labelling.labels.labels[0].categories, (merged.conflicts or [None])[0]


@pytest.mark.parametrize(
    ("answers", "categories", "open_"),
    [
        (["dessert", "dessert", "land"], ("dessert",), False),
        (["dessert", "items", "recipe"], ("items",), False),  # two name FoodItems, all three Food
        (["dessert", "recipe", "land"], ("food",), False),
        (["dessert,land", "land,dessert", "dessert"], ("dessert", "land"), False),
        (["dessert", "land"], (), True),
        (["dessert", "recipe"], ("food",), True),  # which of the two?
        (["dessert", "dessert", "recipe", "recipe"], ("food",), True),
        (["none", "none", "land"], (), False),
        (["none", "land"], (), True),
        (["dessert", "", ""], ("dessert",), False),  # the others have not got there
        (["", ""], (), True),
    ],
)
def test_majority(answers, categories, open_):
    chosen, conflict = outcome(*(annotator(l3=answer) for answer in answers))
    assert chosen == categories
    assert (conflict is not None) == open_


def test_labels_of_some_annotators_only():
    merged = merge([annotator(l1="food", l2="land"), annotator(l1="food"), annotator(l9="recipe")])
    assert [(label.index, label.categories) for label in merged.labelling.labels.labels] == [
        (1, ("food",)),
        (2, ("land",)),
        (9, ("recipe",)),
    ]


def test_conflicts_are_settled_in_their_file(tmp_path):
    annotators = [annotator(l1="dessert", l2="land", l3="recipe"), annotator(l1="recipe", l2="land", l3="none")]
    merged = merge(annotators, settlements(tmp_path / "conflicts.tsv", BY_HAND))
    assert merged.open == 2
    merged.save(tmp_path)
    assert load(tmp_path) == merged.labelling
    path = tmp_path / "conflicts.tsv"
    rows = path.read_text().splitlines()
    assert rows[1:] == ["1\tl1\t7\tfood\tdessert: 1; recipe: 1\t", "3\tl3\t7\tnone\trecipe: 1; none: 1\t"]

    path.write_text("\n".join([rows[0], rows[1] + "recipe, land", rows[2] + "none", ""]))
    again = merge(annotators, settlements(path, BY_HAND))
    assert again.open == 0
    assert [label.categories for label in again.labelling.labels.labels] == [("recipe", "land"), ("land",), ()]
    again.save(tmp_path)
    assert settlements(path, BY_HAND) == {1: "recipe, land", 3: "none"}  # and are kept

    # What was decided stands, also where the annotators have come to agree.
    agreed = [annotator(l1="dessert", l2="land", l3="none")] * 2
    last = merge(agreed, settlements(path, BY_HAND))
    assert last.labelling == again.labelling
    assert [conflict.index for conflict in last.conflicts] == [1, 3]
    with pytest.raises(Error, match=r"conflicts\.tsv settles label 1, which none"):
        merge([annotator(l3="none")], settlements(path, BY_HAND))

    path.write_text("\n".join([rows[0], rows[1] + "boat", ""]))
    with pytest.raises(Error, match=r"conflicts\.tsv, line 2: 'boat' is neither a category's id nor 'none'"):
        settlements(path, BY_HAND)
    path.write_text("\n".join([rows[0], "x" + rows[1], ""]))
    with pytest.raises(Error, match=r"conflicts\.tsv, line 2: the index 'x1'"):
        settlements(path, BY_HAND)


def test_check_reports_what_is_open():
    merged = merge([annotator(l1="dessert", l2="land", l3="recipe"), annotator(l1="recipe", l2="land", l3="none")])
    assert [label.note for label in merged.labelling.labels.labels] == ["not settled", "", ""]
    assert [f.subject for f in check(merged.labelling, few=0) if f.check == "unmapped"] == ["label 3 (l3)"]


def test_agreement():
    same = annotator(l1="dessert", l2="land", l3="none")
    assert agreement([same, same, same]) == 1
    # Two labels of two annotators, agreed and not: alpha = 1 - (n - 1) * observed / expected by hand. The sets are
    # {food}, {food}; {food}, {land, transport}, with distance 1: observed 1/2, of 6 pairs among 4 answers 3 differ.
    one, other = annotator(l1="food", l2="food"), annotator(l1="food", l2="land")
    assert agreement([one, other]) == pytest.approx(1 - 0.5 / (3 / 6))
    # A category and its parent agree in part.
    near = agreement([annotator(l1="dessert", l2="land"), annotator(l1="items", l2="land")])
    far = agreement([annotator(l1="dessert", l2="land"), annotator(l1="recipe", l2="land")])
    assert far < near < 1


def test_agreement_needs_two_annotators():
    assert math.isnan(agreement([annotator(l1="food")]))
    assert math.isnan(agreement([annotator(l1="food"), annotator(l2="food", l1="")]))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.metrics", None)
    with pytest.raises(Error, match=r"pip install 'counterpoint\[agreement\]'"):
        agreement([annotator(l1="food")])


def test_nothing_to_merge():
    with pytest.raises(Error, match="no mappings"):
        merge([])


def test_a_category_that_is_called_like_no_vote():
    taxonomy = Taxonomy((Category("none", "", "None"),))
    labels = LabelMap((Label(1, "Nothing", 7, ("none",)),), taxonomy)
    with pytest.raises(Error, match="the category 'none' is called as votes for no category are"):
        merge([labels, labels])
