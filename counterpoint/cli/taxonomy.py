"""The verbs of `counterpoint taxonomy`; what they need is imported when they run, as in `counterpoint.cli.main`.

Not in the package `taxonomy`, which loads numpy: a tenth of a second that `counterpoint --help` does without.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.taxonomy.compare import Diff


def import_(args: Namespace) -> int:
    """Make a first taxonomy from YouTube-8M's vocabulary.csv, IAB's content taxonomy or AudioSet's ontology.json."""
    from counterpoint.files import check_output_folder
    from counterpoint.taxonomy.importers import OTHER_PARENTS_FILE, read

    check_output_folder(Path(args.out))
    imported = read(args.file, top=args.top, labels=args.labels)
    imported.save(args.out)
    taxonomy, labels = imported.labelling
    print(f"{args.out}: {len(taxonomy)} categories, {len(labels)} labels")
    if imported.other_parents:
        several = len(dict(imported.other_parents))
        print(f"{several} categories have several parents; {OTHER_PARENTS_FILE} lists all but the first")
    return 0


def show(args: Namespace) -> int:
    """Print a taxonomy as a tree with training counts; or write it as a page, or a category's tree as a picture."""
    from counterpoint.cli import main as cli
    from counterpoint.taxonomy.render import as_dict, page, svg, tree

    if args.levels and (args.json or args.svg or args.html):
        raise Error("--levels is about the tree that is printed; leave it out")
    labelling = cli._taxonomy(args.taxonomy)
    if (args.svg is None) != (args.out is None):
        raise Error("--svg CATEGORY and --out FILE go together")
    if args.svg is not None:
        _write(args.out, svg(labelling, args.svg))
    if args.html is not None:
        _write(args.html, page(labelling, f"The taxonomy {Path(args.taxonomy).resolve().name}"))
    if args.json or (args.svg is None and args.html is None):
        cli._print(args.json, lambda: as_dict(labelling), lambda: tree(labelling, args.levels))
    return 0


def check(args: Namespace) -> int:
    """Look for faults that a taxonomy's exceptions.tsv does not explain; the exit code is 1 where there are errors."""
    from counterpoint.cli import main as cli
    from counterpoint.taxonomy.check import check, exceptions, findings_table, unexplained

    found = check(cli._taxonomy(args.taxonomy), few=args.few, style=args.style)
    findings = unexplained(found, exceptions(cli._folder(args.taxonomy)))
    cli._print(
        args.json,
        lambda: [finding._asdict() for finding in findings],
        lambda: findings_table(findings) if findings else "no findings",
    )
    return int(any(finding.severity == "error" for finding in findings))


def measure(args: Namespace) -> int:
    """Ask clips whether the labels of a category occur together; the exit code is 1 where some do not, unexplained."""
    from rich.console import Group

    from counterpoint.cli import main as cli
    from counterpoint.taxonomy.check import LIFT, exceptions, measure, unexplained

    taxonomy = args.taxonomy or cli._default_taxonomy(args.data, "before --data")
    labelling = cli._taxonomy(taxonomy)
    dataset = cli._dataset(args, args.data, labelling)
    cli._report(dataset)
    evidence = measure(labelling, (dataset[i][0].labels.tolist() for i in range(len(dataset))))
    reasons = exceptions(cli._folder(taxonomy))
    findings = evidence.findings()
    open_ = unexplained(findings, reasons)
    summary = f"{len(findings)} of {len(evidence.links)} links below a lift of {LIFT:g}, {len(open_)} unexplained"
    cli._print(
        args.json,
        lambda: {**evidence.to_dict(), "unexplained": [finding.subject for finding in open_]},
        lambda: Group(
            *evidence.tables(reasons, args.worst), summary, *(f"unexplained: {finding.subject}" for finding in open_)
        ),
    )
    return int(bool(open_))


def diff(args: Namespace) -> int:
    """What changed between two taxonomies: categories by their ids, and labels."""
    from counterpoint.cli import main as cli
    from counterpoint.taxonomy.compare import diff

    changes = diff(cli._taxonomy(args.old), cli._taxonomy(args.new))
    cli._print(args.json, changes.to_dict, lambda: _changes(changes))
    return 0


