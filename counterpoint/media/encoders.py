"""Files -> clips: sets of encoders, each with a name and a fingerprint that goes wherever its features go.

=======================  =============================================================================================
``lite``                 picture: EfficientNet-Lite0; sound: mean and deviation of log-mel bands. Works as installed
``youtube8m``            those of YouTube-8M, for models trained on it; `counterpoint weights fetch` gets their weights
``any:IMAGE,AUDIO``      models of timm and Hugging Face by name (extra `any`); see `counterpoint.media.pretrained`
``package.module:NAME``  your own: an `Encoders`, or a function without parameters that is annotated to return one
``...+text``             any of these, and subtitles as a third modality (extra `text`)
=======================  =============================================================================================

Features are 8-bit codes over [-2, 2] (`counterpoint.data.records`); encoders scale their output to that range.
"""

import hashlib
import importlib
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterable
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
from counterpoint.errors import Error, suggestion
from counterpoint.media import efficientnet, pretrained
from counterpoint.media.decode import DEFAULT, Frame, Limits, Video
from counterpoint.media.sound import BANDS, log_mel
from counterpoint.media.text import MiniLM, spoken

LITE = "lite"
TEXT = "+text"
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Names of encoders outside the package."""
BATCH = 4  # frames that are encoded together; with more, layers outgrow what glibc keeps for the next (32 MB)
SECONDS = 16  # of sound, so that memory does not grow with a film's length


class PictureEncoder(Protocol):
    """Frames -> features in [-2, 2]. The fingerprint changes with whatever changes them."""

    features: int
    fingerprint: str

    def size(self, width: float, height: float) -> tuple[int, int]:
        """Width and height in pixels to which a picture of this width and height is scaled."""

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
    """A clip without labels, and notes of what was amiss with its file."""

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
        """The features that they make, under their name with a digest of all their fingerprints."""
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
            if sound.present.any():
                parts = torch.from_numpy(sound.seconds).split(SECONDS)
                codes = np.concatenate([quantize(self.sound(part)) for part in parts])
                tracks["audio"] = np.where(sound.present[:, None], codes, np.uint8(0))
            if self.text is not None:
                words = spoken(Path(path), limits.seconds)
                if any(words):
                    tracks["text"] = _encoded_text(self.text, words)
                else:
                    video.notes.append("no text")
            return Encoded(Clip(clip_id, np.zeros(0, np.int64), tracks), video.notes)


def _encoded_text(encoder: TextEncoder, words: list[str]) -> TrackArray:
    """Each second's features, zeros where there are no words; the same words are encoded once."""
    different = [text for text in dict.fromkeys(words) if text]
    codes = np.concatenate([np.zeros((1, encoder.features), np.uint8), quantize(encoder(different))])
    rows = {"": 0} | {text: row for row, text in enumerate(different, 1)}
    return codes[[rows[text] for text in words]]


def _batches(frames: Iterable[Frame]) -> Iterable[list[Frame]]:
    """Frames that follow each other and are of one size, a few at a time."""
    for _, alike in itertools.groupby(frames, key=lambda frame: frame.shape):
        while batch := list(itertools.islice(alike, BATCH)):
            yield batch


# --- by name ----------------------------------------------------------------------------------------------------------

Factory = Callable[[str], Encoders]
"""A function of a module that builds the encoders of a name."""


def register(name: str, factory: Factory) -> None:
    """Add encoders under a name.

    Args:
        factory: a function of a module, which child processes import.
    """
    _REGISTRY[name] = factory


def build(name: str) -> Encoders:
    """The encoders of this name; see the module.

    Raises:
        Error: there are none, or their weights are not here.
    """
    encoders = factory_of(name)(base_name(name))
    return replace(encoders, name=name, text=MiniLM()) if name.endswith(TEXT) else encoders


def base_name(name: str) -> str:
    """A name without ``+text``."""
    return name.removesuffix(TEXT)


def factory_of(name: str) -> Factory:
    """The function that builds the encoders of this name, ``+text`` apart.

    Raises:
        Error: there is none.
    """
    base = base_name(name)
    if base in _REGISTRY:
        return _REGISTRY[base]
    if base.startswith(pretrained.PREFIX):
        return _pretrained
    if OWN.fullmatch(base):
        return _own
    guess = suggestion(base, _REGISTRY) or "."
    known = ", ".join(sorted(_REGISTRY))
    raise Error(
        f"no encoders are called {name!r}{guess} There are {known}, any:IMAGE,AUDIO and package.module:NAME of your own"
    )


def of(features: FeatureSet, model: str) -> Encoders:
    """The encoders that made these features, for files that ``model`` is to read.

    Raises:
        Error: they are not of this version, or cannot be built.
    """
    name = features.encoder.rpartition("-")[0] or features.encoder
    base = base_name(name)
    if base not in _REGISTRY and not base.startswith(pretrained.PREFIX) and not OWN.fullmatch(base):
        raise Error(f"{model} reads {features}, which are not made of video files")
    encoders = build(name)
    made = encoders.features
    # A model may read some of their modalities alone, such as one that was trained on silent films.
    read = {name: size for name, size in made.sizes.items() if name in features.sizes}
    features.check(replace(made, sizes=read), model)
    return encoders


def _lite(name: str) -> Encoders:
    return Encoders(name, LitePicture(), LiteSound())


def _youtube8m(name: str) -> Encoders:
    from counterpoint.media import youtube8m

    return Encoders(name, *youtube8m.load())


def _pretrained(name: str) -> Encoders:
    return Encoders(name, *pretrained.load(name))


def _own(name: str) -> Encoders:
    """Encoders outside the package. A function is called only if its annotation promises encoders."""
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        returned = typing.get_type_hints(found).get("return") if inspect.isfunction(found) else None
    except (ImportError, AttributeError, NameError) as error:
        raise Error(f"{name}: cannot be imported ({error})") from error
    found = found() if returned is Encoders else found
    if not isinstance(found, Encoders):
        raise Error(f"{name}: neither an Encoders nor a function annotated to return one")
    return replace(found, name=name)


_REGISTRY: dict[str, Factory] = {LITE: _lite, YOUTUBE8M: _youtube8m}


# --- lite -------------------------------------------------------------------------------------------------------------


class LitePicture:
    """EfficientNet-Lite0's pooled features, 0 to 6 and mostly small, by their square root.

    The network reads the whole picture in its own shape, with as many pixels as those that it was trained on.
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

    features = 2 * BANDS
    fingerprint = "1"

    def __call__(self, seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step 128"]:
        spectrogram = log_mel(seconds)
        return torch.cat([(spectrogram.mean(1) + 0.75) / 2, (spectrogram.std(1) - 0.75) * 1.2], 1)
