import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from training import world

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import inspect
from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.files import LOCK_FILE
from counterpoint.media import encoders, extract, labels
from counterpoint.media import films as render
from counterpoint.media.decode import Limits
from counterpoint.media.encoders import Encoded, Encoders
from counterpoint.media.extract import are_videos, extract_sources, find
from counterpoint.media.workers import Failure, Source
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
    calls: list[tuple[int, int]] = []
    report = extract_sources(
        find([videos]), tmp_path / "out", lite, workers=2, progress=lambda *numbers: calls.append(numbers)
    )
    assert set(stored(tmp_path / "out")) == GOOD
    assert sorted(report.failures) == [
        Failure(videos / "broken.mp4", "not a video file that can be read (moov atom not found)"),
        Failure(videos / "empty.webm", "empty"),
    ]
    assert report.notes == [(videos / "silent.MP4", "no sound")]
    assert (report.new, report.before, report.shards) == (4, 0, 1)
    assert calls == [(done, 6) for done in range(7)]
    assert FeatureSet.of(list((tmp_path / "out").glob("*.tfrecord"))) == lite.features
    copies = "2 clips are copies: they have the features of an earlier clip"
    assert inspect([tmp_path / "out"]).problems == [copies]  # one film in three containers
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
    report = extract_sources(find([folder]), tmp_path / "out", lite)
    assert set(stored(tmp_path / "out")) == {"été.mp4"}
    assert dict(report.failures) == {
        strange: "its name is not UTF-8, and no clip could have it; rename it",
        folder / "gone.mp4": "No such file or directory",
    }


def test_what_is_done_is_not_done_again(
    videos: Path, lite: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [source for source in find([videos]) if source.id in GOOD]
    out = tmp_path / "out"
    assert extract_sources(sources[:2], out, lite).new == 2
    asked: list[str] = []

    def one_and_out(todo: list[Source], *args: Any) -> Any:
        asked.extend(source.id for source in todo)
        yield todo[0], lite.encode(todo[0].path, todo[0].id)
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "encode_all", one_and_out)
    with pytest.raises(KeyboardInterrupt):
        extract_sources(sources, out, lite)
    assert asked == [source.id for source in sources[2:]]
    assert len(list((out / extract.PARTS).iterdir())) == 1
    monkeypatch.undo()
    report = extract_sources(sources, out, lite)
    assert (report.before, report.new, report.shards) == (3, 1, 2)
    assert set(stored(out)) == GOOD
    assert extract_sources(sources, out, lite).new == 0


