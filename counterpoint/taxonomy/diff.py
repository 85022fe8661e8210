"""What changed between two taxonomies: a category is the same where its id is."""

from typing import Any, NamedTuple

from counterpoint.taxonomy.mapping import Label, Labelling


class Change(NamedTuple):
    """Of one category or label: what it is, and how it was and is; empty where it was or is not there."""

    what: str
    before: str
    after: str


class Diff(NamedTuple):
    """Categories by id, with their paths (their codes in ``recoded``); labels with their category ids."""

    added: list[Change]
    removed: list[Change]
    renamed: list[Change]
    moved: list[Change]
    recoded: list[Change]
    labels: list[Change]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Ready for JSON."""
        return {kind: [change._asdict() for change in changes] for kind, changes in self._asdict().items()}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(kind, what, before, after) of every change."""
        return [(kind, *change) for kind, changes in self._asdict().items() for change in changes]


def diff(old: Labelling, new: Labelling) -> Diff:
    """What differs in meaning, categories and labels in their order in ``old``, then in ``new``.

    Left out are the order of categories, and labels' names, counts and notes.

    A category below one that was renamed or moved has not itself changed.
    """
    was = {category.id: (category, path) for category, path in zip(old.taxonomy, old.taxonomy.paths, strict=True)}
    now = {category.id: (category, path) for category, path in zip(new.taxonomy, new.taxonomy.paths, strict=True)}
    both = [(identifier, *was[identifier], *now[identifier]) for identifier in was if identifier in now]
    return Diff(
        added=[Change(i, "", path) for i, (_, path) in now.items() if i not in was],
        removed=[Change(i, path, "") for i, (_, path) in was.items() if i not in now],
        renamed=[Change(i, path, other) for i, a, path, b, other in both if a.name != b.name],
        moved=[Change(i, path, other) for i, a, path, b, other in both if a.parent != b.parent],
        recoded=[Change(i, a.iab, b.iab) for i, a, _, b, _ in both if a.iab != b.iab],
        labels=_labels(old, new),
    )


def _labels(old: Labelling, new: Labelling) -> list[Change]:
    was = {label.index: label for label in old.labels.labels}
    now = {label.index: label for label in new.labels.labels}
    changes = []
    for index in dict.fromkeys((*was, *now)):
        before, after = was.get(index), now.get(index)
        if before is None or after is None or set(before.categories) != set(after.categories):
            name = (after or before or Label(index, "", 0, ())).name
            changes.append(Change(f"{index} ({name})", _told(before), _told(after)))
    return changes


def _told(label: Label | None) -> str:
    return "" if label is None else ", ".join(label.categories) or "none"