def merge(args: Namespace) -> int:
    """Merge annotators' mappings by majority vote; settle conflicts.tsv in the folder and give the command again."""
    from counterpoint.cli import main as cli
    from counterpoint.taxonomy.compare import CONFLICTS_FILE, merge_files

    merged = merge_files(args.files, cli._taxonomy(args.taxonomy).taxonomy, args.out)
    conflicts = Path(args.out) / CONFLICTS_FILE
    figures = {"labels": len(merged.labelling.labels), "conflicts": len(merged.conflicts), "open": merged.open}
    alpha = None if merged.agreement != merged.agreement else merged.agreement
    cli._print(
        args.json,
        lambda: {**figures, "krippendorff_alpha": alpha},
        lambda: (
            f"{args.out}: {figures['labels']} labels of {len(args.files)} annotators, "
            f"Krippendorff's alpha {'unknown' if alpha is None else f'{alpha:.3f}'}\n"
            f"{conflicts}: {figures['conflicts']} conflicts, {figures['open']} open"
        ),
    )
    return 0


def remap(args: Namespace) -> int:
    """Move a trained run to an edited taxonomy: categories that survive (the same id) keep their weights."""
    from counterpoint.cli import main as cli
    from counterpoint.run import RunFolder
    from counterpoint.training.remap import remap

    labelling = cli._taxonomy(args.taxonomy)
    changes = remap(RunFolder.load(args.run), labelling, Path(args.out))
    kept = len(labelling.taxonomy) - len(changes.added)
    cli._print(args.json, lambda: {"run": args.out, "kept": kept, **changes.to_dict()}, lambda: _changes(changes))
    cli._say(f"{args.out}: {kept} categories kept, {len(changes.added)} untrained, {len(changes.removed)} gone")
    return 0


def add(verbs: Any, verb: Callable[..., ArgumentParser]) -> None:
    """Add the verbs to the parser of `counterpoint taxonomy`; ``verb`` makes one's parser."""
    from counterpoint.cli import main as cli

    sub = verb(verbs, "import", import_)
    sub.add_argument("file", help="vocabulary.csv, an IAB .tsv or ontology.json")
    sub.add_argument("--top", type=NonNegativeInt, default=1000, help="a vocabulary's labels that become categories")
    sub.add_argument("--labels", default=None, help="AudioSet's class_labels_indices.csv, for the label mapping")
    sub.add_argument("--out", required=True, help="the taxonomy folder to write")

    sub = verb(verbs, "show", show, json=True)
    sub.add_argument("taxonomy", nargs="?", default=cli.SHIPPED_NAME, help=cli.TAXONOMY_HELP)
    sub.add_argument("--levels", type=PositiveInt, default=None, help="print only so many levels from the top")
    sub.add_argument("--html", default=None, metavar="FILE", help="write a page with a search box")
    sub.add_argument("--svg", default=None, metavar="CATEGORY", help="draw one category's tree (its path or id)")
    sub.add_argument("--out", default=None, metavar="FILE", help="the picture to write")

    sub = verb(verbs, "check", check, json=True)
    sub.add_argument("taxonomy", nargs="?", default=cli.SHIPPED_NAME, help=cli.TAXONOMY_HELP)
    sub.add_argument("--few", type=NonNegativeInt, default=500, help="training videos below which a leaf is reported")
    sub.add_argument("--style", action="store_true", help="check also that names are singular, in title case and short")

    sub = verb(verbs, "measure", measure, json=True, records=True)
    sub.add_argument("taxonomy", nargs="?", default=None, help=cli.DEFAULT_TAXONOMY_HELP)
    sub.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help=cli.DATA_HELP)
    sub.add_argument("--worst", type=NonNegativeInt, default=20, help="labels to print")

    sub = verb(verbs, "diff", diff, json=True)
    sub.add_argument("old", help=cli.TAXONOMY_HELP)
    sub.add_argument("new", help="the same, edited")

    sub = verb(verbs, "merge", merge, json=True)
    sub.add_argument("files", nargs="+", help="mappings, one an annotator: index, label, count, categories, note")
    sub.add_argument("--taxonomy", default=cli.SHIPPED_NAME, help="the taxonomy whose categories they name")
    sub.add_argument("--out", required=True, help="the taxonomy folder to write")

    sub = verb(verbs, "remap", remap, json=True)
    sub.add_argument("run", help="a trained run's folder")
    sub.add_argument("taxonomy", help=cli.TAXONOMY_HELP)
    sub.add_argument("--out", required=True, help="the run folder to write")


def _write(path: str, text: str) -> None:
    from counterpoint.cli import main as cli

    Path(path).write_text(text, encoding="utf-8")
    cli._say(f"written: {path}")


def _changes(changes: "Diff") -> Any:
    return changes.table() if changes.rows() else "no differences"
