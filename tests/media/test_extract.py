import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import inspect
from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.media import encoders, extract, labels
from counterpoint.media import films as render
from counterpoint.media import workers as children
from counterpoint.media.decode import Limits
from counterpoint.media.encoders import Encoded, Encoders
from counterpoint.media.extract import find
from counterpoint.media.workers import Failure, Source, encode_all
from counterpoint.taxonomy import load


@pytest.fixture(scope="module")
def lite() -> Encoders:
    return encoders.build("lite")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good films, one without sound, and what one finds in folders."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(50)]
    sound = random.normal(0, 0.1, 2 * render.RATE)
    for name in ("a.mp4", "b.mkv", "sub/a.mp4"):
        render.write(folder / name, frames, sound)
    render.write(folder / "silent.MP4", frames, None)
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])
    (folder / "empty.webm").write_bytes(b"")
    (folder / "notes.txt").write_text("not a video")
    (folder / "._a.mp4").write_bytes(b"what some systems leave")
    return folder


def stored(out: Path) -> dict[str, Clip]:
    """The clips of a folder's shards by id; none is there twice."""
    clips = [clip_of(Shard(path), i) for path in out.glob("clips-*.tfrecord") for i in range(len(Shard(path)))]
    assert len({clip.id for clip in clips}) == len(clips)
    return {clip.id: clip for clip in clips}


GOOD = {"a.mp4", "b.mkv", "silent.MP4", "sub/a.mp4"}