def test_killed_between_a_shard_and_its_parts(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [source for source in find([videos]) if source.id in GOOD]
    extract_sources(sources[:1], out, lite)
    (out / extract.PARTS).mkdir()
    extract._write(out / extract.PARTS / "left.clip", list(stored(out).values()))
    assert extract_sources(sources, out, lite).before == 1
    assert set(stored(out)) == GOOD


def test_shards_of_so_many_clips(videos: Path, lite: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "CLIPS_PER_SHARD", 3)
    report = extract_sources([s for s in find([videos]) if s.id in GOOD], tmp_path / "out", lite)
    assert report.shards == 2
    assert [len(Shard(path)) for path in sorted((tmp_path / "out").glob("*.tfrecord"))] == [3, 1]


def test_labels_and_their_changes(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [source for source in find([videos]) if source.id in GOOD]
    (videos / "labels.csv").write_text("path,categories\na.mp4,Food:Soup\nb.mkv,Food\n", encoding="utf-8")
    extract_sources(sources[:2], out, lite, labels.read(videos / "labels.csv"))
    assert {name: clip.labels.tolist() for name, clip in stored(out).items()} == {"a.mp4": [1], "b.mkv": [0]}
    (videos / "labels.csv").write_text("path,categories\na.mp4,Animal\nb.mkv,Food\n", encoding="utf-8")
    changed = labels.read(videos / "labels.csv", load(out / "taxonomy"))
    assert extract_sources(sources[:2], out, lite, changed).new == 0
    assert {name: clip.labels.tolist() for name, clip in stored(out).items()} == {"a.mp4": [2], "b.mkv": [0]}
    assert load(out / "taxonomy").taxonomy.paths == ("Food", "Food:Soup", "Animal")


def test_what_stays_of_earlier_calls_is_noted(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    sources = find([videos])
    out, (one, other) = tmp_path / "out", [source for source in sources if source.id in GOOD][:2]
    extract_sources([one, other], out, lite, limits=Limits(1))
    (videos / "one.csv").write_text(f"path,categories\n{one.id},Food\n")
    named = labels.read(videos / "one.csv")
    assert extract_sources([one], out, lite, named).notes == [
        (out, "1 clips of earlier calls, which the labels file does not name, stay"),
        (out, "2 clips of earlier calls were cut at 1 s, and stay so (--max-seconds)"),
    ]


def test_clips_that_keep_their_labels_keep_their_categories(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out, sheet = tmp_path / "out", videos / "some.csv"
    sources = [source for source in find([videos]) if source.id in GOOD]
    sheet.write_text("path,categories\na.mp4,Sun\n", encoding="utf-8")
    extract_sources(sources[:1], out, lite, labels.read(sheet))
    sheet.write_text("path,categories\nb.mkv,Dog\n", encoding="utf-8")
    other = labels.read(sheet)
    with pytest.raises(Error, match=r"label 0 of a\.mp4 would stand for Dog, not Sun: give the --taxonomy"):
        extract_sources(sources[1:2], out, lite, other)
    assert load(out / "taxonomy").taxonomy.paths == ("Sun",)
    sheet.write_text("path,categories\na.mp4,Dog\nb.mkv,Dog\n", encoding="utf-8")  # all of them anew
    extract_sources(sources[:2], out, lite, labels.read(sheet))
    assert {name: clip.labels.tolist() for name, clip in stored(out).items()} == {"a.mp4": [0], "b.mkv": [0]}


def test_another_file_of_the_same_name(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    extract_sources(find([videos / "a.mp4"]), out, lite)
    other.mkdir()
    render.write(other / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 25, None)
    before = stored(out)["a.mp4"]
    (other / "labels.csv").write_text("path,categories\na.mp4,Night\n", encoding="utf-8")
    report = extract_sources(find([other]), out, lite, labels.read(other / "labels.csv"))
    assert [(failure.path, failure.cause) for failure in report.failures] == [
        (
            other / "a.mp4",
            f"{out} has a clip of another file of this name, or of this file before it changed; "
            "make it anew with --replace, or choose another --out",
        )
    ]
    assert not len(stored(out)["a.mp4"].labels)
    assert np.array_equal(stored(out)["a.mp4"].tracks["video"], before.tracks["video"])


def test_a_file_that_changed_is_made_anew(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    own.mkdir()
    for name in ("a.mp4", "b.mkv"):
        (own / name).write_bytes((videos / name).read_bytes())
    extract_sources(find([own]), out, lite)
    before = stored(out)
    render.write(own / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 75, None)
    assert len(extract_sources(find([own]), out, lite).failures) == 1
    report = extract_sources(find([own]), out, lite, replace=True)
    assert (report.new, report.before, report.failures) == (1, 1, [])
    after = stored(out)
    assert [len(clip.tracks["video"]) for clip in (before["a.mp4"], after["a.mp4"])] == [2, 3]
    assert np.array_equal(after["b.mkv"].tracks["video"], before["b.mkv"].tracks["video"])
    assert extract_sources(find([own]), out, lite, replace=True).new == 0


def test_linked_folders_are_entered_once(videos: Path, tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    top.mkdir()
    elsewhere.mkdir()
    for place in (top / "a.mp4", elsewhere / "b.mp4"):
        place.write_bytes((videos / "a.mp4").read_bytes())
    (top / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(top)
    (top / "loop.mp4").symlink_to(top / "loop.mp4")
    assert [source.id for source in find([top])] == ["a.mp4", "linked/b.mp4", "loop.mp4"]
    (top / "labels.csv").write_text("path,categories\na.mp4,Rain\nlinked/b.mp4,Music\n", encoding="utf-8")
    report = extract.extract(top, tmp_path / "out", top / "labels.csv")
    assert {name: clip.labels.tolist() for name, clip in stored(tmp_path / "out").items()} == {
        "a.mp4": [1],
        "linked/b.mp4": [0],
    }
    assert (report.left_out, report.not_found, report.failures) == ([top / "loop.mp4"], [], [])


def test_labelled_files_that_are_not_among_the_videos(videos: Path, tmp_path: Path) -> None:
    (videos / "more.csv").write_text("path,categories\na.mp4,Rain\nsub/a.mp4,Music\n", encoding="utf-8")
    report = extract.extract(videos / "a.mp4", tmp_path / "out", videos / "more.csv")
    assert report.not_found == [videos / "sub" / "a.mp4"]
    assert list(report.lines("more.csv")) == [
        f"1 files that more.csv names are not among the videos: {videos / 'sub' / 'a.mp4'}"
    ]
    assert report.to_dict()["not_found"] == [str(videos / "sub" / "a.mp4")]


def test_a_part_that_never_reached_the_disk(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = [source for source in find([videos]) if source.id in GOOD]
    extract_sources(sources[:1], out, lite)
    (out / extract.PARTS).mkdir()
    (out / extract.PARTS / "0.clip").write_bytes(b"")
    (out / extract.PARTS / "1.clip").write_bytes(b"half")
    assert extract_sources(sources[:2], out, lite).new == 1


def test_another_folder_is_left_alone(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    FeatureSet({"video": 3}, "others").save(tmp_path / "out")
    with pytest.raises(Error, match=r"out: holds others features \(video 3\), not lite-.*another --out"):
        extract_sources(find([videos]), tmp_path / "out", lite)
    with pytest.raises(Error, match="holds something else; choose another --out"):
        extract_sources(find([videos]), videos, lite)


def test_one_process_at_a_time(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / LOCK_FILE),
        pytest.raises(Error, match="out: another process extracts into it; wait for it"),
    ):
        extract_sources(find([videos]), out, lite)
    assert [path.name for path in out.iterdir()] == [LOCK_FILE]


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


def test_are_videos(videos: Path, tmp_path: Path) -> None:
    assert are_videos(videos)
    assert are_videos([videos / "a.mp4", str(videos / "sub")])
    assert not are_videos(["data/train*.tfrecord", tmp_path])
    with pytest.raises(Error, match="video files and shards cannot be categorized in one call"):
        are_videos([videos / "a.mp4", "train.tfrecord"])
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.tfrecord").touch()
    with pytest.raises(Error, match="holds video files and shards; name the ones"):
        are_videos(tmp_path)


# --- as a library -----------------------------------------------------------------------------------------------------


def test_extract_reads_the_labels_file(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    sheet = videos / "two.csv"
    sheet.write_text("path,categories\na.mp4,Food:Soup\nb.mkv,Food\n", encoding="utf-8")
    report = extract.extract(str(videos), tmp_path / "out", sheet, workers=1)
    assert (report.new, len(report.left_out), report.notes) == (2, 4, [])
    assert load(tmp_path / "out" / "taxonomy").taxonomy.paths == ("Food", "Food:Soup")
    again = extract.extract([videos], str(tmp_path / "out"), sheet, encoders=lite)
    assert (again.new, again.before) == (0, 2)
    with pytest.raises(Error, match="--taxonomy is for the categories of a labels file"):
        extract.extract(videos, tmp_path / "other", taxonomy="youtube8m")
    with pytest.raises(Error, match="no encoders are called 'light'; did you mean lite"):
        extract.extract(videos, tmp_path / "other", encoders="light")
    with pytest.raises(Error, match=r"two\.csv: names none of the 1 video files"):
        extract.extract(videos / "sub", tmp_path / "other", sheet)


def test_folders_with_features_of_another_origin_are_left_alone(videos: Path, lite: Encoders, tmp_path: Path) -> None:
    """A run's folder, and shards that other commands wrote, have the same `features.json`."""
    lite.features.save(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(Error, match="holds something else; choose another --out"):
        extract.extract(videos, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.json", "recipe.json"]


def test_clips_come_in_the_order_given(videos: Path, lite: Encoders) -> None:
    sources = [*find([videos]), Source("\udce9.mp4", videos / "a.mp4")]

    def backwards(todo: list[Source], *_: Any) -> Any:
        for source in reversed(todo):
            yield source, Failure(source.path, source.id)

    results = list(extract.clips(sources, lite, engine=backwards))
    assert [source for source, _ in results] == sources
    assert [result.cause for _, result in results] == [*(source.id for source in sources[:-1]), extract.NO_UNICODE]
    source, result = next(extract.clips(find(videos / "a.mp4"), lite, workers=1))
    assert source.id == "a.mp4"
    assert isinstance(result, Encoded)
    expected = lite.encode(videos / "a.mp4", "a.mp4")
    assert result.clip.tracks.keys() == expected.clip.tracks.keys()
    assert all(np.array_equal(result.clip.tracks[name], track) for name, track in expected.clip.tracks.items())


def test_videos_by_any_name(videos: Path, tmp_path: Path) -> None:
    """What `extract` takes as a video, `categorize` does too."""
    for name in ("noname", "film.f4v", "film.xyz", "sound.mka"):
        (tmp_path / name).write_bytes((videos / "a.mp4").read_bytes())
        assert are_videos(tmp_path / name)
    shard = world.write(tmp_path / "shard", *world.clips(2))
    assert not are_videos(shard)
    assert [source.id for source in find(tmp_path)] == ["film.f4v"]


def test_notes_stay_beside_the_shards(lite: Encoders, tmp_path: Path) -> None:
    film = render.write(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 75, None)
    report = extract_sources(find([film]), tmp_path / "out", lite)
    (line,) = (tmp_path / "out" / extract.SOURCES_FILE).read_text().splitlines()
    assert json.loads(line)["notes"] == [note for _, note in report.notes] == ["no sound"]
