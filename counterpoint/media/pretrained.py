"""Models of timm and Hugging Face as encoders, by name, for those who train on their own videos.

``any:IMAGE,AUDIO``, each ``timm/NAME`` (pictures only) or ``hf/NAME``; a NAME may be a folder where its library takes
one. Nothing is known beforehand of the size of a model's features, so those of each step are brought to a mean of 0 and
a deviation of 0.6.
"""

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from counterpoint.errors import Error
from counterpoint.media.sound import RATE

PREFIX = "any:"
DEVIATION = 0.6


def load(name: str) -> "tuple[Picture, HuggingFaceSound]":
    """The encoders that ``any:IMAGE,AUDIO`` names.

    Raises:
        Error: the name is not of that form, the extra is not installed, or a model cannot be had.
    """
    image, _, audio = name.removeprefix(PREFIX).partition(",")
    kinds: dict[str, Any] = {"timm": TimmPicture, "hf": HuggingFacePicture}
    image_kind, _, image_name = image.partition("/")
    audio_kind, _, audio_name = audio.partition("/")
    if image_kind not in kinds or audio_kind != "hf" or not image_name or not audio_name:
        raise Error(f"{name}: not any:IMAGE,AUDIO, where IMAGE is timm/NAME or hf/NAME and AUDIO hf/NAME")
    _check_torchvision(name)
    try:
        return kinds[image_kind](image_name), HuggingFaceSound(audio_name)
    except ImportError as error:
        extra = "timm" if error.name in ("timm", "torchvision") else "any"
        raise Error(f"{name}: needs an extra ({error}): pip install 'counterpoint[{extra}]'") from error
    except Exception as error:  # of two libraries, for a name that they do not know, a network that is not there, ...
        raise Error(f"{name}: {' '.join(str(error).split())[:300]}") from error


def _check_torchvision(name: str) -> None:
    """timm needs it, and transformers import it if it is installed; one for another PyTorch breaks both."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        pass  # transformers do without, and timm raises an error
    except Exception as error:
        raise Error(
            f"{name}: the torchvision that is installed does not fit this PyTorch ({error}); install it from where "
            "PyTorch came from, or for hf/ models do without it: pip uninstall torchvision"
        ) from error


class Picture:
    """Pictures squeezed to the model's own size, with its mean and deviation of colours."""

    features: int

    def __init__(self, network: nn.Module, side: tuple[int, int], mean: list[float], deviation: list[float]) -> None:
        self.network = network.eval()
        self.side = side
        self.mean, self.deviation = torch.tensor(mean), torch.tensor(deviation)
        self.fingerprint = _fingerprint(network)

    def size(self, width: float, height: float) -> tuple[int, int]:
        return self.side

    def __call__(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame feature"]:
        return standardized(self.pooled(((frames.float() / 255 - self.mean) / self.deviation).permute(0, 3, 1, 2)))

    def pooled(self, pictures: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame feature"]:
        """The model's features."""
        raise NotImplementedError


class TimmPicture(Picture):
    """A model of timm without its classifier."""

    def __init__(self, name: str) -> None:
        import timm

        network = timm.create_model(name, pretrained=True, num_classes=0)
        known = timm.data.resolve_model_data_config(network)
        _, height, width = known["input_size"]
        super().__init__(network, (width, height), list(known["mean"]), list(known["std"]))
        with torch.inference_mode():
            self.features = self.pooled(torch.zeros(1, 3, height, width)).shape[1]

    def pooled(self, pictures: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame feature"]:
        found: Tensor = self.network(pictures)
        return found


class HuggingFacePicture(Picture):
    """A model of pictures of Hugging Face's transformers."""

    def __init__(self, name: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        network, known = AutoModel.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
        network = getattr(network, "vision_model", network)  # of CLIP and the like
        size = getattr(known, "crop_size", None) or known.size
        height = size.get("height") or size["shortest_edge"]
        width = size.get("width") or size["shortest_edge"]
        super().__init__(network, (width, height), known.image_mean, known.image_std)
        self.features = int(network.config.hidden_size)

    def pooled(self, pictures: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame feature"]:
        return _pooled(self.network(pixel_values=pictures))


class HuggingFaceSound:
    """A model of sound at 16 kHz of Hugging Face's transformers."""

    def __init__(self, name: str) -> None:
        from transformers import AutoFeatureExtractor, AutoModel

        self.network, self.prepare = AutoModel.from_pretrained(name).eval(), AutoFeatureExtractor.from_pretrained(name)
        if self.prepare.sampling_rate != RATE:
            raise ValueError(f"it reads {self.prepare.sampling_rate} samples of sound a second, not {RATE}")
        self.features = int(self.network.config.hidden_size)
        self.fingerprint = _fingerprint(self.network)

    def __call__(self, seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step feature"]:
        prepared = self.prepare(list(seconds.numpy()), sampling_rate=RATE, return_tensors="pt")
        return standardized(_pooled(self.network(**prepared)))


def standardized(features: Float[Tensor, "step feature"]) -> Float[Tensor, "step feature"]:
    """Each step's features with a mean of 0 and a deviation of 0.6."""
    return F.layer_norm(features, features.shape[1:]) * DEVIATION


def _pooled(output: Any) -> Float[Tensor, "step feature"]:
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if pooled is None:
        pooled = output.last_hidden_state.mean(1)  # (step, token, feature)
    return pooled.flatten(1)


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else b"")
    return digest.hexdigest()
