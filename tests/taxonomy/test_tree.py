import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Taxonomy

from .trees import BY_HAND, taxonomies


def test_a_tree_made_by_hand():
    assert BY_HAND.parents.tolist() == [-1, 0, 1, 0, -1, 4]
    assert BY_HAND.levels.tolist() == [0, 1, 2, 1, 0, 1]
    assert BY_HAND.tops.tolist() == [0, 0, 0, 0, 4, 4]
    assert BY_HAND.paths[2] == "Food:FoodItems:Dessert"
    assert BY_HAND.ancestors(2) == (1, 0)
    assert BY_HAND.descendants(0) == (1, 2, 3)
    assert BY_HAND.children(0) == (1, 3)
    assert BY_HAND.top(2) == 0
    assert BY_HAND.index("land") == 5
    assert BY_HAND.with_ancestors[2].tolist() == [True, True, True, False, False, False]
    assert len(BY_HAND) == 6
    assert [category.name for category in BY_HAND] == list(BY_HAND.names)


def test_an_unknown_id_is_named():
    with pytest.raises(Error, match="'boat'"):
        BY_HAND.index("boat")


def test_nothing_can_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BY_HAND.categories = ()
    for array in (BY_HAND.parents, BY_HAND.levels, BY_HAND.tops, BY_HAND.with_ancestors):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_fingerprint_follows_content_and_order():
    turned = Taxonomy(tuple(reversed(BY_HAND.categories)))
    assert turned.fingerprint != BY_HAND.fingerprint == Taxonomy(BY_HAND.categories).fingerprint
    assert len(BY_HAND.fingerprint) == 64


@given(taxonomies())
def test_pickles_and_hashes_by_content(taxonomy):
    assert taxonomy.with_ancestors.any()  # arrays made before pickling do not matter
    again = pickle.loads(pickle.dumps(taxonomy))
    assert again == taxonomy
    assert hash(again) == hash(taxonomy)
    assert not again.with_ancestors.flags.writeable


@given(taxonomies())
def test_ancestors_and_descendants_are_inverse(taxonomy):
    for i in range(len(taxonomy)):
        for j in range(len(taxonomy)):
            assert (i in taxonomy.ancestors(j)) == (j in taxonomy.descendants(i))
        assert taxonomy.levels[i] == len(taxonomy.ancestors(i)) == taxonomy.paths[i].count(":")
        assert all(taxonomy.parents[child] == i for child in taxonomy.children(i))
        assert taxonomy.levels[taxonomy.top(i)] == 0
    assert len(set(taxonomy.paths)) == len(taxonomy)


@given(taxonomies())
def test_what_is_written_is_read(tmp_path_factory, taxonomy):
    path = tmp_path_factory.getbasetemp() / "round_trip.tsv"
    taxonomy.write(path)
    assert Taxonomy.read(path) == taxonomy


@given(taxonomies(), st.integers(0, 2**32 - 1))
def test_consistent_only_lowers_and_is_idempotent(taxonomy, seed):
    before = np.random.default_rng(seed).random((2, 3, len(taxonomy)), dtype=np.float32)
    after = taxonomy.consistent(before)
    below = taxonomy.parents >= 0
    assert after.dtype == before.dtype
    assert (after <= before).all()
    assert (after[..., below] <= after[..., taxonomy.parents[below]]).all()
    np.testing.assert_array_equal(taxonomy.consistent(after), after)
    # The definition in one line: the least of a category's own and its ancestors' probabilities.
    least = np.where(taxonomy.with_ancestors, before[..., None, :], np.inf).min(-1)
    np.testing.assert_array_equal(after, least)
    tensor = torch.from_numpy(before)
    np.testing.assert_array_equal(taxonomy.consistent(tensor).numpy(), after)
    np.testing.assert_array_equal(tensor.numpy(), before)  # the input stays as it was


def test_codes_are_those_of_the_nearest_ancestor_that_has_one():
    taxonomy = Taxonomy(
        (
            Category("a", "", "A"),
            Category("b", "a", "B", "150"),
            Category("c", "b", "C"),
            Category("d", "c", "D", "7"),
        )
    )
    assert taxonomy.codes == ("", "150", "150", "7")


