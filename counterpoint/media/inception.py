"""Inception as TensorFlow published it on 2015-12-05: frames -> the 2,048 features of its last pool.

Szegedy et al., https://arxiv.org/abs/1512.00567. The layers are named as in the port of the published graph's weights
to PyTorch that the tools for the Frechet inception distance use. It differs from other Inceptions of that design: pools
do not count what lies outside the picture, and the last block pools by the maximum.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

FEATURES = 2048
SIDE = 299
Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]  # name, channels out, kernel
Path = Sequence[Layer | list[Layer]]  # one after the other; a list at the end: side by side


class Convolution(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Several paths and a pool side by side.

    Args:
        pool: channels to which the pool's are mapped; 0 leaves them, and then the block halves the picture.
        maximum: pool by the maximum.
    """

    def __init__(self, inputs: int, paths: Sequence[Path], pool: int, maximum: bool = False) -> None:
        super().__init__()
        self.paths = [[[layer] if isinstance(layer, tuple) else layer for layer in path] for path in paths]
        self.maximum = maximum or not pool
        self.stride = 1 if pool else 2
        self.outputs = pool or inputs
        for path in self.paths:
            channels = inputs
            for number, layers in enumerate(path):
                last = number == len(path) - 1
                for name, outputs, kernel in layers:
                    halves = last and not pool
                    layer = Convolution(channels, outputs, kernel, self.stride if last else 1, padded=not halves)
                    self.add_module(name, layer)
                channels = layers[0][1]
            self.outputs += sum(outputs for _, outputs, _ in path[-1])
        self.branch_pool = Convolution(inputs, pool, 1) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for path in self.paths:
            y = x
            for layers in path:
                side_by_side = [self.get_submodule(name)(y) for name, _, _ in layers]
                y = side_by_side[0] if len(layers) == 1 else torch.cat(side_by_side, 1)
            results.append(y)
        if self.maximum:
            pooled = F.max_pool2d(x, 3, self.stride, padding=1 if self.stride == 1 else 0)
        else:
            pooled = F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
        return torch.cat([*results, pooled if self.branch_pool is None else self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """The network up to its last pool. With ``thin`` every layer has so many times fewer channels."""

    def __init__(self, thin: int = 1) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32 // thin, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = Convolution(32 // thin, 32 // thin, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32 // thin, 64 // thin, 3)
        self.Conv2d_3b_1x1 = Convolution(64 // thin, 80 // thin, 1)
        self.Conv2d_4a_3x3 = Convolution(80 // thin, 192 // thin, 3, padded=False)
        blocks: dict[str, tuple[list[Path], int]] = {
            "Mixed_5b": (_narrow(), 32),
            "Mixed_5c": (_narrow(), 64),
            "Mixed_5d": (_narrow(), 64),
            "Mixed_6a": ([[("branch3x3", 384, 3)], _double(64, 96)], 0),
            "Mixed_6b": (_long(128), 192),
            "Mixed_6c": (_long(160), 192),
            "Mixed_6d": (_long(160), 192),
            "Mixed_6e": (_long(192), 192),
            "Mixed_7a": (_halving(), 0),
            "Mixed_7b": (_wide(), 192),
            "Mixed_7c": (_wide(), 192),
        }
        channels = 192 // thin
        for name, (paths, pool) in blocks.items():
            thinner = [[_thinned(layers, thin) for layers in path] for path in paths]
            block = Mixed(channels, thinner, pool // thin, maximum=name == "Mixed_7c")
            self.add_module(name, block)
            channels = block.outputs
        self.blocks = list(blocks)
        self.features = channels

    def forward(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame feature"]:
        x = (resized(frames.permute(0, 3, 1, 2).float(), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def resized(pictures: Float[Tensor, "frame channel height width"], side: int) -> Float[Tensor, "frame channel s s"]:
    """Bilinear as in TensorFlow at the time: output pixel i is at i times the scale, and nothing is averaged."""
    for axis in (2, 3):
        size = pictures.shape[axis]
        place = torch.arange(side) * (size / side)
        low = place.long()
        high = (low + 1).clamp(max=size - 1)
        share = (place - low).reshape([-1, 1] if axis == 2 else [-1])
        pictures = pictures.index_select(axis, low) * (1 - share) + pictures.index_select(axis, high) * share
    return pictures


def _thinned(layers: Layer | list[Layer], thin: int) -> Layer | list[Layer]:
    if isinstance(layers, list):
        return [(name, outputs // thin, kernel) for name, outputs, kernel in layers]
    name, outputs, kernel = layers
    return name, outputs // thin, kernel


def _double(first: int, then: int) -> Path:
    return [("branch3x3dbl_1", first, 1), ("branch3x3dbl_2", then, 3), ("branch3x3dbl_3", then, 3)]


def _narrow() -> list[Path]:
    return [[("branch1x1", 64, 1)], [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)], _double(64, 96)]


def _long(inner: int) -> list[Path]:
    across, down = (1, 7), (7, 1)
    double: list[Layer] = [("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, down)]
    double += [("branch7x7dbl_3", inner, across), ("branch7x7dbl_4", inner, down), ("branch7x7dbl_5", 192, across)]
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", inner, 1), ("branch7x7_2", inner, across), ("branch7x7_3", 192, down)],
        double,
    ]


def _halving() -> list[Path]:
    middle: list[Layer] = [("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))]
    return [
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
        [("branch7x7x3_1", 192, 1), *middle, ("branch7x7x3_4", 192, 3)],
    ]


def _wide() -> list[Path]:
    single: list[Layer] = [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))]
    double: list[Layer] = [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))]
    return [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), single],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), double],
    ]
