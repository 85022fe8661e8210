import json

from hypothesis import given
from rich.console import Console

from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy
from counterpoint.taxonomy.render import as_dict, tree

from .trees import BY_HAND, LABELS, labellings


def printed(labelling: Labelling) -> str:
    console = Console(width=60, color_system=None)
    with console.capture() as capture:
        console.print(tree(labelling))
    return capture.get()


def test_names_with_counts():
    assert printed(LABELS).splitlines() == [
        "6 categories, 4 labels",
        "├── Food  755",
        "│   ├── FoodItems  755",
        "│   │   └── Dessert  705",
        "│   └── Recipe  50",
        "└── Transport  5",
        "    └── Land  5",
    ]


def test_the_upper_levels():
    console = Console(width=60, color_system=None)
    with console.capture() as capture:
        console.print(tree(LABELS, levels=1))
    assert capture.get().splitlines() == ["6 categories, 4 labels", "├── Food  755", "└── Transport  5"]


def test_parents_below_their_children_and_names_with_brackets():
    taxonomy = Taxonomy((Category("b", "a", "[bold]Boat[/]"), Category("a", "", "Art")))
    text = printed(Labelling(taxonomy, LabelMap.identity(taxonomy)))
    assert text.splitlines()[1:] == ["└── Art", "    └── [bold]Boat[/]"]


def test_as_dict():
    shown = as_dict(LABELS)
    assert shown["categories"][2] == {
        "id": "dessert",
        "parent": "items",
        "name": "Dessert",
        "iab": "iab-1",
        "path": "Food:FoodItems:Dessert",
        "level": 2,
        "count": 705,
    }
    assert shown["labels"][2] == {
        "index": 20,
        "label": "Ice cream van",
        "count": 5,
        "categories": ["dessert", "land"],
        "note": "both",
    }
    assert shown["categories"][0]["parent"] is None


@given(labellings())
def test_json_says_it_all(labelling):
    shown = json.loads(json.dumps(as_dict(labelling)))
    taxonomy = Taxonomy(
        tuple(Category(c["id"], c["parent"] or "", c["name"], c["iab"] or "") for c in shown["categories"])
    )
    labels = tuple(
        Label(row["index"], row["label"], row["count"], tuple(row["categories"]), row["note"])
        for row in shown["labels"]
    )
    assert (taxonomy, LabelMap(labels, taxonomy)) == labelling
    assert len(printed(labelling)) > len(BY_HAND.names[0])
