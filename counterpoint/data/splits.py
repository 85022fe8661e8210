"""Made-up clips as the shards of several splits."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error


def check_room(folder: Path, clips: Mapping[str, int], clips_per_shard: int) -> dict[str, list[Path]]:
    """The shards by split that `write_splits` would write.

    Raises Error as it does.
    """
    shards: dict[str, list[Path]] = {}
    for split, count in clips.items():
        numbers = range(math.ceil(count / clips_per_shard))
        paths = shards[split] = [folder / f"{split}-{number:04}.tfrecord" for number in numbers]
        if left := sorted(set(folder.glob(f"{split}-[0-9]*.tfrecord")) - set(paths)):
            raise Error(f"{left[0]}: an older shard of {split!r} would stay; remove it or write elsewhere")
    return shards


def write_splits(
    folder: Path,
    features: FeatureSet,
    clips: Mapping[str, int],
    clip: Callable[[str, int], Clip],
    clips_per_shard: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Write `<split>-0000.tfrecord` and so on, and `features.json`; return the shards by split.

    `clip` makes the clips, called with a split and a number, in order; `clips` tells how many there are. `progress` is
    called with the clips done and their total after each clip.

    Raises Error where the folder has shards of these splits that would stay and mix with the new ones.
    """
    shards = check_room(folder, clips, clips_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    features.save(folder)
    done = 0
    for split, count in clips.items():
        for number, path in enumerate(shards[split]):
            with Writer(path) as writer:
                for index in range(number * clips_per_shard, min((number + 1) * clips_per_shard, count)):
                    writer.write(encode(clip(split, index)))
                    done += 1
                    if progress:
                        progress(done, sum(clips.values()))
    return shards
