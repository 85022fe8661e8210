import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from counterpoint.errors import Error
from counterpoint.taxonomy import load
from counterpoint.taxonomy.check import check
from counterpoint.taxonomy.importers import from_audioset, from_iab, from_youtube8m_vocabulary, read

COLUMNS = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription"
TWIN = f"""{COLUMNS}
0,900,/m/a,Game,,Games,,,"A description
over two lines, with a comma"
2,500,/m/c,"Call of Duty: Ghosts",,Games,Shopping,,
1,500,/m/b,Dessert,,Food & Drink,,,
3,400,/m/d,,,Games,Shopping,,
4,300,/m/e,Timbales,,(Unknown),,,
5,200,/m/f, Nova,,Science,(Unknown),Science,
6,100,/m/g,Boat,,Travel,Science,,
"""


@pytest.fixture
def twin(tmp_path):
    path = tmp_path / "vocabulary.csv"
    path.write_text(TWIN, encoding="utf-8")
    return path


def test_verticals_and_the_most_frequent_labels(twin):
    taxonomy, labels = from_youtube8m_vocabulary(twin, top=3)
    verticals = ["Games", "Food & Drink", "Shopping", "Science", "Travel"]
    assert list(taxonomy.paths) == [*verticals, "Games:Game", "Food & Drink:Dessert", "Games:Call of Duty - Ghosts"]
    assert taxonomy.ids[1] == "food-drink"
    assert taxonomy.ids[5] == "/m/a"
    names = np.array(taxonomy.names)
    targets = [names[labels.targets([label])].tolist() for label in range(7)]
    assert targets == [
        ["Games", "Game"],
        ["Food & Drink", "Dessert"],
        ["Games", "Shopping", "Call of Duty - Ghosts"],
        ["Games", "Shopping"],
        [],
        ["Science"],
        ["Science", "Travel"],
    ]
    assert [label.index for label in labels.labels] == list(range(7))
    assert labels.labels[2].name == "Call of Duty: Ghosts"
    assert (labels.labels[3].name, labels.labels[3].note) == ("/m/d", "no name in the vocabulary")
    assert (labels.labels[4].name, labels.labels[4].note) == ("Timbales", "no vertical in the vocabulary")
    assert labels.counts.tolist() == [1800, 500, 900, 300, 100, 900, 500, 500]


def test_the_number_of_labels(twin):
    assert len(from_youtube8m_vocabulary(twin, top=0).taxonomy) == 5
    # Neither the label without a name nor the one without a vertical makes a category.
    assert len(from_youtube8m_vocabulary(twin).taxonomy) == 5 + 5
    with pytest.raises(Error, match="negative"):
        from_youtube8m_vocabulary(twin, top=-1)


def test_what_is_imported_survives_the_disk(twin, tmp_path):
    labelling = from_youtube8m_vocabulary(twin)
    labelling.save(tmp_path / "out")
    assert load(tmp_path / "out") == labelling


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Vertical1,Vertical2", "V1,V2", "line 1: .* no column Vertical1, Vertical2"),
        ("1,500,/m/b", "x,500,/m/b", "line 5: the Index 'x' is not a whole number"),
        ("1,500,/m/b", "1,-5,/m/b", "line 5: the TrainVideoCount '-5' is not a whole number"),
        ("1,500,/m/b", "0,500,/m/b", "line 5: the Index 0 is used twice"),
        ("1,500,/m/b", "1,500,/m/a", "makes no taxonomy: .* the id '/m/a' is taken"),
    ],
)
def test_errors_name_the_file_and_the_line(twin, old, new, message):
    assert old in TWIN
    twin.write_text(TWIN.replace(old, new), encoding="utf-8")
    with pytest.raises(Error, match=message) as error:
        from_youtube8m_vocabulary(twin)
    assert str(error.value).startswith(str(twin))


def test_files_that_are_no_vocabulary(tmp_path):
    with pytest.raises(Error, match="cannot be read"):
        from_youtube8m_vocabulary(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Error, match="is not UTF-8 text"):
        from_youtube8m_vocabulary(tmp_path / "binary.csv")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(Error, match="no column Index"):
        from_youtube8m_vocabulary(tmp_path / "empty.csv")


