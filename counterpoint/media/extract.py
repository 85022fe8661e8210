"""Folders of video files -> feature shards.

A clip is on the disk as soon as it is made, in a file of its own in ``.parts``; 200 of them become a shard, whole or
not at all. The same call continues where an interrupted one stopped, and adds new files.

===============================  ==================================================
``clips-0000.tfrecord`` ...      the clips; an id is a file's path below its folder
``features.json``                which encoders made them
``sources.jsonl``                each clip's file: its size in bytes, the second at which it was cut, notes about it
``taxonomy/``                    categories and labels, if there is a labels file
===============================  ==================================================
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE, FeatureSet
from counterpoint.data.records import clip_of, encode
from counterpoint.data.tfrecord import Shard, Writer, begins_a_record
from counterpoint.errors import UNREADABLE, Error
from counterpoint.files import check_output_folder, claimed
from counterpoint.media.decode import DEFAULT, SOUNDS, SUFFIXES, Limits, is_media
from counterpoint.media.encoders import LITE, Encoded, Encoders, build
from counterpoint.media.labels import FOLDERS, Labels, from_folders, read, real
from counterpoint.media.workers import TIME_LIMIT, Engine, Failure, Source, encode_all
from counterpoint.taxonomy import Labelling, load
from counterpoint.taxonomy.mapping import LABELS_FILE

PARTS = ".parts"
SOURCES_FILE = "sources.jsonl"
FIRST_SHARD = "clips-0000.tfrecord"
TAXONOMY_FOLDER = "taxonomy"
CLIPS_PER_SHARD = 200
NAMED = 5  # files of a kind in a message
NO_UNICODE = "its name is not UTF-8, and no clip could have it; rename it"

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass
class Report:
    """What an extraction has done."""

    new: int = 0
    before: int = 0
    """Clips of earlier calls."""
    shards: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    """What was amiss with files that gave clips nonetheless, and with clips of earlier calls."""
    left_out: list[Path] = field(default_factory=list)
    """Video files that the labels file does not name."""
    not_found: list[Path] = field(default_factory=list)
    """Files that the labels file names and that are not among the video files."""

    def lines(self, labels: str) -> Iterator[str]:
        """All that is not as it should be, for people; ``labels`` is where the categories come from."""
        for files, what in (
            (self.left_out, f"video files left out, which have no category by {labels}"),
            (self.not_found, f"files that {labels} names are not among the videos"),
        ):
            if files:
                more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
                yield f"{len(files):,} {what}: {', '.join(map(str, files[:NAMED]))}{more}"
        yield from (f"{path}: {text}" for path, text in self.notes)
        yield from (f"failed: {path}: {cause}" for path, cause in self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "new": self.new,
            "before": self.before,
            "shards": self.shards,
            "failures": [{"file": str(path), "cause": cause} for path, cause in self.failures],
            "notes": [{"file": str(path), "note": note} for path, note in self.notes],
            "left_out": list(map(str, self.left_out)),
            "not_found": list(map(str, self.not_found)),
        }


def find(paths: Paths) -> list[Source]:
    """The video files that files and folders (everything below them with a video's suffix) name, in order.

    A file that is named twice is one clip, with the id of its first name.

    Raises:
        Error: there is no such file or folder, no video in a folder, or two files would have one id.
    """
    sources: dict[str, Source] = {}
    taken: set[Path] = set()
    paths = _listed(paths)
    if not all(map(str, paths)):
        raise Error("an empty name is no folder of video files (a variable of the shell that is not set?)")
    for path in map(Path, paths):
        for source in sorted(_found(path)):
            place = source.path.absolute()
            if place in taken:
                continue
            taken.add(place)
            same = sources.setdefault(source.id, source)
            if real(same.path) != real(source.path):
                raise Error(
                    f"{same.path} and {source.path} would both be clip {source.id!r}; name the folder above both"
                )
    return list(sources.values())


def _listed(paths: Paths) -> Sequence[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else paths


def _found(path: Path) -> list[Source]:
    if not path.is_dir():
        if not path.exists():
            raise Error(f"{path}: no such file or folder")
        return [Source(path.name, path)]
    named = (p for p in _below(path) if p.suffix.lower() in SUFFIXES)
    found = [Source(p.relative_to(path).as_posix(), p) for p in named]
    if not found:
        raise Error(f"{path}: no video files there ({', '.join(sorted(SUFFIXES))})")
    return found


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, through links too, each linked folder once.

    A link to nowhere is one of them: it will be reported.
    """
    entered: set[Path] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if real(here) in entered:
            folders.clear()
            continue
        entered.add(real(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def are_videos(paths: Paths) -> bool:
    """Whether paths name video files, or folders with video files and without shards.

    Raises:
        Error: a folder holds both, or some paths name video files and others do not.
    """

    def is_video(path: Path) -> bool:
        if path.is_dir():
            videos = any(p.suffix.lower() in SUFFIXES for p in _below(path))
            if videos and any(path.rglob("*.tfrecord")):
                raise Error(f"{path}: holds video files and shards; name the ones to categorize")
            return videos
        if path.suffix.lower() in SUFFIXES | SOUNDS:
            return True
        other = path.suffix.lower() != ".tfrecord" and path.is_file()  # of another name, or none
        return other and not begins_a_record(path) and is_media(path)

    kinds = {is_video(Path(path)) for path in _listed(paths)}
    if len(kinds) > 1:
        raise Error("video files and shards cannot be categorized in one call")
    return kinds == {True}


def clips(
    sources: Sequence[Source],
    encoders: Encoders,
    *,
    workers: int | None = None,
    limits: Limits = DEFAULT,
    time_limit: float = TIME_LIMIT,
    engine: Engine | None = None,
) -> Iterator[tuple[Source, Encoded | Failure]]:
    """The clip of each file with notes of what was amiss with it, or why there is none, in the order given.

    Nothing is written. The parameters are those of `extract`.
    """
    todo = [source for source in sources if _is_unicode(source.id)]
    made: dict[str, Encoded | Failure] = {
        source.id: Failure(source.path, NO_UNICODE) for source in sources if not _is_unicode(source.id)
    }
    order = deque(sources)
    for done, result in (engine or encode_all)(todo, encoders.name, workers or cores(), limits, time_limit):
        made[done.id] = result
        while order and order[0].id in made:
            source = order.popleft()
            yield source, made.pop(source.id)
    yield from ((source, made[source.id]) for source in order)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def extract(
    videos: Paths,
    out: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    taxonomy: str | os.PathLike[str] | None = None,
    encoders: str | Encoders = LITE,
    *,
    workers: int | None = None,
    limits: Limits = DEFAULT,
    time_limit: float = TIME_LIMIT,
    progress: Callable[[int, int], None] = lambda done, total: None,
    engine: Engine | None = None,
    columns: Sequence[str] = (),
    skip_bad_labels: bool = False,
    replace: bool = False,
) -> Report:
    """Make feature shards of video files, or continue with those of an earlier call; see the module.

    Args:
        videos: files, and folders whose video files are taken at any depth.
        out: the folder of the shards.
        labels: a labels file (see `counterpoint.media.labels`), or "folders": the folder that a video lies in, below
            the one that is named, is its category. Only videos with a category are extracted.
        taxonomy: the taxonomy of the labels file's categories; without, it is made from their names.
        encoders: what makes features of pictures and sound, or its name; see `counterpoint.media.encoders`.
        workers: child processes; without, one for each core.
        limits: seconds at which videos are cut, and pixels above which they are refused.
        time_limit: seconds that one file may take.
        progress: called with the number of files that are done, and of all that there are to do.
        engine: what encodes the files, such as `counterpoint.cluster.extraction`; the shards are the same.
        columns: the labels file's columns of files and of categories, where they have other names.
        skip_bad_labels: leave faulty lines of the labels file out, with a note.
        replace: make the clips of files anew that have changed since an earlier call.

    Raises:
        Error: there are no videos, the labels file is faulty or names none of them, or ``out`` holds something else.

    Example::

        cp.extract("videos", "shards", labels="labels.csv")
    """
    out = Path(out)
    _check_output(out)
    if taxonomy and not labels:
        raise Error("--taxonomy is for the categories of a labels file: give --labels too")
    sources = find(videos)
    how: dict[str, Any] = {"columns": columns, "skip_bad": skip_bad_labels}
    table = labels_of(sources, out, labels, taxonomy, **how) if labels else None
    named = [source for source in sources if table is None or real(source.path) in table.of]
    report = extract_sources(
        named,
        out,
        build(encoders) if isinstance(encoders, str) else encoders,
        table,
        workers=workers or cores(),
        limits=limits,
        time_limit=time_limit,
        progress=progress,
        engine=engine,
        replace=replace,
    )
    taken = {source.id for source in named}
    report.left_out = [source.path for source in sources if source.id not in taken]
    if table:
        report.not_found = sorted(table.of.keys() - {real(source.path) for source in sources})
        report.notes = [(Path(labels or ""), note) for note in table.notes] + report.notes
    return report


def labels_of(
    sources: Sequence[Source],
    out: Path,
    labels: str | os.PathLike[str],
    taxonomy: str | os.PathLike[str] | None = None,
    columns: Sequence[str] = (),
    skip_bad: bool = False,
) -> Labels:
    """The labels of video files for an extraction into a folder; the parameters are those of `extract`.

    Raises:
        Error: the labels file is faulty or names none of the files, or no file lies in a folder of its category.
    """
    begun = (out / TAXONOMY_FOLDER / LABELS_FILE).exists()  # which is written last, and before any clip
    known = load(os.fspath(taxonomy or out / TAXONOMY_FOLDER)) if taxonomy or begun else None
    if labels == FOLDERS:
        return from_folders({source.id: source.path for source in sources}, known, fixed=taxonomy is not None)
    table = read(Path(labels), known, fixed=taxonomy is not None, columns=columns, skip_bad=skip_bad)
    if not any(real(source.path) in table.of for source in sources):
        raise Error(f"{labels}: names none of the {len(sources)} video files")
    return table


def extract_sources(
    sources: Sequence[Source],
    out: str | Path,
    made_by: Encoders,
    labels: Labels | None = None,
    *,
    workers: int = 1,
    limits: Limits = DEFAULT,
    time_limit: float = TIME_LIMIT,
    progress: Callable[[int, int], None] = lambda done, total: None,
    engine: Engine | None = None,
    replace: bool = False,
) -> Report:
    """Make a clip of each file that has none yet; the parameters are those of `extract`.

    With ``labels``, clips of earlier calls get their present labels. Files that failed before are tried again.

    Raises:
        Error: ``out`` holds features of other encoders, or other things than features, or another process
            extracts into it.
    """
    with _claimed(Path(out), made_by.features):
        return _extract(sources, Path(out), made_by, labels, workers, limits, time_limit, progress, engine, replace)


def _extract(
    sources: Sequence[Source],
    out: Path,
    made_by: Encoders,
    labels: Labels | None,
    workers: int,
    limits: Limits,
    time_limit: float,
    progress: Callable[[int, int], None],
    engine: Engine | None,
    replace: bool,
) -> Report:
    report = Report()
    made = _made(out)
    others = {s.id for s in sources if s.id in made and made[s.id].get("bytes") not in (None, _size(s.path))}
    if replace and others:
        _forget(out, others)
        made, others = _made(out), set()
    report.failures += [
        Failure(
            source.path,
            f"{out} has a clip of another file of this name, or of this file before it changed; "
            "make it anew with --replace, or choose another --out",
        )
        for source in sources
        if source.id in others
    ]
    sources = [source for source in sources if source.id not in others]
    of = {source.id: labels.of.get(real(source.path), ()) for source in sources} if labels else {}
    if labels:
        _check_labels(out, labels.labelling, of)
        labels.labelling.save(out / TAXONOMY_FOLDER)
    store = _Store(out, of, [source.id for source in sources])
    report.before = len(store.ids)
    unnamed = len(store.ids - of.keys() - others) if labels else 0
    report.notes += [(out, note) for note in _notes_of_earlier(made, store.ids, unnamed, limits.seconds)]
    nameless = [source for source in sources if not _is_unicode(source.id)]
    report.failures += [Failure(source.path, NO_UNICODE) for source in nameless]
    todo = [source for source in sources if source not in nameless and source.id not in store.ids]
    progress(0, len(todo))
    encoded = (engine or encode_all)(todo, made_by.name, workers, limits, time_limit)
    for done, (source, result) in enumerate(encoded, 1):
        if isinstance(result, Failure):
            report.failures.append(result)
            store.leave_out(source.id)
        else:
            store.add(result.clip)
            with (out / SOURCES_FILE).open("a", encoding="utf-8") as file:
                line: dict[str, Any] = {"id": source.id, "bytes": _size(source.path), "cut": limits.seconds}
                line |= {"notes": result.notes} if result.notes else {}
                file.write(json.dumps(line) + "\n")
            report.notes += [(source.path, note) for note in result.notes]
            report.new += 1
        progress(done, len(todo))
    store.finish()
    report.shards = len(store.shards)
    return report


def _notes_of_earlier(made: dict[str, dict[str, Any]], ids: set[str], unnamed: int, seconds: int) -> Iterator[str]:
    """What distinguishes clips of earlier calls."""
    if unnamed:
        yield f"{unnamed:,} clips of earlier calls, which the labels file does not name, stay"
    cut = Counter(source.get("cut", seconds) for name, source in made.items() if name in ids)
    for other in cut.keys() - {seconds}:
        yield f"{cut[other]:,} clips of earlier calls were cut at {other} s, and stay so (--max-seconds)"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _made(out: Path) -> dict[str, dict[str, Any]]:
    """The lines of ``sources.jsonl``, which older folders lack, by clip."""
    path, made = out / SOURCES_FILE, {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(*UNREADABLE):  # a killed process leaves a line unfinished
            source = json.loads(line)
            made[source["id"]] = {**source}
    return made


def _forget(out: Path, ids: set[str]) -> None:
    """Take clips out of their shards, so that they are made anew."""
    with (out / SOURCES_FILE).open("a", encoding="utf-8") as file:  # first: a clip that is gone is of no file
        file.writelines(json.dumps({"id": id_, "bytes": None}) + "\n" for id_ in sorted(ids))
    for path in sorted(out.glob("clips-*.tfrecord")):
        clips = _clips(path)
        kept = [clip for clip in clips if clip.id not in ids]
        if not kept:
            path.unlink()
        elif len(kept) < len(clips):
            _write(path, kept)
    for path, clip in _parts(out):
        if clip.id in ids:
            path.unlink()


def _check_labels(out: Path, new: Labelling, of: dict[str, tuple[int, ...]]) -> None:
    """Raise Error where a clip that keeps its labels would be in other categories by them."""
    if not (out / TAXONOMY_FOLDER / LABELS_FILE).exists():
        return
    was = {label.index: label.categories for label in load(out / TAXONOMY_FOLDER).labels.labels}
    now = {label.index: label.categories for label in new.labels.labels}
    other = {index for index, categories in was.items() if now.get(index) != categories}
    if not other:
        return
    stored = (clip for path in out.glob("clips-*.tfrecord") for clip in _clips(path))
    for clip in chain(stored, (clip for _, clip in _parts(out))):
        for label in other & {*map(int, clip.labels)} if clip.id not in of else ():
            before, after = ", ".join(was[label]), ", ".join(now.get(label, ())) or "nothing"
            raise Error(
                f"{out}: label {label} of {clip.id} would stand for {after}, not {before}: "
                "give the --taxonomy of the first call, or choose another --out"
            )


def _is_unicode(name: str) -> bool:
    return name.encode(errors="replace") == name.encode(errors="surrogateescape")


def _check_output(out: Path) -> None:
    check_output_folder(out, SOURCES_FILE, PARTS, FIRST_SHARD)


@contextlib.contextmanager
def _claimed(out: Path, features: FeatureSet) -> Iterator[None]:
    """The folder, ready to be written to by this process only."""
    if (out / FEATURES_FILE).exists() and (stored := FeatureSet.load(out)) != features:
        raise Error(f"{out}: holds {stored}, not {features}; choose another --out")
    _check_output(out)
    with claimed(out, "another process extracts into it; wait for it, or choose another --out"):
        (out / PARTS).mkdir(exist_ok=True)
        (out / SOURCES_FILE).touch()
        features.save(out)
        for left in (*out.glob(".*.tfrecord.*"), *(out / PARTS).glob(".*")):  # by a process that was killed
            left.unlink()
        yield


class _Store:
    """The clips of a folder: one file each as they come, and shards of many in the order of the files.

    So the shards are the same whoever encodes the files, and in whatever order they are done.
    """

    def __init__(self, out: Path, labels: dict[str, tuple[int, ...]], order: Sequence[str]) -> None:
        self.out = out
        self.labels = labels
        self.shards = sorted(out.glob("clips-*.tfrecord"))
        self.ids: set[str] = set()
        for path in self.shards:
            clips = _clips(path)
            self.ids |= {clip.id for clip in clips}
            if any(not np.array_equal(clip.labels, self._labelled(clip).labels) for clip in clips):
                _write(path, [self._labelled(clip) for clip in clips])
        self.coming = deque(id_ for id_ in order if id_ not in self.ids)
        self.parts: dict[str, Path] = {}
        self.left_out: set[str] = set()
        for path, clip in _parts(out):
            if clip.id in self.ids:  # its shard was written, and then the end came
                path.unlink()
            else:
                self.parts[clip.id] = path
                self.ids.add(clip.id)
        self.ready = sorted(self.parts.keys() - set(self.coming))  # of other files than these

    def add(self, clip: Clip) -> None:
        path = self.out / PARTS / f"{hashlib.sha256(clip.id.encode()).hexdigest()[:32]}.clip"
        _write(path, [clip])
        self.parts[clip.id] = path
        self._merge(CLIPS_PER_SHARD)

    def leave_out(self, id_: str) -> None:
        self.left_out.add(id_)
        self._merge(CLIPS_PER_SHARD)

    def finish(self) -> None:
        self._merge(1)
        shutil.rmtree(self.out / PARTS)

    def _merge(self, least: int) -> None:
        """Make shards of the clips before which none is missing, where there are so many."""
        while self.coming and (self.coming[0] in self.parts or self.coming[0] in self.left_out):
            if (id_ := self.coming.popleft()) in self.parts:
                self.ready.append(id_)
        while len(self.ready) >= least:
            ids, self.ready = self.ready[:CLIPS_PER_SHARD], self.ready[CLIPS_PER_SHARD:]
            number = 1 + max((int(path.stem.rpartition("-")[2]) for path in self.shards), default=-1)
            shard = self.out / f"clips-{number:04}.tfrecord"
            clips = [self._labelled(clip) for id_ in ids for clip in _clips(self.parts[id_])]
            _write(shard, sorted(clips, key=lambda clip: clip.id))
            self.shards.append(shard)
            for id_ in ids:
                self.parts.pop(id_).unlink()

    def _labelled(self, clip: Clip) -> Clip:
        if clip.id not in self.labels:
            return clip
        return replace(clip, labels=np.array(self.labels[clip.id], np.int64))


def _parts(out: Path) -> Iterator[tuple[Path, Clip]]:
    """The clips that are in no shard yet."""
    for path in sorted((out / PARTS).glob("*.clip")):
        try:
            (clip,) = _clips(path)
        except (Error, ValueError):  # the machine stopped before it was on the disk: made again
            path.unlink()
        else:
            yield path, clip


def _clips(path: Path) -> list[Clip]:
    shard = Shard(path)
    return [clip_of(shard, record) for record in range(len(shard))]


def _write(path: Path, clips: Sequence[Clip]) -> None:
    with Writer(path) as writer:
        for clip in clips:
            writer.write(encode(clip))
