"""Folders of video files -> feature shards.

A clip is on the disk as soon as it is made, in a file of its own in ``.parts``; so many of them become a shard, whole
or not at all. The same call goes on where an interrupted one stopped, and takes in what is new.

===============================  ==================================================
``clips-0000.tfrecord`` ...      the clips; an id is a file's path below its folder
``features.json``                which encoders made them
``sources.jsonl``                how large the file of each was, and where it was cut
``taxonomy/``                    categories and labels, if there is a labels file
===============================  ==================================================
"""

import contextlib
import hashlib
import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE, FeatureSet
from counterpoint.data.records import clip_of, encode
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.errors import UNREADABLE, Error
from counterpoint.files import holds_anything
from counterpoint.media.decode import DEFAULT, SUFFIXES, Limits
from counterpoint.media.encoders import Encoders
from counterpoint.media.labels import Labels
from counterpoint.media.workers import TIME_LIMIT, Engine, Failure, Source, encode_all
from counterpoint.taxonomy import Labelling, load
from counterpoint.taxonomy.mapping import LABELS_FILE

PARTS = ".parts"
SOURCES_FILE = "sources.jsonl"
LOCK = ".lock"
CLIPS_PER_SHARD = 200


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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {
            "failures": [{"file": str(path), "cause": cause} for path, cause in self.failures],
            "notes": [{"file": str(path), "note": note} for path, note in self.notes],
        }


def find(paths: Sequence[str | Path]) -> list[Source]:
    """The video files that files and folders (everything below them that is called like a video) name, in order.

    One that is named twice is the clip that it was first.

    Raises:
        Error: nothing is there, or two files would have one id.
    """
    sources: dict[str, Source] = {}
    taken: set[Path] = set()
    if not all(map(str, paths)):
        raise Error("an empty name is no folder of video files (a variable of the shell that is not set?)")
    for path in map(Path, paths):
        if path.is_dir():
            named = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            below = (p for p in named if p.is_file() or not p.exists())  # a link to nowhere will be reported
            found = [Source(p.relative_to(path).as_posix(), p) for p in below]
            found = [source for source in found if not any(part.startswith(".") for part in source.id.split("/"))]
            if not found:
                raise Error(f"{path}: no video files there ({', '.join(sorted(SUFFIXES))})")
        elif path.exists():
            found = [Source(path.name, path)]
        else:
            raise Error(f"{path}: no such file or folder")
        for source in sorted(found):
            place = source.path.absolute()
            if place in taken:
                continue
            taken.add(place)
            same = sources.setdefault(source.id, source)
            if same.path.resolve() != source.path.resolve():
                raise Error(
                    f"{same.path} and {source.path} would both be clip {source.id!r}; name the folder above both"
                )
    return list(sources.values())


def extract(
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
) -> Report:
    """Make a clip of each file that has none yet; see the module.

    With ``labels`` clips of earlier calls get their present labels. Files that failed before are tried again.

    Args:
        time_limit: seconds that one file may take.
        progress: is called with the number of files that are through and of all that there are to do.
        engine: who encodes the files, instead of `encode_all`; what it makes has no part in what the shards are.

    Raises:
        Error: ``out`` holds features of other encoders, or other things than features, or another process
            extracts into it.
    """
    with _claimed(Path(out), made_by.features):
        return _extract(sources, Path(out), made_by, labels, workers, limits, time_limit, progress, engine)


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
) -> Report:
    report = Report()
    made = _made(out)
    others = {s.id for s in sources if s.id in made and made[s.id].get("bytes") not in (None, _size(s.path))}
    report.failures += [
        Failure(source.path, f"{out} has a clip of another file of this name; choose another --out for it")
        for source in sources
        if source.id in others
    ]
    sources = [source for source in sources if source.id not in others]
    of = {source.id: labels.of.get(source.path.resolve(), ()) for source in sources} if labels else {}
    if labels:
        _check_labels(out, labels.labelling, of)
        labels.labelling.save(out / "taxonomy")
    store = _Store(out, of, [source.id for source in sources])
    report.before = len(store.ids)
    if unnamed := len(store.ids - of.keys() - others) if labels else 0:
        report.notes.append((out, f"{unnamed:,} clips of earlier calls, which the labels file does not name, stay"))
    cut = Counter(one.get("cut", limits.seconds) for name, one in made.items() if name in store.ids)
    for seconds in cut.keys() - {limits.seconds}:
        told = f"{cut[seconds]:,} clips of earlier calls were cut at {seconds} s, and stay so (--max-seconds)"
        report.notes.append((out, told))
    todo = []
    for source in sources:
        if _is_unicode(source.id):
            todo += [source] if source.id not in store.ids else []
        else:
            report.failures.append(Failure(source.path, "its name is not UTF-8, and no clip could bear it; rename it"))
    progress(0, len(todo))
    encoded = (engine or encode_all)(todo, made_by.name, workers, limits, time_limit)
    for done, (source, result) in enumerate(encoded, 1):
        if isinstance(result, Failure):
            report.failures.append(result)
            store.leave_out(source.id)
        else:
            store.add(result.clip)
            with (out / SOURCES_FILE).open("a", encoding="utf-8") as file:
                line = {"id": source.id, "bytes": _size(source.path), "cut": limits.seconds}
                file.write(json.dumps(line) + "\n")
            report.notes += [(source.path, note) for note in result.notes]
            report.new += 1
        progress(done, len(todo))
    store.finish()
    report.shards = len(store.shards)
    return report


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _made(out: Path) -> dict[str, dict[str, Any]]:
    """Of the files that clips were made of, by the clips' ids; older folders do not tell."""
    path, made = out / SOURCES_FILE, {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(*UNREADABLE):  # a killed process leaves a line unfinished
            told = json.loads(line)
            made[told["id"]] = {**told}
    return made


def _check_labels(out: Path, new: Labelling, of: dict[str, tuple[int, ...]]) -> None:
    """Raise Error where a clip that keeps its labels would be in other categories by them."""
    if not (out / "taxonomy" / LABELS_FILE).exists():
        return
    was = {label.index: label.categories for label in load(out / "taxonomy").labels.labels}
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


@contextlib.contextmanager
def _claimed(out: Path, features: FeatureSet) -> Iterator[None]:
    """The folder, ready to be written to and this process's alone; the system frees it when the process dies."""
    if (out / FEATURES_FILE).exists():
        there = FeatureSet.load(out)
        if there != features:
            raise Error(f"{out}: holds {there}, not {features}; choose another --out")
    elif holds_anything(out):
        raise Error(f"{out}: not empty and not a folder of features; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, blocking=False):
            features.save(out)
            for left in (*out.glob(".*.tfrecord.*"), *(out / PARTS).glob(".*")):  # by a process that was killed
                left.unlink()
            (out / PARTS).mkdir(exist_ok=True)
            yield
    except Timeout as error:
        told = f"{out}: another process extracts into it; wait for it, or choose another --out"
        raise Error(told) from error


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
