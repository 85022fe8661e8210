"""Files -> clips: sets of encoders, each with a name and a fingerprint that goes wherever its features go.

===================  =================================================================================================
``lite``             picture: EfficientNet-Lite0; sound: mean and deviation of log-mel bands. Works as installed
``youtube8m``        those of YouTube-8M, for models trained on it; `counterpoint weights fetch` gets their weights
``any:IMAGE,AUDIO``  models of timm and Hugging Face by name (extra `any`); see `counterpoint.media.pretrained`
``...+text``         any of these, and subtitles as a third modality (extra `text`)
===================  =================================================================================================

Features are 8-bit codes over [-2, 2] (`counterpoint.data.records`); encoders scale what they find to that range.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from counterpoint.data.clip import Clip, TrackArray
from counterpoint.data.features import YOUTUBE8M, FeatureSet
from counterpoint.data.records import quantize
from counterpoint.errors import Error
from counterpoint.media import efficientnet, logmel, pretrained
from counterpoint.media.decode import DEFAULT, Frame, Limits, Video
from counterpoint.media.text import MiniLM, spoken

LITE = "lite"
TEXT = "+text"
BATCH = 4  # frames that are encoded together; with more, layers outgrow what glibc keeps for the next (32 MB)
SECONDS = 16  # of sound, so that memory does not grow with a film's length


class PictureEncoder(Protocol):
    """Frames -> features in [-2, 2]. The fingerprint changes with whatever changes them."""

    features: int
    fingerprint: str

    def size(self, width: float, height: float) -> tuple[int, int]:
        """What to scale a picture to that is so wide and high when it is shown."""

    def __call__(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame feature"]:
        """The features."""


class SoundEncoder(Protocol):
    """Seconds of sound -> features in [-2, 2]."""

    features: int
    fingerprint: str

    def __call__(self, seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step feature"]:
        """The features."""


class TextEncoder(Protocol):
    """Texts -> features in [-2, 2]."""

    features: int
    fingerprint: str

    def __call__(self, texts: list[str]) -> Float[Tensor, "text feature"]:
        """The features."""


class Encoded(NamedTuple):
    """A clip without labels, and in a few words each what was amiss with its file."""

    clip: Clip
    notes: list[str]


@dataclass(frozen=True)
class Encoders:
    """One encoder for each modality, under one name."""

    name: str
    picture: PictureEncoder
    sound: SoundEncoder
    text: TextEncoder | None = None

    @property
    def features(self) -> FeatureSet:
        """What they make: the name with a digest of all their fingerprints is what models know them by."""
        parts: dict[str, Any] = {"audio": self.sound, "video": self.picture}
        parts |= {"text": self.text} if self.text else {}
        digest = hashlib.sha256("/".join(part.fingerprint for part in parts.values()).encode()).hexdigest()[:8]
        sizes = {name: part.features for name, part in sorted(parts.items())}
        return FeatureSet(sizes, self.name if self.name == YOUTUBE8M else f"{self.name}-{digest}")

    def encode(self, path: str | Path, clip_id: str, limits: Limits = DEFAULT) -> Encoded:
        """A file's clip; seconds in which a modality is missing are zero.

        Raises:
            Error: the file cannot be read; see `counterpoint.media.decode.Video`.
        """
        with Video(path, limits) as video, torch.inference_mode():
            pictures = [
                quantize(self.picture(torch.from_numpy(np.stack(batch))))
                for batch in _batches(video.frames(self.picture.size))
            ]
            sound = video.sound()
            tracks: dict[str, TrackArray] = {}
            if pictures:
                tracks["video"] = np.concatenate(pictures)
            if sound.heard.any():
                parts = torch.from_numpy(sound.seconds).split(SECONDS)
                codes = np.concatenate([quantize(self.sound(part)) for part in parts])
                tracks["audio"] = np.where(sound.heard[:, None], codes, np.uint8(0))
            if self.text is not None:
                words = spoken(Path(path), limits.seconds)
                if any(words):
                    tracks["text"] = _encoded_text(self.text, words)
                else:
                    video.notes.append("no text")
            return Encoded(Clip(clip_id, np.zeros(0, np.int64), tracks), video.notes)


def _encoded_text(encoder: TextEncoder, words: list[str]) -> TrackArray:
    """Each second's features, zeros where nothing is said; what is said for many seconds is encoded once."""
    different = [text for text in dict.fromkeys(words) if text]
    codes = np.concatenate([np.zeros((1, encoder.features), np.uint8), quantize(encoder(different))])
    rows = {"": 0} | {text: row for row, text in enumerate(different, 1)}
    return codes[[rows[text] for text in words]]


