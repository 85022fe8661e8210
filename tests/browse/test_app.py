import csv
import io
import json
import socket
from pathlib import Path

import httpx
import pytest

from counterpoint.browse.clips import Clips, Filter
from counterpoint.browse.export import save
from counterpoint.cli.main import main
from counterpoint.errors import Error

from .conftest import World


def get(server: str, path: str, **options: object) -> httpx.Response:
    return httpx.get(server + path, timeout=60, **options)  # type: ignore[arg-type]


def test_about(server: str) -> None:
    content = get(server, "v1/about").json()
    assert (content["clips"], content["shards"], content["levels"], content["pairs"]) == (60, 1, 2, ["audio and video"])
    assert content["named"]["paths"] == ["Food", "Food:Dessert", "Food:Soup", "Sport", "Sport:Ball"]
    assert content["named"]["counts"][0] + content["named"]["counts"][3] == 60


def test_pages(server: str) -> None:
    whole = get(server, "v1/clips?limit=60").json()
    losses = [clip["loss"] for clip in whole["clips"]]
    assert whole["total"] == len(losses) == 60
    assert losses == sorted(losses, reverse=True)
    parts = [get(server, f"v1/clips?offset={offset}&limit=25").json()["clips"] for offset in (0, 25, 50, 75)]
    assert [len(part) for part in parts] == [25, 25, 10, 0]
    assert [clip for part in parts for clip in part] == whole["clips"]
    assert len(get(server, "v1/clips?limit=100000").json()["clips"]) == 60


def test_filters(server: str) -> None:
    content = get(server, "v1/clips?category=Food:Soup&verdict=wrong&level=1&limit=60").json()["clips"]
    assert content
    for clip in content:
        assert "Food:Soup" in [one["path"] for one in clip["truth"]]
        assert clip["verdict"] == "wrong"
    others = [
        get(server, f"v1/clips?category=Food:Soup&verdict={verdict}&level=1").json()["total"]
        for verdict in ("right", "partly", "unsure")
    ]
    assert sum(others) + len(content) == get(server, "v1/clips?category=Food:Soup").json()["total"] > 0


def test_one_clip_and_why(server: str) -> None:
    assert get(server, "v1/clips/3").json()["id"] == "clip003"
    why = get(server, "v1/clips/3/explanation").json()
    assert [len(change) for change in why["changes"].values()] == [5, 5]
    assert set(why["changes"]) == {"without audio", "without video"}
    lanes = why["timelines"]["video"]
    assert len(lanes["after"]) == len(lanes["present"]) == len(why["per_second"]["audio and video"])


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("v1/clips?category=Nothing", 422, "no category 'Nothing'"),
        ("v1/clips?role=none", 422, "role"),
        ("v1/clips?verdict=correct", 422, "right"),
        ("v1/clips?level=9", 422, "no level 9"),
        ("v1/clips/0?level=2", 422, "no level 2"),
        ("v1/clips/0?level=-1", 422, "no level -1"),
        ("v1/clips?low=x", 422, "low"),
        ("v1/clips/60", 404, "no clip 60"),
        ("v1/clips/-1", 404, "no clip -1"),
        ("v1/export.txt", 422, "kind"),
    ],
)
def test_what_cannot_be_asked_for(server: str, path: str, status: int, message: str) -> None:
    answer = get(server, path)
    assert answer.status_code == status
    assert message in answer.json()["detail"]


# --- safety -----------------------------------------------------------------------------------------------------------


def raw(server: str, path: str) -> bytes:
    """A request whose path no client has tidied."""
    host, port = server.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/app.py",
        "//etc/passwd",
        "/page.css/../app.py",
        "/index.html",
        "/app.py",
        "/page/",
        "/browse.css%00.py",
    ],
)
def test_no_other_files(server: str, path: str) -> None:
    answer = raw(server, path)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer


def test_the_files_and_their_policy(server: str) -> None:
    for name in ("", "browse.css", "browse.js", "clip.js", "page.css", "dom.js", "timeline.js"):
        answer = get(server, name)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = get(server, "").text
    assert "://" not in page


def test_other_names_and_other_pages_are_refused(server: str) -> None:
    assert get(server, "v1/about", headers={"host": "evil.example"}).status_code == 421
    assert get(server, "v1/about", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert get(server, "", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link leads to the page


def test_only_this_machine_reaches_it(server: str) -> None:
    assert server.startswith("http://127.0.0.1:")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_by_page_and_by_command_are_the_same(server: str, world: World, tmp_path: Path) -> None:
    asked = "category=Food&role=either&sort=surprise&reverse=true"
    arguments = ["browse", world.run, "--data", world.shards, "--category", "Food", "--role", "either"]
    arguments += ["--sort", "surprise", "--reverse"]
    listed = get(server, f"v1/clips?{asked}&limit=60").json()
    assert listed["total"] > 0
    for kind in ("csv", "json"):
        download = get(server, f"v1/export.{kind}?{asked}")
        assert download.headers["content-disposition"] == f'attachment; filename="clips.{kind}"'
        assert main([*map(str, arguments), "--export", str(tmp_path / f"list.{kind}")]) == 0
        assert (tmp_path / f"list.{kind}").read_bytes() == download.content
    assert json.loads(download.text) == listed["clips"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "list.csv").read_bytes().decode())))
    assert [row["id"] for row in rows] == [clip["id"] for clip in listed["clips"]]
    first = listed["clips"][0]
    assert rows[0]["truth"].split("; ")[0] == f"{first['truth'][0]['path']} {first['truth'][0]['probability']:.3f}"
    assert float(rows[0]["loss"]) == pytest.approx(first["loss"], abs=1e-6)
    assert {"correlation of audio and video", "shard", "record", "verdict"} <= set(rows[0])


def test_an_empty_list(server: str) -> None:
    assert get(server, "v1/export.json?search=nothing").json() == []
    assert len(get(server, "v1/export.csv?search=nothing").text.splitlines()) == 1


def test_kept_answers(world: World, server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (kept,) = (world.run / "survey").iterdir()
    time = (kept / "scores.npy").stat().st_mtime_ns
    assert main(["browse", str(world.run), "--data", str(world.shards), "--export", str(tmp_path / "all.csv")]) == 0
    assert "60 of 60 clips" in capsys.readouterr().err
    assert (kept / "scores.npy").stat().st_mtime_ns == time


@pytest.mark.parametrize("name", ["list.csv", "list.json"])
def test_lists_replace_lists_only(known: Clips, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for query in (Filter(), Filter(search="nothing"), Filter(search="a")):  # over each other
        save(known, query, path)
    for foreign in (b"name,age\nAda,36\n", b'{"dependencies": []}', b"[]  "):
        path.write_bytes(foreign)
        with pytest.raises(Error, match=f"{name}: is not a file of this command; choose another --export"):
            save(known, Filter(), path)
        assert path.read_bytes() == foreign
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(Error, match="a folder; --export names a file"):
        save(known, Filter(), folder)


def test_the_survey_needs_a_folder_of_its_own(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    arguments = ["browse", world.run, "--data", world.shards, "--export", tmp_path / "x.csv", "--out", tmp_path]
    assert main([*map(str, arguments)]) == 1
    assert f"{tmp_path}: holds something else; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--export", "list.txt"], "list.txt: a list is written as .csv or .json"),
        (["--export", "list.csv", "--category", "Nothing"], "no category 'Nothing'"),
        (["--port", "1", "--host", "192.0.2.1"], "192.0.2.1:1: "),
    ],
)
def test_command_errors(world: World, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert main(["browse", str(world.run), "--data", str(world.shards), *more]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
