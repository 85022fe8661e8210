"""The verbs of `counterpoint taxonomy`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from counterpoint.cli.console import (
    DATA,
    DEFAULT_TAXONOMY_HELP,
    NOT_NEGATIVE,
    OUTPUT,
    POSITIVE,
    Data,
    Json,
    Out,
    OutFile,
    SkipBad,
    TaxonomyPath,
    load_run,
    note,
    note_skipped,
    show,
)
from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.taxonomy.compare import Diff

PAGE_MARK = b"<title>The taxonomy "
PICTURE_MARK = b' categories">'


def import_(
    file: Annotated[Path, Parameter(metavar="FILE", group=DATA)],
    *,
    top: Annotated[int, NOT_NEGATIVE, Parameter(group=DATA)] = 1000,
    labels: Annotated[Path | None, Parameter(metavar="CSV", group=DATA)] = None,
    out: Out,
) -> None:
    """Make a first taxonomy from YouTube-8M's vocabulary.csv, IAB's content taxonomy or AudioSet's ontology.json.

    Args:
        file: vocabulary.csv, an IAB .tsv or ontology.json.
        top: a vocabulary's labels that become categories.
        labels: AudioSet's class_labels_indices.csv, for the label mapping.
        out: the taxonomy folder to write.

    Example:
        counterpoint taxonomy import yt8m/vocabulary.csv --out taxonomy
    """
    from counterpoint.files import check_output_folder
    from counterpoint.taxonomy.importers import OTHER_PARENTS_FILE, read

    check_output_folder(out)
    imported = read(file, top=top, labels=labels)
    imported.save(out)
    taxonomy, mapping = imported.labelling
    print(f"{out}: {len(taxonomy)} categories, {len(mapping)} labels")
    if imported.other_parents:
        several = len(dict(imported.other_parents))
        print(f"{several} categories have several parents; {OTHER_PARENTS_FILE} lists all but the first")


def show_(
    taxonomy: TaxonomyPath = "youtube8m",
    *,
    levels: Annotated[int | None, POSITIVE, Parameter(group=OUTPUT)] = None,
    html: OutFile = None,
    svg: Annotated[str | None, Parameter(metavar="CATEGORY", group=OUTPUT)] = None,
    out: OutFile = None,
    as_json: Json = False,
) -> None:
    """Print a taxonomy as a tree with training counts; or write it as a page, or a category's tree as a picture.

    Args:
        levels: print only so many levels from the top.
        html: write a page with a search box.
        svg: draw one category's tree (its path or id).
        out: the picture to write.

    Example:
        counterpoint taxonomy show --levels 2
        counterpoint taxonomy show taxonomy --svg Food --out food.svg
    """
    from counterpoint.data import taxonomies
    from counterpoint.files import check_output_file
    from counterpoint.taxonomy.render import as_dict, page, tree
    from counterpoint.taxonomy.render import svg as draw

    if levels and (as_json or svg or html):
        raise Error("--levels is about the tree that is printed; leave it out")
    if (svg is None) != (out is None):
        raise Error("--svg CATEGORY and --out FILE go together")
    if out:
        check_output_file(out, PICTURE_MARK)
    if html:
        check_output_file(html, PAGE_MARK, "--html")
    labelling = taxonomies.load_taxonomy(taxonomy)
    if svg is not None and out:
        _write(out, draw(labelling, svg))
    if html:
        _write(html, page(labelling, f"The taxonomy {Path(taxonomy).resolve().name}"))
    if as_json or (svg is None and html is None):
        show(as_json, lambda: as_dict(labelling), lambda: tree(labelling, levels))


def check(
    taxonomy: TaxonomyPath = "youtube8m",
    *,
    few: Annotated[int, NOT_NEGATIVE, Parameter(group=DATA)] = 500,
    style: Annotated[bool, Parameter(group=DATA)] = False,
    as_json: Json = False,
) -> int:
    """Look for faults that a taxonomy's exceptions.tsv does not explain; the exit code is 1 where there are errors.

    Args:
        few: training videos below which a leaf is reported.
        style: check also that names are singular, in title case and short.

    Example:
        counterpoint taxonomy check taxonomy --style
    """
    from counterpoint.data import taxonomies
    from counterpoint.taxonomy.check import check as find_faults
    from counterpoint.taxonomy.check import exceptions, findings_table, unexplained

    found = find_faults(taxonomies.load_taxonomy(taxonomy), few=few, style=style)
    findings = unexplained(found, exceptions(taxonomies.taxonomy_folder(taxonomy)))
    show(
        as_json,
        lambda: [finding._asdict() for finding in findings],
        lambda: findings_table(findings) if findings else "no findings",
    )
    return int(any(finding.severity == "error" for finding in findings))


def measure(
    taxonomy: Annotated[str | None, Parameter(help=DEFAULT_TAXONOMY_HELP, metavar="TAXONOMY", group=DATA)] = None,
    *,
    data: Data,
    skip_bad_records: SkipBad = False,
    worst: Annotated[int, NOT_NEGATIVE, Parameter(group=OUTPUT)] = 20,
    as_json: Json = False,
) -> int:
    """Measure on clips whether the labels of a category occur together; the exit code is 1 where some do not.

    Labels that exceptions.tsv explains do not count.

    Args:
        worst: labels to print.

    Example:
        counterpoint taxonomy measure --data yt8m/video
    """
    from rich.console import Group

    from counterpoint.data import taxonomies
    from counterpoint.data.dataset import Dataset
    from counterpoint.taxonomy.check import LIFT, exceptions, unexplained
    from counterpoint.taxonomy.check import measure as count

    path = taxonomy or taxonomies.default_taxonomy(data, "before --data")
    labelling = taxonomies.load_taxonomy(path)
    dataset = Dataset(data, labelling, skip_bad=skip_bad_records)
    note_skipped(dataset)
    evidence = count(labelling, (dataset[i][0].labels.tolist() for i in range(len(dataset))))
    reasons = exceptions(taxonomies.taxonomy_folder(path))
    findings = evidence.findings()
    open_ = unexplained(findings, reasons)
    summary = f"{len(findings)} of {len(evidence.links)} links below a lift of {LIFT:g}, {len(open_)} unexplained"
    tables = evidence.tables(reasons, worst)
    show(
        as_json,
        lambda: {**evidence.to_dict(), "unexplained": [finding.subject for finding in open_]},
        lambda: Group(*tables, summary, *(f"unexplained: {finding.subject}" for finding in open_)),
    )
    return int(bool(open_))


def diff(
    old: TaxonomyPath,
    new: Annotated[TaxonomyPath, Parameter(help="the same, edited")],
    *,
    as_json: Json = False,
) -> None:
    """Show what changed between two taxonomies: categories by their ids, and labels.

    Example:
        counterpoint taxonomy diff youtube8m taxonomy
    """
    from counterpoint.data import taxonomies
    from counterpoint.taxonomy.compare import diff as compare

    changes = compare(taxonomies.load_taxonomy(old), taxonomies.load_taxonomy(new))
    show(as_json, changes.to_dict, lambda: _changes(changes))


def merge(
    files: Annotated[list[Path], Parameter(metavar="FILE...", group=DATA)],
    *,
    taxonomy: TaxonomyPath = "youtube8m",
    out: Out,
    as_json: Json = False,
) -> None:
    """Merge annotators' mappings by majority vote; settle conflicts.tsv in the folder and give the command again.

    Args:
        files: mappings, one an annotator: index, label, count, categories, note.
        taxonomy: the taxonomy whose categories they name.
        out: the taxonomy folder to write.

    Example:
        counterpoint taxonomy merge ann.tsv bob.tsv --out merged
    """
    from counterpoint.data import taxonomies
    from counterpoint.taxonomy.compare import CONFLICTS_FILE, merge_files

    conflicts = out / CONFLICTS_FILE
    merged = merge_files(files, taxonomies.load_taxonomy(taxonomy).taxonomy, out)
    figures = {"labels": len(merged.labelling.labels), "conflicts": len(merged.conflicts), "open": merged.open}
    alpha = None if merged.agreement != merged.agreement else merged.agreement
    show(
        as_json,
        lambda: {**figures, "krippendorff_alpha": alpha},
        lambda: (
            f"{out}: {figures['labels']} labels of {len(files)} annotators, "
            f"Krippendorff's alpha {'unknown' if alpha is None else f'{alpha:.3f}'}\n"
            f"{conflicts}: {figures['conflicts']} conflicts, {figures['open']} open"
        ),
    )


def remap(
    run: Annotated[str, Parameter(metavar="RUN", group=DATA)],
    taxonomy: TaxonomyPath,
    *,
    out: Out,
    as_json: Json = False,
) -> None:
    """Move a trained run to an edited taxonomy: categories that survive (the same id) keep their weights.

    Args:
        run: a trained run's folder.
        out: the run folder to write.

    Example:
        counterpoint taxonomy remap runs/nv-l taxonomy --out runs/moved
    """
    from counterpoint.data import taxonomies
    from counterpoint.files import check_output_folder
    from counterpoint.training.remap import remap as move

    check_output_folder(out)
    labelling = taxonomies.load_taxonomy(taxonomy)
    changes = move(load_run(run), labelling, out)
    kept = len(labelling.taxonomy) - len(changes.added)
    show(as_json, lambda: {"run": str(out), "kept": kept, **changes.to_dict()}, lambda: _changes(changes))
    note(f"{out}: {kept} categories kept, {len(changes.added)} untrained, {len(changes.removed)} gone")
    if changes.added:
        note(f"the untrained are no answers until `counterpoint train --from {out}` has trained them")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    note(f"written: {path}")


def _changes(changes: "Diff") -> Any:
    return changes.table() if changes.rows() else "no differences"
