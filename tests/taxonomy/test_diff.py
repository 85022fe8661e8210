from hypothesis import given, settings

from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy
from counterpoint.taxonomy.compare import diff

from .trees import LABELS, labellings

EDITED = Taxonomy(
    (
        Category("food", "", "Nutrition"),
        Category("dessert", "food", "Dessert", "iab-2"),
        Category("recipe", "food", "Recipe"),
        Category("transport", "", "Transport"),
        Category("land", "transport", "Land"),
        Category("car", "land", "Car"),
    )
)


def test_each_kind_of_change():
    labels = (
        Label(30, "Ice cream", 1, ("dessert",), "another note and count"),
        Label(10, "Cooking show", 50, ("recipe",)),
        Label(20, "Ice cream van", 5, ("land", "dessert")),
        Label(50, "Car", 9, ("car",)),
    )
    changes = diff(LABELS, Labelling(EDITED, LabelMap(labels, EDITED)))
    assert changes.to_dict() == {
        "added": [{"what": "car", "before": "", "after": "Transport:Land:Car"}],
        "removed": [{"what": "items", "before": "Food:FoodItems", "after": ""}],
        "renamed": [{"what": "food", "before": "Food", "after": "Nutrition"}],
        "moved": [{"what": "dessert", "before": "Food:FoodItems:Dessert", "after": "Nutrition:Dessert"}],
        "recoded": [{"what": "dessert", "before": "iab-1", "after": "iab-2"}],
        "labels": [
            {"what": "10 (Cooking show)", "before": "recipe, items", "after": "recipe"},
            {"what": "40 (Thing)", "before": "none", "after": ""},
            {"what": "50 (Car)", "before": "", "after": "car"},
        ],
    }
    assert changes.rows()[0] == ("added", "car", "", "Transport:Land:Car")


@settings(max_examples=25)
@given(labellings())
def test_nothing_differs_from_itself(labelling):
    assert diff(labelling, labelling).rows() == []


@settings(max_examples=25)
@given(labellings(), labellings())
def test_the_way_back_is_the_mirror(one, other):
    there, back = diff(one, other), diff(other, one)
    assert {change.what for change in there.added} == {change.what for change in back.removed}
    assert {(c.what, c.before, c.after) for c in there.renamed} == {(c.what, c.after, c.before) for c in back.renamed}
    assert len(there.labels) == len(back.labels)
