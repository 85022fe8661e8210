"""What clients send -> files in a private folder and feature records that the run reads."""

import shutil
from pathlib import Path, PurePosixPath

from fastapi import UploadFile

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE, FeatureSet, encoder_of
from counterpoint.data.records import parse
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.run import RunFolder
from counterpoint.serve.settings import RefusedError

RECORDS = ".tfrecord"
NAME_LENGTH = 200
FRAME_BYTES, LABELS_BYTES = 64, 1 << 16  # of a record, beside its features


def name_of(filename: str | None) -> str:
    r"""A client's name for a file, as people should see it. It is no part of any path.

    >>> name_of(r"C:\films\a.mp4"), name_of("../../etc/passwd"), name_of("a\x00\n\u202eb.mp4"), name_of("..")
    ('a.mp4', 'passwd', 'ab.mp4', 'upload')
    """
    name = shown(PurePosixPath((filename or "").replace("\\", "/")).name)
    return name if name.strip(".") else "upload"


def shown(text: str) -> str:
    """A client's text, such as a clip's id, as people should see it."""
    return "".join(character for character in text if character.isprintable()).strip()[:NAME_LENGTH]


def keep(file: UploadFile, path: Path) -> None:
    """Write an upload to a path."""
    with path.open("wb") as kept:
        shutil.copyfileobj(file.file, kept, 1 << 20)


def records(run: RunFolder, path: Path, name: str, features: str | None, most: int, seconds: int) -> list[Clip]:
    """The clips of a shard, at least one of which has features.

    Args:
        path: the shard, alone in its folder, which gets the `features.json`.
        name: what to call it.
        features: the text of a `features.json`; without, the shard is taken for YouTube-8M's.
        most: clips that it may hold.
        seconds: that a clip may last.

    Raises:
        RefusedError: it is damaged, holds too much, or the run reads other features.
    """
    try:
        if features is not None:
            (path.parent / FEATURES_FILE).write_text(features, encoding="utf-8")
        shard = Shard(path, skip_bad=True)
        if shard.bad:
            raise shard.bad[0]
        if len(shard) > most:
            raise RefusedError(413, f"{name}: {len(shard)} clips; {most} at most in one request")
        # Before any is parsed, which takes up many times its bytes.
        largest = LABELS_BYTES + (seconds + 1) * sum(FRAME_BYTES + 4 * size for size in run.features.sizes.values())
        if len(shard) and (bytes_ := int(shard.lengths.max())) > largest:
            raise RefusedError(413, f"{name}: a clip of {bytes_:,} bytes; of {seconds} s it has {largest:,} at most")
        encoder, clips = encoder_of(path.parent), []
        for record in range(len(shard)):
            clip = parse(bytes(shard[record]))
            if clip.steps > seconds + 1:  # the data set has clips of one second more than it says
                raise RefusedError(413, f"{name}: clip {clip.id!r} lasts {clip.steps} s; {seconds} at most")
            sizes = {modality: track.shape[1] for modality, track in sorted(clip.tracks.items())}
            try:
                run.features.check(FeatureSet(sizes, encoder), run.folder.resolve().name)
            except Error as error:
                hint = "" if features is not None else "; send the features.json beside it as `features`"
                raise Error(f"{error}{hint}") from error
            clips.append(clip)
        if not any(clip.tracks for clip in clips):
            raise Error("no clips with features")
        return clips
    except (Error, ValueError) as error:
        told = str(error).replace(str(path), name).replace(f"{path.parent}/", "")
        told = told if told.startswith(name) else f"{name}: {told}"
        raise RefusedError(422, told) from error