def test_the_real_vocabulary(tmp_path):
    data = Path(os.environ.get("COUNTERPOINT_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "yt8m" / "vocabulary.csv"
    if not path.exists():
        pytest.skip(f"no real vocabulary at {path}; set COUNTERPOINT_DATA (the tests above use a small one)")
    labelling = from_youtube8m_vocabulary(path)
    taxonomy, labels = labelling
    with path.open(encoding="utf-8", newline="") as file:
        rows = {int(row["Index"]): row for row in csv.DictReader(file)}
    assert len(labels) == len(rows) == 3862
    assert len(taxonomy) == 24 + 1000
    assert (taxonomy.levels == 0).sum() == 24
    assert taxonomy.paths[taxonomy.index("/m/01mw1")] == "Games:Video game"
    for index, row in rows.items():
        targets = labels.targets([index])
        tops = {taxonomy.names[i] for i in np.flatnonzero(targets & (taxonomy.levels == 0))}
        assert tops == {row["Vertical1"], row["Vertical2"], row["Vertical3"]} - {"", "(Unknown)"}
        assert (targets & (taxonomy.levels == 1)).sum() <= 1
    assert all(finding.severity == "warning" for finding in check(labelling))
    labelling.save(tmp_path)
    assert load(tmp_path) == labelling
    # Every label a category: all names have their place.
    assert len(from_youtube8m_vocabulary(path, top=len(rows)).taxonomy) > 3600


# --- IAB --------------------------------------------------------------------------------------------------------------

IAB = """Relational ID System\t\t\tTiered Categories\t
Unique ID\tParent\tName\tTier 1\tTier 2
1\t\tAutomotive\tAutomotive\t
II2\t1\tAuto Body: Styles \tAutomotive\tAuto Body Styles

"""


def test_iab(tmp_path):
    path = tmp_path / "iab.tsv"
    path.write_text(IAB, encoding="utf-8-sig")
    taxonomy, labels = from_iab(path)
    assert taxonomy.paths == ("Automotive", "Automotive:Auto Body - Styles")
    assert [category.iab for category in taxonomy] == ["1", "II2"]
    assert labels.targets([1]).tolist() == [True, True]
    assert read(path).labelling == (taxonomy, labels)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Unique ID", "Id", "not an IAB taxonomy: no header Unique ID, Parent, Name"),
        ("II2\t1\tAuto Body: Styles \tAutomotive\tAuto Body Styles", "II2", "line 4: 3 columns expected, got"),
        ("II2\t1", "II2\t9", "makes no taxonomy: .* the parent '9'"),
    ],
)
def test_tables_that_are_not_iabs(tmp_path, old, new, message):
    path = tmp_path / "iab.tsv"
    text = IAB.replace(old, new)
    path.write_text(
        text if new != "II2" else text.replace("II2\tAutomotive\tAuto Body Styles", "II2"), encoding="utf-8"
    )
    with pytest.raises(Error, match=message):
        from_iab(path)


def test_the_real_iab_taxonomy(real_data):
    path = real_data / "taxonomies" / "iab_content_taxonomy_3.1.tsv"
    if not path.exists():
        pytest.skip(f"no {path} (the tests above use a small one)")
    taxonomy, _ = from_iab(path)
    assert len(taxonomy) == 704
    assert set(taxonomy.levels.tolist()) == {0, 1, 2, 3}
    assert "Attractions:Amusement and Theme Parks" in taxonomy.paths


# --- AudioSet ---------------------------------------------------------------------------------------------------------

ONTOLOGY = [
    {"id": "/m/a", "name": "Human: sounds", "child_ids": ["/m/b", "/m/c"]},
    {"id": "/m/b", "name": "Voice", "child_ids": ["/m/c"]},
    {"id": "/m/c", "name": "Speech", "child_ids": []},
]
CLASSES = 'index,mid,display_name\n0,/m/c,"Speech, any"\n7,/m/b,Voice\n'


def test_audioset(tmp_path):
    path, classes = tmp_path / "ontology.json", tmp_path / "classes.csv"
    path.write_text(json.dumps(ONTOLOGY))
    classes.write_text(CLASSES)
    imported = from_audioset(path, classes)
    taxonomy, labels = imported.labelling
    assert taxonomy.paths == ("Human - sounds", "Human - sounds:Voice", "Human - sounds:Speech")
    assert imported.other_parents == (("/m/c", "/m/b"),)
    assert [(label.index, label.name, label.categories) for label in labels.labels] == [
        (0, "Speech, any", ("/m/c",)),
        (7, "Voice", ("/m/b",)),
    ]
    imported.save(tmp_path / "out")
    assert load(tmp_path / "out") == imported.labelling
    assert (tmp_path / "out" / "other-parents.tsv").read_text() == "id\tparent\n/m/c\t/m/b\n"
    assert read(path).labelling.labels.targets([1]).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("ontology", "classes", "message"),
    [
        ("{", CLASSES, "not an AudioSet ontology"),
        ('{"id": 1}', CLASSES, "not an AudioSet ontology"),
        (json.dumps(ONTOLOGY), "mid\n", "the header must be index,mid,display_name"),
        (json.dumps(ONTOLOGY), CLASSES + "x,/m/a,Any\n", "line 4: not an index, an id and a name"),
        (json.dumps(ONTOLOGY), CLASSES + "8,/m/z,Any\n", r"^\S+classes\.csv: not the labels .* '/m/z' of label 8"),
    ],
)
def test_files_that_are_not_audiosets(tmp_path, ontology, classes, message):
    (tmp_path / "ontology.json").write_text(ontology)
    (tmp_path / "classes.csv").write_text(classes)
    with pytest.raises(Error, match=message):
        from_audioset(tmp_path / "ontology.json", tmp_path / "classes.csv")


def test_the_real_ontology(real_data):
    folder = real_data / "audioset"
    if not (folder / "ontology.json").exists():
        pytest.skip(f"no {folder / 'ontology.json'} (the tests above use a small one)")
    (taxonomy, labels), others = from_audioset(folder / "ontology.json", folder / "class_labels_indices.csv")
    assert (len(taxonomy), len(labels), len(dict(others))) == (632, 527, 38)
    assert (taxonomy.levels == 0).sum() == 7


def test_files_of_another_kind(tmp_path, twin):
    with pytest.raises(Error, match="neither a vocabulary"):
        read(tmp_path / "taxonomy.xml")
    with pytest.raises(Error, match="belongs to an AudioSet ontology"):
        read(twin, labels=twin)
