import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy, youtube8m
from counterpoint.taxonomy.render import page, svg

from .trees import LABELS, labellings

SVG = "{http://www.w3.org/2000/svg}"


class Tree(HTMLParser):
    """The categories of a page as (depth, name, labels), and whether tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.nodes: list[tuple[int, str, list[str]]] = []
        self.open: list[str] = []
        self.kind: str | None = None  # of the span that is open
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "span":
            self.kind = dict(attributes).get("class", "label")

    def handle_data(self, data):
        if self.kind == "name":
            self.nodes.append((self.open.count("li") - 1, data, []))
        elif self.kind == "label":
            self.nodes[-1][-1].append(data)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.kind = None


def test_the_tree_with_labels():
    tree = Tree(page(LABELS, "Mine & yours"))
    assert tree.open == []
    assert tree.nodes == [
        (0, "Food", []),
        (1, "FoodItems", ["Cooking show"]),
        (2, "Dessert", ["Ice cream", "Ice cream van"]),
        (1, "Recipe", ["Cooking show"]),
        (0, "Transport", []),
        (1, "Land", ["Ice cream van"]),
    ]
    text = page(LABELS, "Mine & yours")
    assert "<title>Mine &amp; yours</title>" in text
    assert "6 categories, 4 labels; the numbers are training videos" in text
    assert "IAB iab-1" in text


def test_the_page_needs_nothing_else():
    text = page(youtube8m())
    assert not re.search(r"(src|href)=|url\(|@import|https?://", text)
    assert len(Tree(text).nodes) == 640


@settings(max_examples=25)
@given(labellings())
def test_any_name_is_shown_as_it_is(labelling):
    names = [name for _, name, _ in Tree(page(labelling)).nodes]
    assert sorted(names) == sorted(labelling.taxonomy.names)


def test_picture_of_a_category():
    root = ElementTree.fromstring(svg(LABELS, "Food"))
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert texts == ["Food 755", "FoodItems 755", "Dessert 705", "Recipe 50"]
    assert len(list(root.iter(f"{SVG}path"))) == 3
    width, height = float(root.get("width")), float(root.get("height"))
    for circle in root.iter(f"{SVG}circle"):
        assert 0 < float(circle.get("cx")) < width
        assert 0 < float(circle.get("cy")) < height
    # A parent stands between its children, and leaves on lines of their own.
    y = [float(circle.get("cy")) for circle in root.iter(f"{SVG}circle")]
    assert y[0] == (y[1] + y[3]) / 2
    assert y[1] == y[2] < y[3]


def test_picture_of_a_part_by_path_and_by_id():
    assert svg(LABELS, "Food:FoodItems") == svg(LABELS, "items")
    bare = Taxonomy((Category("a", "", "A & B"),))
    root = ElementTree.fromstring(svg(Labelling(bare, LabelMap.identity(bare)), "A & B"))
    assert ["".join(node.itertext()) for node in root.iter(f"{SVG}text")] == ["A & B"]


def test_no_such_category():
    with pytest.raises(Error, match="'Boat'; at the top are Food, Transport"):
        svg(LABELS, "Boat")


def test_deep_trees():
    """Deeper than Python calls."""
    deep = Taxonomy(tuple(Category(f"c{i}", f"c{i - 1}" if i else "", f"Level {i}") for i in range(1200)))
    labelling = Labelling(deep, LabelMap.identity(deep))
    shown = page(labelling)
    assert shown.count("<details>") == shown.count("</details>") == 1200
    assert shown.index("Level 1198<") < shown.index("Level 1199<")
    assert svg(labelling, "c0").count("<circle") == 1200
