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
    assert taxonomy.ids == ("Food", "Food/Ice_cream", "Food/Soup", "Travel")
    assert read.of == {folder / "a.mp4": (2,), folder / "b.mp4": (1, 3), folder / "c.mp4": (2,)}
    assert [label.count for label in read.labelling.labels.labels] == [0, 1, 2, 1]
    assert read.labelling.labels.targets([1]).tolist() == [True, True, False, False]


ALIKE = [
    "C#",
    "C++",
    "18",
    "18+",
    "Rock",
    "rock",
    "दिन",
    "दान",
    "🎸",
    "🎻",
    "a/b",
    "a b",
    "a_b",
    "a,b",
    "a%2Fb",
    "👩\u200d🚀",
]


def test_an_id_is_of_one_path_whatever_else_there_is(folder: Path) -> None:
    """So no two data sets mean different categories by one id."""
    ids = {name: labels.read(table(folder, f'a.mp4,"{name}"')).labelling.taxonomy.ids for name in ALIKE}
    assert len(set(ids.values())) == len(ALIKE)
    together = labels.read(table(folder, f'a.mp4,"{";".join(ALIKE)}"')).labelling.taxonomy
    assert {path: (id_,) for path, id_ in zip(together.paths, together.ids, strict=True)} == ids


def test_one_name_in_two_spellings_is_one_category(folder: Path) -> None:
    """Composed or not, with or without characters that show nothing."""
    read = labels.read(table(folder, "a.mp4,Caf\u00e9", "b.mp4,Cafe\u0301", "c.mp4,Ca\u200bf\u00e9"))
    assert read.labelling.taxonomy.paths == ("Caf\u00e9",)
    assert set(read.of.values()) == {(0,)}
    assert read.notes == ("invisible characters in names (zero-width spaces, soft hyphens) are left out",)


def test_names_that_look_alike_are_noted(folder: Path) -> None:
    read = labels.read(table(folder, "a.mp4,Rock", "b.mp4,rock", "c.mp4,R\u043eck"))
    assert len(set(read.of.values())) == 3
    assert len(read.notes) == 2
    assert all("look alike, and are two" in note for note in read.notes)
    assert labels.read(table(folder, "a.mp4,Soup", "b.mp4,Soap")).notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_people_have_them(folder: Path, encoding: str, delimiter: str, end: str) -> None:
    rows = [["who", "Filename", "tags"], ["me", "a.mp4", "Food:Soup"], ["", "", ""], ["", "b.mp4", '"Food;Travel"']]
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    text = mark + end.join(delimiter.join(row) for row in [*rows, ["", "", ""]]) + end
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    read = labels.read(folder / "labels.csv")
    assert read.labelling.taxonomy.paths == ("Food", "Food:Soup", "Travel")
    assert read.of == {folder / "a.mp4": (1,), folder / "b.mp4": (0, 2)}
    assert read.notes == (("is in UTF-16, and was read as such",) if "16" in encoding else ())


def test_paths_as_windows_writes_them(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "d.mp4").write_bytes(b"?")
    (folder / "in" / "cafe\u0301.mp4").write_bytes(b"?")
    read = labels.read(table(folder, "in\\d.mp4,Food", "in/caf\u00e9.mp4,Food"))
    assert set(read.of) == {folder / "in" / "d.mp4", folder / "in" / "cafe\u0301.mp4"}


def test_columns_that_are_not_clear(folder: Path) -> None:
    header = "file,video,genre"
    with pytest.raises(Error, match=r"2 columns may be that of files in its first line .*--columns filename,genre"):
        labels.read(table(folder, "x,a.mp4,Food", header=header))
    named = labels.read(table(folder, "x,a.mp4,Food", header=header), columns=("video", "genre"))
    assert named.of == {folder / "a.mp4": (0,)}
    with pytest.raises(Error, match="no column 'kind' in its first line"):
        labels.read(table(folder, "x,a.mp4,Food", header=header), columns=("video", "kind"))


def test_all_faults_are_listed_or_left_out(folder: Path) -> None:
    path = table(folder, "a.mp4,Food", "x.mp4,Food", "b.mp4,", "a.mp4,Soup", "c.mp4,Food:Cake")
    with pytest.raises(Error) as raised:
        labels.read(path)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{path}: 3 faults; mend them, or leave them out with --skip-bad-labels"
    assert [line.strip().partition(":")[0] for line in lines[1:]] == ["line 3", "line 4", "line 5"]
    read = labels.read(path, skip_bad=True)
    assert read.of == {folder / "a.mp4": (0,), folder / "c.mp4": (1,)}
    assert read.labelling.taxonomy.paths == ("Food", "Food:Cake")
    assert [note.partition(":")[0] for note in read.notes] == ["left out"] * 3


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
        (['a.mp4,"Food'], "is no table of path and categories"),
        ([], "no files below the header"),
    ],
)
def test_mistakes_name_their_line(folder: Path, lines: list[str], expected: str) -> None:
    with pytest.raises(Error, match=expected):
        labels.read(table(folder, *lines))


def test_no_labels_file(folder: Path) -> None:
    with pytest.raises(Error, match="no column 'categories' in its first line"):
        labels.read(table(folder, header="path,kind"))
    with pytest.raises(Error, match=r"cannot be read \(No such file"):
        labels.read(folder / "none.csv")
    (folder / "labels.csv").write_bytes(b"path,categories\n\xff.mp4,Food\n")
    with pytest.raises(Error, match=r"line 2: is not in UTF-8; .*iconv .* '.*labels.csv' > '.*-utf8.csv'"):
        labels.read(folder / "labels.csv")
