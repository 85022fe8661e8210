import pytest

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy
from counterpoint.taxonomy.check import check, exceptions, unexplained

from .trees import BY_HAND, LABELS


def labelling(categories: list[Category], *labels: Label) -> Labelling:
    taxonomy = Taxonomy(tuple(categories))
    return Labelling(taxonomy, LabelMap(labels, taxonomy))


def test_each_finding():
    assert check(LABELS) == [
        ("warning", "few", "Food:Recipe", "a leaf with few training videos: 50, fewer than 500"),
        ("warning", "children", "Transport", "a top category with 1 child"),
        ("warning", "few", "Transport:Land", "a leaf with few training videos: 5, fewer than 500"),
    ]
    assert check(LABELS, few=0) == [("warning", "children", "Transport", "a top category with 1 child")]


def test_categories_and_labels_that_lead_nowhere():
    found = check(labelling([*BY_HAND.categories], Label(3, "Pie", 600, ("recipe",)), Label(5, "Thing", 7, ())))
    unreached = [f.subject for f in found if f.message == "no label leads to it or below it"]
    assert unreached == ["Food:FoodItems", "Food:FoodItems:Dessert", "Transport", "Transport:Land"]
    assert found[-1] == ("error", "unmapped", "label 5 (Thing)", "no category, and no note with the reason")


def test_bare_categories_have_no_counts_to_complain_about():
    assert [f.message for f in check(Labelling(BY_HAND, LabelMap.identity(BY_HAND)))] == ["a top category with 1 child"]


def test_depth_and_white_space():
    chain = [Category(str(i), str(i - 1) if i else "", f"N{i}" + " " * (i == 1)) for i in range(5)]
    found = check(labelling(chain, Label(0, "x", 500, ("4",))))
    assert found == [
        ("warning", "children", "N0", "a top category with 1 child"),
        ("error", "space", "N0:N1 ", "white space around the name, or doubled in it"),
        ("warning", "depth", "N0:N1 :N2:N3:N4", "on level 4; the deepest that is reported on is 3"),
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Video game", "VideoGames", True),
        ("Sci-fi", "SCI FI", True),
        ("Bus", "Buses", True),
        ("Box", "Boxes", True),
        ("Church", "churches", True),
        ("Berry", "Berries", True),
        ("Horse", "Horses", True),
        ("iPhone 4", "iPhone 4S", False),
        ("Berries", "Berry", True),
        ("iPhone 3G", "iPhone 3GS", False),
        ("Car", "Care", False),
        ("+", "−", False),
        ("Ice Racing", "racing (ice)", True),
    ],
)
def test_siblings_that_are_nearly_one(one, other, same):
    categories = [Category("a", "", "A"), Category("b", "a", one), Category("c", "a", other), Category("d", "", other)]
    found = check(labelling(categories, Label(0, "x", 1, ("b", "d")), Label(1, "y", 1, ("c",))), few=0)
    expected = [f"differs from its sibling {one!r} only by case, plural, order or punctuation"] if same else []
    assert [f.message for f in found if f.check == "sibling"] == expected


def test_siblings_with_the_same_labels():
    categories = [Category(i, "a" if i != "a" else "", i.upper()) for i in "abcd"]
    labels = Label(0, "x", 1, ("b", "c")), Label(1, "y", 1, ("c", "b", "d"))
    found = check(labelling(categories, *labels), few=0)
    assert [(f.subject, f.message) for f in found if f.check == "sibling"] == [
        ("A:C", "the same labels lead to it and to its sibling 'B'")
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Sports Car", []),
        ("Glass", []),
        ("Bus", []),
        ("Tennis", []),
        ("Cars", ["plural"]),
        ("iPhone", ["case"]),
        ("Video game", ["case"]),
        ("VideoGame", ["case"]),
        ("Clash of the Clan", []),
        ("of Clan", ["case"]),
        ("BMX Bike", []),
        ("4x4 Truck", []),
        ("Arts & Craft", ["speech"]),
        ("Big Red Fire Engine Truck", ["speech"]),
        ("Off-Road Vehicle", []),
        ("Assassin's Creed", []),
    ],
)
def test_style_of_names(name, expected):
    bare = labelling([Category("a", "", name)], Label(0, "x", 1, ("a",)))
    style = {"plural", "case", "speech"}
    assert [f.check for f in check(bare, style=True) if f.check in style] == expected
    assert not style & {f.check for f in check(bare)}


def test_exceptions(tmp_path):
    assert exceptions(tmp_path) == {}
    (tmp_path / "exceptions.tsv").write_text("check\tsubject\treason\nfew\tFood:Recipe\tsoon more\n")
    found = check(LABELS)
    left = unexplained(found, exceptions(tmp_path))
    assert [(f.check, f.subject) for f in left] == [("children", "Transport"), ("few", "Transport:Land")]
    (tmp_path / "exceptions.tsv").write_text("check\tsubject\treason\nfew\tFood:Recipe\t \n")
    with pytest.raises(Error, match=r"exceptions\.tsv, line 2: no reason"):
        exceptions(tmp_path)
