import pytest

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy
from counterpoint.taxonomy.check import measure

TREE = Taxonomy(
    (
        Category("food", "", "Food"),
        Category("sweet", "food", "Sweet"),
        Category("sport", "", "Sport"),
    )
)
LABELLING = Labelling(
    TREE,
    LabelMap(
        (
            Label(0, "Cake", 1, ("sweet",)),
            Label(1, "Pie", 1, ("sweet",)),
            Label(2, "Soup", 1, ("food",)),
            Label(3, "Ball", 1, ("sport",)),
            Label(4, "Goal", 1, ("sport",)),
            Label(5, "Thing", 1, (), "means nothing"),
        ),
        TREE,
    ),
)


def test_lift_by_hand():
    # 45 clips; 13 with Cake, 6 of them with Pie; 10 with Pie in all. Sweet has two labels only, so Food is asked.
    clips = [[0, 1]] * 6 + [[0, 3]] * 2 + [[1, 3]] * 4 + [[3, 4]] * 28
    evidence = measure(LABELLING, clips + [[0]] * 5 + [[]])
    assert evidence.clips == 45
    assert evidence.counts.tolist() == [17, 17, 34]
    cake, ball = (next(link for link in evidence.links if link.label == name) for name in ("Cake", "Ball"))
    assert (cake.category, cake.measured_at, cake.clips) == ("Food:Sweet", "Food", 13)
    assert cake.lift == pytest.approx((6 / 13) / (10 / 45))
    # At the top there is no ancestor to ask.
    assert (ball.measured_at, ball.lift) == ("Sport", pytest.approx((28 / 34) / (28 / 45)))
    assert [link.lift for link in evidence.links] == sorted(link.lift for link in evidence.links)
    assert ("warning", "lift", "label 3 (Ball) in Sport", "a lift of 1.3 at Sport") in evidence.findings()


def test_labels_that_get_along():
    evidence = measure(LABELLING, [[0, 1]] * 10 + [[3, 4]] * 90)
    assert [(link.label, link.lift) for link in evidence.links][2:] == [("Cake", 10.0), ("Pie", 10.0)]
    assert {finding.subject for finding in evidence.findings()} == {
        "label 3 (Ball) in Sport",
        "label 4 (Goal) in Sport",
    }


def test_a_narrow_category_of_three_labels_is_measured_itself():
    more = LabelMap((*LABELLING.labels.labels, Label(6, "Tart", 1, ("sweet",))), TREE)
    cake = measure(Labelling(TREE, more), [[0, 6]] * 10 + [[2, 3]] * 30).links[-2]
    assert (cake.label, cake.measured_at, cake.lift) == ("Cake", "Food:Sweet", 4.0)


def test_rare_labels_are_not_measured():
    assert measure(LABELLING, [[3, 4]] * 7).links == []
    assert measure(LABELLING, []).links == []


def test_a_label_counts_once_a_clip():
    assert [link.lift for link in measure(LABELLING, [[3, 3]] * 20).links] == [0.0]


def test_scarce_categories():
    evidence = measure(LABELLING, [[2, 3]] * 9 + [[3, 4]])
    assert evidence.scarce() == [(0, 2, 1), (1, 1, 1)]
    assert evidence.scarce(few=9) == [(0, 2, 0), (1, 1, 1)]
    assert evidence.to_dict()["levels"][0] == {"level": 0, "categories": 2, "scarce": 1}


def test_unknown_labels_are_named():
    with pytest.raises(Error, match="index 9"):
        measure(LABELLING, [[0, 9]])
