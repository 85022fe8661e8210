from pathlib import Path

import pytest

from counterpoint.errors import Error
from counterpoint.media import labels
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy, load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"?")
    return tmp_path


def table(folder: Path, *lines: str, header: str = "path,categories") -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_the_taxonomy_follows_from_the_names(folder: Path) -> None:
    read = labels.read(table(folder, "a.mp4,Food:Soup", "b.mp4,Food : Ice cream;Travel", 'c.mp4,"Food:Soup;Food:Soup"'))
    taxonomy = read.labelling.taxonomy
    assert taxonomy.paths == ("Food", "Food:Ice cream", "Food:Soup", "Travel")
    assert taxonomy.ids == ("food", "food/ice-cream", "food/soup", "travel")
    assert read.of == {folder / "a.mp4": (2,), folder / "b.mp4": (1, 3), folder / "c.mp4": (2,)}
    assert [label.count for label in read.labelling.labels.labels] == [0, 1, 2, 1]
    assert read.labelling.labels.targets([1]).tolist() == [True, True, False, False]


def test_names_that_look_alike(folder: Path) -> None:
    taxonomy = labels.read(table(folder, "a.mp4,Rock & Pop", "b.mp4,Rock/Pop", "c.mp4,???")).labelling.taxonomy
    assert set(taxonomy.paths) == {"Rock & Pop", "Rock/Pop", "???"}
    assert set(taxonomy.ids) == {"rock-pop", "rock-pop-2", "category"}


def test_it_grows_at_its_end(folder: Path) -> None:
    first = labels.read(table(folder, "a.mp4,Food:Soup"))
    first.labelling.save(folder / "taxonomy")
    known = load(folder / "taxonomy")
    second = labels.read(table(folder, "a.mp4,Animal", "b.mp4,Food:Cake"), known)
    assert second.labelling.taxonomy.paths == ("Food", "Food:Soup", "Animal", "Food:Cake")
    assert second.of[folder / "b.mp4"] == (3,)


def test_a_fixed_taxonomy(folder: Path) -> None:
    taxonomy = Taxonomy((Category("f", "", "Food"), Category("s", "f", "Soup"), Category("c", "f", "Cake")))
    mapped = (Label(7, "Borscht", 3, ("s",)), Label(8, "Meal", 3, ("s", "c")), Label(9, "Miso", 3, ("s",)))
    known = Labelling(taxonomy, LabelMap(mapped, taxonomy))
    read = labels.read(table(folder, "a.mp4,Food:Soup"), known, fixed=True)
    assert read.of == {folder / "a.mp4": (7,)}
    assert read.labelling == known
    with pytest.raises(Error, match=r"labels.csv, line 2: no label .* stands for 'Food:Cake' alone"):
        labels.read(table(folder, "a.mp4,Food:Cake"), known, fixed=True)


def test_other_columns_and_a_byte_order_mark(folder: Path) -> None:
    path = table(folder, "soup,a.mp4,me", header="\ufeffcategories,path,who")
    assert labels.read(path).of == {folder / "a.mp4": (0,)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["x.mp4,Food"], "line 2: no file 'x.mp4' .paths are relative to "),
        (["a.mp4,Food", ",Food"], "line 3: no file ''"),
        (["a.mp4,Food", "a.mp4,Soup"], "line 3: a.mp4 is named twice"),
        (["a.mp4"], "line 2: a.mp4 has no category"),
        (["a.mp4,Food,Soup"], "line 2: more cells than the header has; several categories are separated by ;"),
        (["a.mp4, ; "], "line 2: a.mp4 has no category"),
        (["a.mp4,Food::Soup"], "line 2: the category 'Food::Soup' has an empty name"),
        (['a.mp4,"Food'], "is not CSV in UTF-8"),
        ([], "no files below the header"),
    ],
)
def test_mistakes_name_their_line(folder: Path, lines: list[str], expected: str) -> None:
    with pytest.raises(Error, match=expected):
        labels.read(table(folder, *lines))


def test_no_labels_file(folder: Path) -> None:
    with pytest.raises(Error, match="no column 'categories' in its first line"):
        labels.read(table(folder, header="path,category"))
    with pytest.raises(Error, match=r"cannot be read \(No such file"):
        labels.read(folder / "none.csv")
    (folder / "labels.csv").write_bytes(b"path,categories\n\xff.mp4,Food\n")
    with pytest.raises(Error, match="is not CSV in UTF-8"):
        labels.read(folder / "labels.csv")