def test_consistent_passes_gradients():
    scores = torch.tensor([0.5, 0.75, 0.25, 0.25, 0.5, 0.25], requires_grad=True)
    BY_HAND.consistent(scores).sum().backward()
    assert scores.grad.tolist() == [2, 0, 1, 1, 1, 1]


def test_consistent_refuses_another_width():
    with pytest.raises(ValueError, match=r"\(\.\.\., 6\) expected"):
        BY_HAND.consistent(np.zeros((6, 5)))


def test_reads_comments_any_order_spreadsheet_marks_and_line_ends(tmp_path):
    path = tmp_path / "categories.tsv"
    path.write_bytes(
        "\ufeff# by hand\r\n\r\n#\tCC BY 4.0\r\nid\tparent\tname\r\n#2\t1\tCafé\r\n\r\n1\t\tFood\r\n".encode()
    )
    taxonomy = Taxonomy.read(path)
    assert taxonomy.paths == ("Food:Café", "Food")
    assert taxonomy.categories[1] == Category("1", "", "Food")


HEADER = "# comment\nid\tparent\tname\n"  # the first row is line 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; the header"),
        ("# only a comment\n", "is empty; the header"),
        (HEADER, "no categories below the header"),
        ("a\t\tFood\n", "line 1: the header must be 'id parent name' or 'id parent name iab'"),
        (HEADER + "a\t\tFood\nb\tFood\n", "line 4: 3 columns expected, got 2"),
        (HEADER + "a\t\tFood\nb\t\tArt\tiab\n", "line 4: 3 columns expected, got 4"),
        (HEADER + "a\t\tFood\n\nb\tc\tArt\n", "line 5: the parent 'c' of 'b' is not in the taxonomy"),
        (HEADER + "a\t\tFood\nb\t\tArt\na\t\tMusic\n", r"line 5: the id 'a' is taken \(first used at 3\)"),
        (HEADER + "a\t\tFood\nb\t\tArt\nc\t\tFood\n", r"line 5: the name 'Food' is taken under this parent .* at 3\)"),
        (HEADER + "a\t\tFood\nb\ta\t \n", "line 4: the category 'b' has no name"),
        (HEADER + "a\t\tFood:Dessert\n", "line 3: the name 'Food:Dessert' holds ':'"),
        (HEADER + "\t\tFood\n", "line 3: an id must not be empty"),
        (HEADER + "a,b\t\tFood\n", "line 3: an id must not be empty, nor hold commas"),
        (HEADER + "a b\t\tFood\n", "line 3: an id must not be empty, nor hold commas or white space; got 'a b'"),
        (HEADER + "a\ta\tFood\n", "line 3: a cycle of parents: a -> a$"),
        (HEADER + "t\tb\tTail\nb\tc\tArt\nc\tb\tFood\n", "line 4: a cycle of parents: b -> c -> b$"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, text, message):
    path = tmp_path / "mine.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Error, match=message) as error:
        Taxonomy.read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(Error, match="cannot be read"):
        Taxonomy.read(tmp_path / "absent.tsv")
    (tmp_path / "latin.tsv").write_bytes(b"id\tparent\tname\na\t\tCaf\xe9\n")
    with pytest.raises(Error, match=r"is not UTF-8 text \(byte 21\)"):
        Taxonomy.read(tmp_path / "latin.tsv")


def test_errors_without_a_file_name_the_row():
    with pytest.raises(Error, match=r"taxonomy, row 2: the parent 'x'"):
        Taxonomy((Category("a", "", "Food"), Category("b", "x", "Art")))
    with pytest.raises(Error, match="a tab or a line break"):
        Taxonomy((Category("a", "", "Fo\tod"),))
    with pytest.raises(Error, match="at least one"):
        Taxonomy(())


def test_of_equal_categories_the_higher_comes_first():
    taxonomy = Taxonomy((Category("child", "top", "Child"), Category("top", "", "Top"), Category("other", "", "Other")))
    assert taxonomy.ranked(np.array([0.4, 0.4, 0.9])).tolist() == [2, 1, 0]
