import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from counterpoint.data.clip import Clip, TrackArray
from counterpoint.data.inspect import Spread, find_shards, inspect
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error, RecordError
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy


def write(path: Path, *clips: Clip) -> Path:
    with Writer(path) as writer:
        for clip in clips:
            writer.write(encode(clip))
    return path


def clip(name: str, labels: list[int], **tracks: TrackArray) -> Clip:
    return Clip(name, np.array(labels, np.int64), tracks)


def codes(steps: int, size: int, value: int = 1) -> TrackArray:
    return np.full((steps, size), value, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "train2.tfrecord",
        clip("a", [1, 2], video=codes(4, 16), audio=codes(4, 8)),
        clip("b", [2], video=codes(2, 16), audio=codes(2, 8, 0)),
    )
    write(tmp_path / "train10.tfrecord", clip("c", [], video=codes(7, 16)))
    return tmp_path


def test_inspect(folder: Path) -> None:
    found = inspect([folder]).to_dict()
    assert found == {
        "shards": 2,
        "bytes": sum(path.stat().st_size for path in folder.glob("*.tfrecord")),
        "records": 3,
        "modalities": {
            "audio": {
                "size": 8,
                "type": "uint8",
                "clips": 2,
                "missing": 2,
                "steps": {"min": 2, "median": 3.0, "max": 4},
            },
            "video": {
                "size": 16,
                "type": "uint8",
                "clips": 3,
                "missing": 0,
                "steps": {"min": 2, "median": 4.0, "max": 7},
            },
        },
        "steps": {"min": 2, "median": 4.0, "max": 7},
        "labels": 2,
        "labels_mean": 1.0,
        "labels_max": 2,
        "unlabelled": 1,
        "categories": {},
        "problems": [],
    }
    assert json.loads(json.dumps(found)) == found


def test_printed(folder: Path) -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(inspect([folder]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3 in 2 shards" in text
    assert "2 / 4 / 7" in text
    assert "no problems" in text


def test_clips_of_each_category(folder: Path) -> None:
    tree = Taxonomy((Category("f", "", "Food"), Category("d", "f", "Dessert"), Category("s", "", "Sport")))
    labelling = Labelling(tree, LabelMap((Label(1, "Pie", 1, ("d",)), Label(9, "Ball", 1, ("s",))), tree))
    found = inspect([folder], labelling=labelling)  # clips with the labels 1 and 2, 2, and none
    assert found.categories == {"Food": 1, "Food:Dessert": 1, "Sport": 0}
    assert found.problems == ["1 labels are not in the taxonomy, such as 2"]
    console = Console(width=100, file=io.StringIO())
    console.print(found)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 of 3; at the top, with their clips:" in text
    assert "Food 1" in text
    assert "Sport" not in text


def test_youtube8ms_features_come_with_its_labels(tmp_path: Path) -> None:
    # Car, twice beside Vehicle; and Game.
    clips = [clip(str(i), labels, video=codes(1, 1024)) for i, labels in enumerate([[7, 2], [2, 7], [7], [0]])]
    write(tmp_path / "a.tfrecord", *clips)
    found = inspect([tmp_path])
    assert {path: count for path, count in found.categories.items() if count} == {
        "Games": 1,
        "Transport": 3,
        "Transport:Land": 3,
        "Transport:Land:Car": 3,
    }
    (tmp_path / "features.json").write_text('{"encoder": "others", "sizes": {"video": 1024}}')
    assert inspect([tmp_path]).categories == {}


def test_problems(folder: Path) -> None:
    (folder / "empty.tfrecord").touch()
    write(folder / "wide.tfrecord", clip("d", [1], video=codes(1, 17)))
    with Writer(folder / "strange.tfrecord") as writer:
        writer.write(b"nonsense")
    damaged = bytearray((folder / "train10.tfrecord").read_bytes())
    damaged[20] ^= 1
    (folder / "train10.tfrecord").write_bytes(damaged)
    found = inspect([folder], skip_bad=True)
    assert found.records == 3
    problems = "\n".join(found.problems)
    assert "empty.tfrecord: no records" in problems
    assert "video: 1 clips have 17 features of uint8" in problems
    assert "strange.tfrecord: record 0 at byte 0: " in problems
    assert "train10.tfrecord: record 0 at byte 0: payload checksum does not match" in problems
    with pytest.raises(RecordError):
        inspect([folder])
    with pytest.raises(RecordError, match="strange"):
        inspect([folder / "strange.tfrecord"])


@pytest.mark.parametrize("numbers", [[3], [1, 4], [5, 1, 1], [2, 2, 3, 9], [0, 7, 7, 7]])
def test_spread(numbers: list[int]) -> None:
    spread = Spread.of(Counter(numbers))
    assert (spread.min, spread.median, spread.max) == (min(numbers), np.median(numbers), max(numbers))


def test_no_records_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").touch()
    found = inspect([tmp_path])
    assert (found.records, found.steps.max, found.labels_mean, found.modalities) == (0, 0, 0.0, {})


def test_find_shards(folder: Path) -> None:
    (folder / "below").mkdir()
    write(folder / "below" / "train1.tfrecord", clip("z", [1]))
    write(folder / "noname", clip("y", [1]))
    inspect([folder, folder / "noname"])  # leaves indexes beside the shards
    names = ["train2.tfrecord", "train10.tfrecord"]
    for paths in (
        [folder / "train*"],
        [folder / "train10.tfrecord", folder / "train2.tfrecord", folder / "train2.tfrecord"],
        [folder / "t*2.tfrecord", folder / "train1*"],
    ):
        assert [path.name for path in find_shards(paths)] == names
    assert [path.name for path in find_shards([folder])] == ["train1.tfrecord", *names]
    assert [path.name for path in find_shards([folder / "noname"])] == ["noname"]
    assert [path.name for path in find_shards([str(folder / "**" / "train1.*")])] == ["train1.tfrecord"]


def test_a_shard_of_two_names_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = find_shards([folder])[0]
    monkeypatch.chdir(folder)
    assert len(find_shards([str(shard), Path(shard).name])) == 1


def test_path_that_names_no_shard(folder: Path) -> None:
    (folder / "bare").mkdir()
    for path in (folder / "bare", folder / "absent", folder / "*.csv"):
        with pytest.raises(Error, match="no shards there") as caught:
            find_shards([folder, path])
        assert str(path) in str(caught.value)


def test_real_shards(real_data: Path) -> None:
    found = inspect([real_data / "yt8m" / "frame"])
    assert (found.records, found.steps.min, found.steps.max) == (2, 141, 184)
    assert (found.modalities["audio"].missing, found.modalities["video"].missing) == (2, 0)
    found = inspect([str(real_data / "yt8m" / "video" / "validate000?.tfrecord")])
    assert (found.shards, found.modalities["video"].size, found.modalities["audio"].size) == (10, 1024, 128)
    assert len(found.categories) == 640
    assert found.records > found.categories["Games"] > found.categories["Games:VideoGame"] > 0
    assert found.problems == []
