"""YouTube-8M's own features of other videos: Inception and VGGish, and the data set's principal components of each.

As Google published them (google/youtube-8m, `feature_extractor`; tensorflow/models, `vggish`). That is close to what
made the data set and not the same: it saw other encodings of its videos, and its pipeline was never published whole.
"""

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from counterpoint.data.features import YOUTUBE8M_SIZES
from counterpoint.errors import Error
from counterpoint.media import inception, weights
from counterpoint.media.sound import log_mel

T = TypeVar("T")


class Components(nn.Module):
    """Whitened principal components: ``(x - mean) @ vectors.T / scale``."""

    mean: Tensor
    vectors: Tensor
    scale: Tensor

    def __init__(
        self, mean: Float[Tensor, "input"], vectors: Float[Tensor, "output input"], scale: Float[Tensor, "output"]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("vectors", vectors)
        self.register_buffer("scale", scale)

    def forward(self, x: Float[Tensor, "step input"]) -> Float[Tensor, "step output"]:
        return (x - self.mean) @ self.vectors.T / self.scale


class YouTubePicture:
    """Inception's last pool and 1,024 components of it."""

    fingerprint = "2015-12-05"
    LARGEST = (640, 360)  # width, height; larger pictures are scaled down: the network's own scaling does not average

    def __init__(self, network: inception.Inception, components: Components) -> None:
        self.network = network.eval()
        self.components = components
        self.features = len(components.vectors)

    def size(self, width: float, height: float) -> tuple[int, int]:
        scale = min(1.0, self.LARGEST[0] / width, self.LARGEST[1] / height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def __call__(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame 1024"]:
        found: Tensor = self.components(self.network(frames))
        return found


class VGGish(nn.Module):
    """A second's log-mel spectrogram -> 128 features, before what would be the last ReLU.

    Hershey et al., https://arxiv.org/abs/1609.09430; the layers are named as in the port of its weights to PyTorch.
    """

    FRAMES = 96  # of a second's 98
    CHANNELS = (64, 128, 256, 256, 512, 512)
    POOLED = (0, 1, 3, 5)  # convolutions that a pool follows

    def __init__(self, thin: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for number, outputs in enumerate(self.CHANNELS):
            layers += [nn.Conv2d(channels, outputs // thin, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if number in self.POOLED else []
            channels = outputs // thin
        self.features = nn.Sequential(*layers)
        hidden = 4096 // thin
        first = nn.Linear(channels * 6 * 4, hidden)
        self.embeddings = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 128))

    def forward(self, seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step 128"]:
        maps = self.features(log_mel(seconds)[:, None, : self.FRAMES])
        found: Tensor = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # TensorFlow keeps channels last
        return found


class YouTubeSound:
    """VGGish once a second, and its components."""

    fingerprint = "vggish"

    def __init__(self, network: VGGish, components: Components) -> None:
        self.network = network.eval()
        self.components = components
        self.features = len(components.vectors)

    def __call__(self, seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step 128"]:
        found: Tensor = self.components(self.network(seconds))
        return found


def load() -> tuple[YouTubePicture, YouTubeSound]:
    """The encoders with the weights that `counterpoint weights fetch` keeps.

    Raises:
        Error: a file is missing, or is not what it should be.
    """
    files = weights.files()
    picture, sound = inception.Inception(), VGGish()
    _read(files["inception"], lambda path: picture.load_state_dict(_state(path, without="fc.")))
    _read(files["vggish"], lambda path: sound.load_state_dict(_state(path)))
    return (
        YouTubePicture(picture, _read(files["inception-pca"], picture_components)),
        YouTubeSound(sound, _read(files["vggish-pca"], sound_components)),
    )


def picture_components(path: Path, count: int = YOUTUBE8M_SIZES["video"]) -> Components:
    """The components in `yt8m_pca.tgz`: first rows of `eigenvecs.npy`, by the root of their variances plus 1e-4."""
    with tarfile.open(path) as archive:
        files = {Path(member.name).name: member for member in archive if member.isfile()}

        def array(name: str) -> Any:
            file = archive.extractfile(files[name])
            assert file is not None
            return np.load(BytesIO(file.read()), allow_pickle=False)

        mean, values, vectors = array("mean.npy")[:, 0], array("eigenvals.npy")[:count, 0], array("eigenvecs.npy")
    return Components(*(torch.from_numpy(part).float() for part in (mean, vectors[:count], np.sqrt(values + 1e-4))))


def sound_components(path: Path) -> Components:
    """The components in `vggish_pca_params`, whose vectors whiten already."""
    stored = _state(path)
    vectors, means = stored["pca_eigen_vectors"].float(), stored["pca_means"].float().flatten()
    return Components(means, vectors, torch.ones(len(vectors)))


def _state(path: Path, without: str = "\n") -> dict[str, Tensor]:
    stored: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return {name: torch.as_tensor(value) for name, value in stored.items() if not name.startswith(without)}


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except Exception as error:  # PyTorch does not document what a strange file raises
        first = " ".join(str(error).split())[:100]
        raise Error(f"{path}: not the weights that it should hold ({first})") from error
