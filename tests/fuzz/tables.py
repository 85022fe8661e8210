"""Tables that people edit: whatever is read, an independent reading of the text says the same, and so does the table
written anew.
"""

import csv
import io
import json
import shutil
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console

from counterpoint.errors import Error
from counterpoint.media import labels as own_labels
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy, compare, importers, load, mapping
from counterpoint.taxonomy.check import EXCEPTIONS_COLUMNS, EXCEPTIONS_FILE, check, exceptions
from counterpoint.taxonomy.compare import diff
from counterpoint.taxonomy.render import as_dict, page, svg
from counterpoint.taxonomy.render import tree as shown
from fuzz.target import Target, mutated, scratch

TOKENS = [
    *(
        b"\t",
        b"\n",
        b"\r\n",
        b"\r",
        b"#",
        b'"',
        b",",
        b";",
        b":",
        b" ",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"none",
        b"-1",
    ),
    *(
        "\u2028".encode(),
        "\u0663".encode(),
        "\u00b2".encode(),
        b"9" * 19,
        b"9" * 5000,
        b"a" * 300,
        b"[",
        b"]",
        b"{",
        b"}",
    ),
    *(b"null", b"[" * 2000, b"../", b"\\", b"\x85", b"\x1c", b"(Unknown)", b"1e400", b"NaN", b"\x1b[31m", b"\\ud800"),
]
NAMES = ["Food", "Soup", "Ice cream", "Land", "Car", "\u00c4rzte", "food", "Foods", "\u200b", "a:b", "[b]", "\u0130"]
IDS = ["f", "s", "f/s", "x", "\u00e9", "a-b", "f s", "f,s", ""]


def _rows(text: bytes) -> list[list[str]]:
    """The fields of a table's lines, from the header on, as its format says."""
    decoded = text.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in decoded.split("\n") if line]
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return [line.split("\t") for line in lines]


def _changed(random: Random, text: str) -> bytes:
    return text.encode() if random.random() < 0.2 else mutated(random, text.encode(), TOKENS)