def _batches(frames: Iterable[Frame]) -> Iterable[list[Frame]]:
    """Frames that follow each other and are of one size, a few at a time."""
    for _, alike in itertools.groupby(frames, key=lambda frame: frame.shape):
        while batch := list(itertools.islice(alike, BATCH)):
            yield batch


def build(name: str) -> Encoders:
    """The encoders of this name.

    Raises:
        Error: there are none, or their weights are not here.
    """
    if name.endswith(TEXT):
        return replace(build(name.removesuffix(TEXT)), name=name, text=MiniLM())
    if name == LITE:
        return Encoders(name, LitePicture(), LiteSound())
    if name == YOUTUBE8M:
        from counterpoint.media import youtube8m

        return Encoders(name, *youtube8m.load())
    if name.startswith(pretrained.PREFIX):
        return Encoders(name, *pretrained.load(name))
    raise Error(f"no encoders are called {name!r}; there are {LITE}, {YOUTUBE8M} and any:IMAGE,AUDIO")


def of(features: FeatureSet, model: str) -> Encoders:
    """The encoders that made these features, for files that ``model`` is to read.

    Raises:
        Error: they are not of this version, or cannot be built.
    """
    name = features.encoder.rpartition("-")[0] or features.encoder
    if name.removesuffix(TEXT) not in (LITE, YOUTUBE8M) and not name.startswith(pretrained.PREFIX):
        raise Error(f"{model} reads {features}, which are not made of video files")
    encoders = build(name)
    made = encoders.features
    # A model may read some of their modalities alone, such as one that was trained on silent films.
    read = {name: size for name, size in made.sizes.items() if name in features.sizes}
    features.check(replace(made, sizes=read), model)
    return encoders


# --- lite -------------------------------------------------------------------------------------------------------------


class LitePicture:
    """EfficientNet-Lite0's pooled features, 0 to 6 and mostly small, by their square root.

    The network sees the whole picture in its own shape, with as many pixels as those that it was trained on.
    """

    features = efficientnet.FEATURES
    PIXELS, CELL = 224 * 224, 32
    WIDEST = 3.0  # width by height, or the reverse; beyond, pictures are squeezed
    OFFSET = 0.4

    def __init__(self) -> None:
        path = efficientnet.weights_file()
        self.network = efficientnet.EfficientNetLite0.load(path)
        self.fingerprint = f"1-{hashlib.sha256(path.read_bytes()).hexdigest()}"

    def size(self, width: float, height: float) -> tuple[int, int]:
        """Sides of whole cells.

        >>> LitePicture().size(1920, 1080), LitePicture().size(100, 100), LitePicture().size(90, 160)
        ((288, 160), (224, 224), (160, 288))
        """
        shape = min(max(width / height, 1 / self.WIDEST), self.WIDEST)
        across = round((self.PIXELS * shape) ** 0.5 / self.CELL)
        down = round((self.PIXELS / shape) ** 0.5 / self.CELL)
        return across * self.CELL, down * self.CELL

    def __call__(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame 1280"]:
        pooled: Tensor = self.network(frames)
        return pooled.sqrt() - self.OFFSET


class LiteSound:
    """Mean and standard deviation over each second of each log-mel band, in [-4.6, 3.5] and [0, 2.4] as a rule."""

    features = 2 * logmel.BANDS
    fingerprint = "1"

    def __call__(self, seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step 128"]:
        spectrogram = logmel.log_mel(seconds)
        return torch.cat([(spectrogram.mean(1) + 0.75) / 2, (spectrogram.std(1) - 0.75) * 1.2], 1)