def test_a_folder_of_good_and_bad_files(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    report = extract.extract(
        find([videos]), tmp_path / "out", lite, workers=2, progress=lambda *numbers: said.append(numbers)
    )
    assert set(stored(tmp_path / "out")) == GOOD
    assert sorted(report.failures) == [
        Failure(videos / "broken.mp4", "not a video file that can be read (moov atom not found)"),
        Failure(videos / "empty.webm", "empty"),
    ]
    assert report.notes == [(videos / "silent.MP4", "no sound")]
    assert (report.new, report.before, report.shards) == (4, 0, 1)
    assert said == [(done, 6) for done in range(7)]
    assert FeatureSet.of(list((tmp_path / "out").glob("*.tfrecord"))) == lite.features
    assert not inspect([tmp_path / "out"]).problems
    assert not (tmp_path / "out" / extract.PARTS).exists()
    same = lite.encode(videos / "a.mp4", "a.mp4").clip
    assert all(
        np.array_equal(same.tracks[name], track) for name, track in stored(tmp_path / "out")["a.mp4"].tracks.items()
    )


def test_names_that_lead_nowhere_or_are_no_unicode(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xe9t\xe9.mp4"))
    try:
        strange.write_bytes(b"")
    except OSError:
        pytest.skip("this file system has names in Unicode only")
    (folder / "été.mp4").write_bytes((videos / "a.mp4").read_bytes())
    report = extract.extract(find([folder]), tmp_path / "out", lite)
    assert set(stored(tmp_path / "out")) == {"été.mp4"}
    assert dict(report.failures) == {
        strange: "its name is not UTF-8, and no clip could bear it; rename it",
        folder / "gone.mp4": "No such file or directory",
    }


def test_what_is_done_is_not_done_again(
    videos: Path, lite: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [source for source in find([videos]) if source.id in GOOD]
    out = tmp_path / "out"
    assert extract.extract(sources[:2], out, lite).new == 2
    asked: list[str] = []

    def one_and_out(todo: list[Source], *args: Any) -> Any:
        asked.extend(source.id for source in todo)
        yield todo[0], lite.encode(todo[0].path, todo[0].id)
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "encode_all", one_and_out)
    with pytest.raises(KeyboardInterrupt):
        extract.extract(sources, out, lite)
    assert asked == [source.id for source in sources[2:]]
    assert len(list((out / extract.PARTS).iterdir())) == 1
    monkeypatch.undo()
    report = extract.extract(sources, out, lite)
    assert (report.before, report.new, report.shards) == (3, 1, 2)
    assert set(stored(out)) == GOOD
    assert extract.extract(sources, out, lite).new == 0


def test_killed_between_a_shard_and_its_parts(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [source for source in find([videos]) if source.id in GOOD]
    extract.extract(sources[:1], out, lite)
    (out / extract.PARTS).mkdir()
    extract._write(out / extract.PARTS / "left.clip", list(stored(out).values()))
    assert extract.extract(sources, out, lite).before == 1
    assert set(stored(out)) == GOOD


def test_shards_of_so_many_clips(videos: Path, lite: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "CLIPS_PER_SHARD", 3)
    report = extract.extract([s for s in find([videos]) if s.id in GOOD], tmp_path / "out", lite)
    assert report.shards == 2
    assert [len(Shard(path)) for path in sorted((tmp_path / "out").glob("*.tfrecord"))] == [3, 1]


def test_labels_and_their_changes(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [source for source in find([videos]) if source.id in GOOD]
    (videos / "labels.csv").write_text("path,categories\na.mp4,Food:Soup\nb.mkv,Food\n", encoding="utf-8")
    extract.extract(sources[:2], out, lite, labels.read(videos / "labels.csv"))
    assert {name: clip.labels.tolist() for name, clip in stored(out).items()} == {"a.mp4": [1], "b.mkv": [0]}
    (videos / "labels.csv").write_text("path,categories\na.mp4,Animal\nb.mkv,Food\n", encoding="utf-8")
    changed = labels.read(videos / "labels.csv", load(out / "taxonomy"))
    assert extract.extract(sources[:2], out, lite, changed).new == 0
    assert {name: clip.labels.tolist() for name, clip in stored(out).items()} == {"a.mp4": [2], "b.mkv": [0]}
    assert load(out / "taxonomy").taxonomy.paths == ("Food", "Food:Soup", "Animal")


def test_what_stays_of_earlier_calls_is_said(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    sources = find([videos])
    out, (one, other) = tmp_path / "out", [source for source in sources if source.id in GOOD][:2]
    extract.extract([one, other], out, lite, limits=Limits(1))
    (videos / "one.csv").write_text(f"path,categories\n{one.id},Food\n")
    named = labels.read(videos / "one.csv")
    assert extract.extract([one], out, lite, named).notes == [
        (out, "1 clips of earlier calls, which the labels file does not name, stay"),
        (out, "2 clips of earlier calls were cut at 1 s, and stay so (--max-seconds)"),
    ]


def test_clips_that_keep_their_labels_keep_their_categories(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out, sheet = tmp_path / "out", videos / "some.csv"
    sources = [source for source in find([videos]) if source.id in GOOD]
    sheet.write_text("path,categories\na.mp4,Sun\n", encoding="utf-8")
    extract.extract(sources[:1], out, lite, labels.read(sheet))
    sheet.write_text("path,categories\nb.mkv,Dog\n", encoding="utf-8")
    other = labels.read(sheet)
    with pytest.raises(Error, match=r"label 0 of a\.mp4 would stand for dog, not sun: give the --taxonomy"):
        extract.extract(sources[1:2], out, lite, other)
    assert load(out / "taxonomy").taxonomy.paths == ("Sun",)
    sheet.write_text("path,categories\na.mp4,Dog\nb.mkv,Dog\n", encoding="utf-8")  # all of them anew
    extract.extract(sources[:2], out, lite, labels.read(sheet))
    assert {name: clip.labels.tolist() for name, clip in stored(out).items()} == {"a.mp4": [0], "b.mkv": [0]}


def test_another_file_of_the_same_name(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    extract.extract(find([videos / "a.mp4"]), out, lite)
    other.mkdir()
    render.write(other / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 25, None)
    before = stored(out)["a.mp4"]
    (other / "labels.csv").write_text("path,categories\na.mp4,Night\n", encoding="utf-8")
    report = extract.extract(find([other]), out, lite, labels.read(other / "labels.csv"))
    assert [(failure.path, failure.cause) for failure in report.failures] == [
        (other / "a.mp4", f"{out} has a clip of another file of this name; choose another --out for it")
    ]
    assert not len(stored(out)["a.mp4"].labels)
    assert np.array_equal(stored(out)["a.mp4"].tracks["video"], before.tracks["video"])


def test_a_part_that_never_reached_the_disk(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [source for source in find([videos]) if source.id in GOOD]
    extract.extract(sources[:1], out, lite)
    (out / extract.PARTS).mkdir()
    (out / extract.PARTS / "0.clip").write_bytes(b"")
    (out / extract.PARTS / "1.clip").write_bytes(b"half")
    assert extract.extract(sources[:2], out, lite).new == 1


def test_another_folder_is_left_alone(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    FeatureSet({"video": 3}, "others").save(tmp_path / "out")
    with pytest.raises(Error, match=r"out: holds others features \(video 3\), not lite-.*another --out"):
        extract.extract(find([videos]), tmp_path / "out", lite)
    with pytest.raises(Error, match="not empty and not a folder of features"):
        extract.extract(find([videos]), videos, lite)


def test_one_process_at_a_time(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / extract.LOCK),
        pytest.raises(Error, match="out: another process extracts into it; wait for it"),
    ):
        extract.extract(find([videos]), out, lite)
    assert [path.name for path in out.iterdir()] == [extract.LOCK]


# --- finding ----------------------------------------------------------------------------------------------------------


def test_find(videos: Path, tmp_path: Path) -> None:
    assert [source.id for source in find([videos])] == sorted([*GOOD, "broken.mp4", "empty.webm"])
    assert find([videos / "notes.txt"]) == [Source("notes.txt", videos / "notes.txt")]  # named, so meant
    assert len(find([videos, videos / "a.mp4"])) == 6
    with pytest.raises(Error, match=r"would both be clip 'a\.mp4'; name the folder above both"):
        find([videos / "sub", videos])
    assert len(find([videos, videos / "sub"])) == 6
    with pytest.raises(Error, match="an empty name is no folder"):
        find([""])
    with pytest.raises(Error, match="no such file or folder"):
        find([tmp_path / "none"])
    with pytest.raises(Error, match="no video files there"):
        find([tmp_path])


# --- children ---------------------------------------------------------------------------------------------------------


def _misbehaves(source: Source, limits: Limits) -> Encoded | str:
    """Takes the place of encoding, in the child."""
    if source.id == "hangs":
        time.sleep(60)
    if source.id == "crashes":
        os._exit(11)
    if source.id == "fails":
        return str(Error(f"{source.path}: no good"))
    return Encoded(Clip(source.id, np.zeros(0, np.int64), {}), [])


def test_a_file_that_hangs_or_crashes_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_encode", _misbehaves)
    names = ["fine", "hangs", "crashes", "fails", "fine too"]
    begun = time.monotonic()
    results = dict(encode_all([Source(name, Path(name)) for name in names], "lite", 2, time_limit=1.5))
    assert time.monotonic() - begun < 50
    told = {source.id: result.cause for source, result in results.items() if isinstance(result, Failure)}
    assert told == {
        "hangs": "took more than 1.5 s",
        "crashes": "the decoder crashed (exit code 11)",
        "fails": "no good",
    }
    assert {source.id for source, result in results.items() if isinstance(result, Encoded)} == {"fine", "fine too"}
