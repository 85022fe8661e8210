"""Log-mel spectrograms as VGGish has them: what both sets of encoders hear.

25 ms periodic Hann windows every 10 ms, magnitudes of a 512-point FFT, 64 triangular bands evenly spaced in mel (HTK's
formula) from 125 to 7,500 Hz, and the logarithm of each band plus 0.01 (Hershey et al., https://arxiv.org/abs/1609.09430,
and the code published with AudioSet).
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from counterpoint.media.sound import RATE

BANDS = 64
LOWEST, HIGHEST = 125.0, 7500.0  # Hz
WINDOW, HOP, POINTS = 400, 160, 512  # samples
OFFSET = 0.01
FRAMES = (RATE - WINDOW) // HOP + 1
"""Windows that lie within a second."""


def mel(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hz -> mel."""
    return np.asarray(1127.0 * np.log1p(frequencies / 700.0))


def bands() -> Float[Tensor, "frequency band"]:
    """What each frequency of the FFT adds to each band; the constant one adds nothing."""
    of_frequency = mel(np.linspace(0, RATE / 2, POINTS // 2 + 1))[:, None]
    lowest, highest = mel(np.array([LOWEST, HIGHEST])).tolist()
    edges = np.linspace(lowest, highest, BANDS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    up, down = (of_frequency - low) / (middle - low), (high - of_frequency) / (high - middle)
    weights = np.maximum(0, np.minimum(up, down))
    weights[0] = 0
    return torch.from_numpy(weights).float()


_BANDS = bands()
_HANN = torch.hann_window(WINDOW, periodic=True)


def log_mel(seconds: Float[Tensor, "step 16000"]) -> Float[Tensor, "step 98 64"]:
    """The spectrogram of each second by itself."""
    windows = seconds.unfold(-1, WINDOW, HOP) * _HANN
    return torch.log(torch.fft.rfft(windows, POINTS).abs() @ _BANDS + OFFSET)