def _file(name: str, content: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(content)
    return path


def _refusing(check: Callable[[bytes], None]) -> Callable[[bytes], bool]:
    """The check of a target: users are promised `Error`s alone."""

    def checked(content: bytes) -> bool:
        try:
            check(content)
        except Error:
            return False
        return True

    return checked


# --- Taxonomies -------------------------------------------------------------------------------------------------------


def draw_taxonomy(random: Random) -> bytes:
    rows = [("id", "parent", "name", *(["iab"] if random.random() < 0.3 else []))]
    ids = [""]
    for number in range(random.choice((0, 1, 3, 8))):
        own = random.choice((f"c{number}", f"c{number}", random.choice(IDS)))
        parent = random.choice(ids) if random.random() < 0.9 else random.choice(IDS)
        name = random.choice((f"Name {number}", f"Name {number}", random.choice(NAMES)))
        rows.append((own, parent, name, *(["483"] * (len(rows[0]) - 3))))
        ids.append(own)
    if random.random() < 0.2:
        random.shuffle(rows[1:])
    return _changed(random, "".join("\t".join(row) + "\n" for row in rows))


def check_taxonomy(content: bytes) -> None:
    taxonomy = Taxonomy.read(_file("categories.tsv", content))
    (header, *rows) = _rows(content)
    assert [tuple(row) for row in rows] == [(c.id, c.parent, c.name, c.iab)[: len(header)] for c in taxonomy]
    parents = {row[0]: row[1] for row in rows}
    for i, (own, parent, *_) in enumerate(rows):
        chain = []
        while parent:
            chain.append(parent)
            parent = parents[parent]
        assert [taxonomy.ids[j] for j in taxonomy.ancestors(i)] == chain
        assert taxonomy.levels[i] == len(chain)
        assert {taxonomy.ids[j] for j in np.flatnonzero(taxonomy.with_ancestors[i])} == {own, *chain}
    assert len(set(taxonomy.paths)) == len(taxonomy)
    probabilities = np.linspace(0, 1, len(taxonomy), dtype=np.float32)
    consistent = taxonomy.consistent(probabilities)
    assert all(p < 0 or consistent[i] <= consistent[p] for i, p in enumerate(taxonomy.parents))
    labelling = Labelling(taxonomy, LabelMap.identity(taxonomy))
    labelling.save(scratch() / "saved")
    assert load(scratch() / "saved") == labelling
    _looked_at(labelling)


def _looked_at(labelling: Labelling) -> None:
    """What the commands of `counterpoint taxonomy` do with a taxonomy."""
    check(labelling, style=True)
    Console(file=io.StringIO(), width=80).print(shown(labelling, None))
    json.dumps(as_dict(labelling))
    page(labelling, "all of it").encode()
    svg(labelling, labelling.taxonomy.ids[0]).encode()
    assert not diff(labelling, labelling).rows()


@cache
def _food() -> Taxonomy:
    categories = [
        Category("f", "", "Food"),
        Category("s", "f", "Soup"),
        Category("i", "f", "Ice"),
        Category("t", "", "T"),
    ]
    return Taxonomy(tuple(categories))


def draw_mapping(random: Random) -> bytes:
    rows = [mapping.COLUMNS]
    for number in range(random.choice((0, 1, 3, 8))):
        places = ",".join(random.sample(("f", "s", "i", "t", " s", "x", ""), random.choice((0, 1, 1, 1, 2))))
        index = random.choice((number, number, number, -1, 2**63 - 1, 2**63, "07"))
        count = random.choice((0, 100, "", 2**62, 2**63 - 1))
        rows.append((str(index), random.choice(NAMES), str(count), places, random.choice(("", "none", "so"))))
    return _changed(random, "".join("\t".join(row) + "\n" for row in rows))


def check_mapping(content: bytes) -> None:
    labels = LabelMap.read(_file("labels.tsv", content), _food())
    (_, *rows) = _rows(content)
    closure = {"f": {0}, "s": {0, 1}, "i": {0, 2}, "t": {3}}
    counts = [0] * 4
    for label, (index, name, count, places, note) in zip(labels.labels, rows, strict=True):
        assert (label.index, label.name, label.note) == (int(index), name, note)
        targets = {j for place in places.split(",") if places.strip() for j in closure[place.strip()]}
        assert set(np.flatnonzero(labels.targets([label.index]))) == targets
        for j in targets:
            counts[j] += int(count or 0)
    assert labels.counts.tolist() == counts
    labels.write(scratch() / "again.tsv")
    assert LabelMap.read(scratch() / "again.tsv", _food()) == labels
    if len(labels):
        _looked_at(Labelling(_food(), labels))


def draw_exceptions(random: Random) -> bytes:
    rows = [EXCEPTIONS_COLUMNS]
    for _ in range(random.choice((0, 1, 2, 4))):
        rows.append((random.choice(("few", "lift", "")), random.choice(NAMES), random.choice(("so it is", "", " "))))
    return _changed(random, "".join("\t".join(row) + "\n" for row in rows))


def check_exceptions(content: bytes) -> None:
    found = exceptions(_file(EXCEPTIONS_FILE, content).parent)
    assert found == {(name, subject): reason for name, subject, reason in _rows(content)[1:]}


def draw_conflicts(random: Random) -> bytes:
    rows = [compare.COLUMNS]
    for number in range(random.choice((0, 1, 2, 4))):
        index = random.choice((str(number), "-1", "\u0663", "\u00b2", "x"))
        settled = random.choice(("", "f", "s,t", "none", "x", " s , t "))
        rows.append((index, random.choice(NAMES), "7", "f", "f: 2", settled))
    return _changed(random, "".join("\t".join(row) + "\n" for row in rows))


def check_conflicts(content: bytes) -> None:
    """Settlements, and what `counterpoint taxonomy merge` makes of them: they stand, and are there the next time."""
    path = _file(compare.CONFLICTS_FILE, content)
    settled = compare.settlements(path, _food())
    rows = {int(row[0]): row[-1].strip() for row in _rows(content)[1:] if row[-1].strip()}
    assert settled == rows
    answers = [("f",), ("s",), ("s",)]
    annotators = [LabelMap(tuple(Label(i, "l", 1, places) for i in range(3)), _food()) for places in answers]
    merged = compare.merge(annotators, settled)
    merged.save(path.parent / "merged")
    again = compare.settlements(path.parent / "merged" / compare.CONFLICTS_FILE, _food())
    assert again == settled, (again, settled)
    for label in load(path.parent / "merged").labels.labels:
        settled_as = rows.get(label.index, "s")  # two of three answer Soup, and all answer Food
        assert label.categories == tuple(part.strip() for part in settled_as.split(",") if settled_as != "none")


# --- Imports ----------------------------------------------------------------------------------------------------------


def draw_vocabulary(random: Random) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(importers.COLUMNS)
    for number in range(random.choice((0, 1, 3, 6))):
        index = random.choice((number, number, number, random.choice(("-1", "\u00b2", "x", 2**63))))
        verticals = random.choices(("Food", "Arts & Entertainment", "", importers.UNKNOWN, "Food ", "a:b"), k=3)
        writer.writerow(
            (index, random.choice((5, 100, "", "9" * 19)), f"/m/{number}", random.choice(NAMES), *verticals)
        )
    return _changed(random, out.getvalue())


def _imported(content: bytes, name: str, labels: Path | None = None) -> importers.Imported:
    """An import that succeeds can be kept and read again, and looked at."""
    imported = importers.read(_file(name, content), top=2 if name.endswith(".csv") else 1000, labels=labels)
    shutil.rmtree(scratch() / "imported", ignore_errors=True)  # an import refuses what is there
    imported.save(scratch() / "imported")
    assert load(scratch() / "imported") == imported.labelling
    _looked_at(imported.labelling)
    return imported


def check_vocabulary(content: bytes) -> None:
    labelling = _imported(content, "vocabulary.csv").labelling
    text = content.decode().removeprefix("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert sorted(label.index for label in labelling.labels.labels) == sorted(int(row["Index"]) for row in rows)
    for label in labelling.labels.labels:
        (row,) = [row for row in rows if int(row["Index"]) == label.index]
        assert label.count == int(row["TrainVideoCount"])
        tops = {labelling.taxonomy.names[labelling.taxonomy.top(labelling.taxonomy.index(c))] for c in label.categories}
        named = [" ".join(row[v].replace(":", " - ").split()) for v in importers.VERTICALS]
        assert tops == {name for name in named if name and name != importers.UNKNOWN}


def draw_iab(random: Random) -> bytes:
    rows = [("Relational ID System", "", ""), importers.IAB_COLUMNS]
    ids = [""]
    for number in range(random.choice((0, 1, 3, 6))):
        rows.append((str(number), random.choice(ids), f"{random.choice(NAMES)}{number}"))
        ids.append(str(number))
    return _changed(random, "".join("\t".join(row) + "\n" for row in rows))


def check_iab(content: bytes) -> None:
    _imported(content, "iab.tsv")


def draw_ontology(random: Random) -> bytes:
    ids = [f"/m/{number}" for number in range(random.choice((0, 1, 3, 6)))]
    nodes = [
        {
            "id": own,
            "name": random.choice(NAMES) + own[-1],
            "child_ids": random.sample(ids[i + 1 :], min(2, len(ids) - i - 1)),
        }
        for i, own in enumerate(ids)
    ]
    if nodes and random.random() < 0.1:
        nodes[-1][random.choice(("id", "name", "child_ids"))] = random.choice((None, 3, [], {}, "x", [[]], [3]))
    return _changed(random, json.dumps(nodes, ensure_ascii=random.random() < 0.5))


def check_ontology(content: bytes) -> None:
    imported = _imported(content, "ontology.json")
    nodes = json.loads(content.decode("utf-8-sig"))
    assert list(imported.labelling.taxonomy.ids) == [node["id"] for node in nodes]
    edges = {(child, node["id"]) for node in nodes for child in node["child_ids"]}
    kept = {(c.id, c.parent) for c in imported.labelling.taxonomy if c.parent}
    assert kept | set(imported.other_parents) == edges


def draw_ontology_labels(random: Random) -> bytes:
    rows = [importers.AUDIOSET_COLUMNS]
    for number in range(random.choice((0, 1, 3))):
        rows.append((str(number), f"/m/{random.randrange(3)}", f'"{random.choice(NAMES)}, and more"'))
    return _changed(random, "".join(",".join(row) + "\n" for row in rows))


def check_ontology_labels(content: bytes) -> None:
    nodes = [{"id": f"/m/{i}", "name": f"n{i}", "child_ids": []} for i in range(3)]
    labels = _file("class_labels_indices.csv", content)
    _imported(json.dumps(nodes).encode(), "ontology.json", labels)


# --- One's own labels -------------------------------------------------------------------------------------------------

FILES = ["a.mp4", "b c.mp4", "d,e.mp4", "sub/f.mp4"]


def draw_own_labels(random: Random) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=random.choice(("\n", "\r\n")))
    writer.writerow(own_labels.COLUMNS if random.random() < 0.9 else ("categories", "more", "path"))
    for name in random.sample(FILES, random.randrange(4)):
        paths = [":".join(random.sample(NAMES[:6], random.choice((1, 2, 3)))) for _ in range(random.choice((1, 1, 2)))]
        writer.writerow((name, random.choice((";", "; ")).join(paths)))
    return _changed(random, out.getvalue())


def _plainly_read(content: bytes) -> dict[Path, set[str]] | None:
    """Each file's categories, where the table is as the documentation has it; other forms have tests of their own."""
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    plain = unicodedata.normalize("NFC", text) == text == text.translate(own_labels.INVISIBLE) and "\\" not in text
    if not plain or not rows or not set(own_labels.COLUMNS) <= rows[0].keys():
        return None
    wanted = {}
    for row in rows:
        if any((cell or "").strip() for cell in row.values()):
            names = [[" ".join(name.split()) for name in one.split(":")] for one in row["categories"].split(";")]
            wanted[(scratch() / row["path"].strip()).resolve()] = {":".join(name) for name in names if name != [""]}
    return wanted


def check_own_labels(content: bytes) -> None:
    path = _file("own.csv", content)
    (scratch() / "sub").mkdir(exist_ok=True)
    for name in FILES:
        (scratch() / name).touch()
    found = own_labels.read(path)
    if (wanted := _plainly_read(content)) is not None:
        paths = found.labelling.taxonomy.paths
        assert {file: {paths[i] for i in indices} for file, indices in found.of.items()} == wanted
    found.labelling.save(scratch() / "own")
    assert load(scratch() / "own") == found.labelling
    again = own_labels.read(path, load(scratch() / "own"))
    assert again.of == found.of
    assert again.labelling == found.labelling


TARGETS = [
    Target("taxonomy", draw_taxonomy, _refusing(check_taxonomy)),
    Target("mapping", draw_mapping, _refusing(check_mapping)),
    Target("exceptions", draw_exceptions, _refusing(check_exceptions)),
    Target("conflicts", draw_conflicts, _refusing(check_conflicts)),
    Target("vocabulary", draw_vocabulary, _refusing(check_vocabulary)),
    Target("iab", draw_iab, _refusing(check_iab)),
    Target("ontology", draw_ontology, _refusing(check_ontology)),
    Target("ontology-labels", draw_ontology_labels, _refusing(check_ontology_labels)),
    Target("own-labels", draw_own_labels, _refusing(check_own_labels)),
]
