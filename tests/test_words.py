"""Words that stay out: the metaphors of an earlier design (CONTRIBUTING.md, "Words we use")."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEARING = frozenset({"hear", "hears", "heard", "hearing", "hearings", "ear", "ears"})
LISTENING = frozenset({"listen", "listens", "listener", "listeners", "listening"})
SPEAKING = frozenset({"told", "tell", "tells", "telling", "say", "says", "said"})
ALLOWED_ATTRIBUTES = frozenset({"tell"})
"""Names of other libraries, only after a dot: `tell` of files and of Optuna's studies."""
ALLOWED_NAMES: dict[str, frozenset[str]] = {}
"""Whole identifiers that stay, by file below the root."""

DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PROSE = re.compile(
    r"(?<![/\w.-])"  # parts of paths and options are no prose
    r"(hears?|heard|hearings?|ears?|listen(s|ed|ing|ers?)?|told|tells?|telling|says?|said|rivals?|judge[sd]?|weighers?)"
    r"(?![/\w-])",
    re.IGNORECASE,
)
DATASETS = re.compile(r"(?<![/\w-])(?:known-truth )?worlds?(?![/\w-])", re.IGNORECASE)
OLD_NAMES = re.compile(
    r"\bhearing[_-]rate\b|--worlds\b|\bfusion\.told\b|\bClipDataset\b|\bCounterpointError\b|\bWarmRun\b"
    r"|\bbenchmarks/hearing\.py\b|\bdata mosaic --from\b|\bcounterpoint recommend .*--library\b"
    r"|\bcounterpoint\.matching\b"
)
UNDERSCORE_OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*_[\w.-]*")


def parts(identifier: str) -> list[str]:
    """Words of an identifier, in small letters.

    >>> parts("LazyHearing_rate"), parts("HTTPSaid")
    (['lazy', 'hearing', 'rate'], ['http', 'said'])
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier)
    return [part for part in spaced.lower().split("_") if part]


def identifiers(source: str) -> Iterator[tuple[int, str, str]]:
    """Each identifier of a module, with its line and the token before it."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string, before
        before = token.string


def banned_names(source: str, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Identifiers of a module with a banned part, each with its line.

    A test function is named by a sentence: its verb may be `says` or `tells`, but not `hears`.
    """
    listening = HEARING | LISTENING
    return [
        f"{line}: {name}"
        for line, name, before in identifiers(source)
        if (listening if name.startswith("test_") else listening | SPEAKING).intersection(parts(name))
        and name not in allowed
        and not (before == "." and name in ALLOWED_ATTRIBUTES)
    ]


def banned_prose(text: str) -> list[str]:
    """Banned words and old names of a document, each with its line; words in `code` within a sentence may stay."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        prose = re.sub(r"`[^`]*`", "", line)
        hits = [match for pattern in (PROSE, DATASETS) for match in pattern.finditer(prose)]
        hits += [match for pattern in (OLD_NAMES, UNDERSCORE_OPTION) for match in pattern.finditer(line)]
        found += [f"{number}: {match[0]}" for match in hits]
    return found


@pytest.mark.parametrize("folder", ["counterpoint", "tests", "examples"])
def test_no_identifier_has_an_old_word(folder: str) -> None:
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if names := banned_names(path.read_text(encoding="utf-8"), ALLOWED_NAMES.get(name, frozenset())):
            found[name] = names
    assert not found, "\n".join(f"{path}:{name}" for path, names in found.items() for name in names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_has_an_old_word(path: Path) -> None:
    found = banned_prose(path.read_text(encoding="utf-8"))
    assert not found, "\n".join(f"{path.name}:{each}" for each in found)


def test_old_words_are_found() -> None:
    assert banned_names("class Ear:\n    hearing_rate = told\n    def tell(self): ...\nstream.tell()\n") == [
        "1: Ear",
        "2: hearing_rate",
        "2: told",
        "3: tell",
    ]
    assert banned_names("# told\nyear = nearest('said')\nclearing = shear") == []
    assert banned_names("def test_it_says_why(): ...\ndef test_it_listens(): ...\n") == ["2: test_it_listens"]
    assert banned_names("lambda said: said", frozenset({"said"})) == []
    assert banned_prose("A gate listens.\n--training.max_epochs 3\nof two Worlds\n--worlds a") == [
        "1: listens",
        "2: --training.max_epochs",
        "3: Worlds",
        "4: --worlds",
    ]
    assert banned_prose("not `hear`, runs/worlds/mosaic, `max_steps`, a year nearby, appears") == []
