"""Decoded sound -> seconds of it at 16 kHz, each sample at its time, and their log-mel spectrograms.

The spectrograms are VGGish's: 25 ms periodic Hann windows every 10 ms, magnitudes of a 512-point FFT, 64 triangular
bands evenly spaced in mel (HTK's formula) from 125 to 7,500 Hz, and the logarithm of each band plus 0.01 (Hershey et
al., https://arxiv.org/abs/1609.09430, and the code published with AudioSet).
"""

import math
from typing import Any, NamedTuple

import av
import numpy as np
import soxr
import torch
from jaxtyping import Bool, Float, Float32
from numpy.typing import NDArray
from torch import Tensor

RATE = 16_000
"""Samples of sound in a second."""
SILENT = 1e-4  # the loudest sample of a track that holds nothing
OPPOSED = 0.01  # of the channels' power, which their mean keeps where they are of opposite phase
# By ITU-R BS.775, table 2: what each channel adds where there are more than two. The bass effects are left out.
DOWNMIX = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0, "LFE": 0.0}
SURROUND = 0.5
JITTER = 0.1  # seconds by which sound may be early or late without a gap or an overlap
INTEGERS = {"u1": (128, 128), "i2": (0, 2**15), "i4": (0, 2**31)}  # samples: (zero, largest)


class Sound(NamedTuple):
    """Samples in [-1, 1] by second, zero where there are none, and whether half or more of each second has sound."""

    seconds: Float32[np.ndarray, "step 16000"]
    present: Bool[np.ndarray, "step"]


class SoundDecoder:
    """Sound as it is decoded -> mono at 16 kHz, each sample at its time."""

    def __init__(self, seconds: int) -> None:
        self.limit = seconds
        self.position = 0.0  # seconds that have been taken in
        self.coverage = np.zeros(seconds)  # of each second, the part that has sound
        self.samples = np.zeros(0, np.float32)  # grows as it is written to
        self.written = 0
        self.resampler: soxr.ResampleStream | None = None
        self.rate = 0
        self.waiting: list[NDArray[np.float32]] = []  # to be resampled a second at a time: a frame costs as much
        self.loudest = 0.0
        self.frames = self.opposed = 0

    def add(self, time: float, frame: av.AudioFrame) -> bool:
        """Take in a frame that begins at ``time`` (NaN: where the last one ended); True when no more is needed."""
        samples, opposed = _mono(frame)
        self.frames += 1
        self.opposed += opposed
        self.loudest = max(self.loudest, float(np.abs(samples).max(initial=0.0)))
        rate = frame.sample_rate
        if rate != self.rate:
            self._finish()
            self.resampler, self.rate = soxr.ResampleStream(rate, RATE, 1, "float32"), rate
        gap = 0.0 if math.isnan(time) else time - self.position
        if gap < 0 and (self.position == 0 or gap < -JITTER):
            samples = samples[round(-gap * rate) :]  # before the picture begins, or there already
        elif gap > (0 if self.position == 0 else JITTER):
            self._resample(np.zeros(round(min(gap, self.limit - self.position) * rate), np.float32))
        samples = samples[: max(0, round((self.limit - self.position) * rate))]
        begin = self.position
        self._resample(samples)
        for second in range(int(begin), min(self.limit, math.ceil(self.position))):
            self.coverage[second] += min(self.position, second + 1) - max(begin, second)
        return self.position >= self.limit - 0.5 / rate

    @property
    def present(self) -> Bool[np.ndarray, "second"]:
        """Whether half or more of each second has sound; nowhere in a silent track."""
        return np.asarray((self.coverage >= 0.5) & (not self.silent))

    @property
    def silent(self) -> bool:
        """Whether there are samples, and nothing in them."""
        return self.frames > 0 and self.loudest < SILENT

    @property
    def notes(self) -> list[str]:
        """What was done to the sound."""
        opposed = self.opposed > self.frames / 2
        return ["its channels cancel each other (opposite phase): one of them was taken"] if opposed else []

    def sound(self) -> Sound:
        """All of it, once."""
        self._finish()
        present = self.present
        steps = int(present.nonzero()[0].max(initial=-1)) + 1
        missing = steps * RATE - len(self.samples)  # of the last second, half of which is enough
        if missing > 0:
            self.samples = np.concatenate([self.samples, np.zeros(missing, np.float32)])
        return Sound(self.samples[: steps * RATE].reshape(steps, RATE), present[:steps])

    def _resample(self, samples: NDArray[np.float32]) -> None:
        assert self.resampler is not None
        if len(samples):
            self.waiting.append(samples)
            self.position += len(samples) / self.rate
            if sum(map(len, self.waiting)) >= self.rate:
                self._flush(last=False)

    def _finish(self) -> None:
        if self.resampler is not None:
            self._flush(last=True)
            self.resampler = None

    def _flush(self, last: bool) -> None:
        assert self.resampler is not None
        chunk = self.resampler.resample_chunk(np.concatenate([np.zeros(0, np.float32), *self.waiting]), last=last)
        self.waiting = []
        chunk = chunk[: self.limit * RATE - self.written]
        end = self.written + len(chunk)
        if end > len(self.samples):
            room = min(max(end, 2 * len(self.samples)), self.limit * RATE)
            self.samples = np.concatenate([self.samples, np.zeros(room - len(self.samples), np.float32)])
        self.samples[self.written : end] = np.nan_to_num(chunk).clip(-1, 1)
        self.written = end


def _mono(frame: av.AudioFrame) -> tuple[NDArray[np.float32], bool]:
    """One channel of all, in [-1, 1], and whether that is a single one of them, since they cancel each other.

    It is the mean of two; of more, what a standard downmix gives; of channels without names, their mean.
    """
    samples: Any = frame.to_ndarray()  # (channel, sample), or (1, samples of all channels in turn)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    zero, largest = INTEGERS.get(samples.dtype.str[1:], (0, 1))
    names = [channel.name for channel in frame.layout.channels]
    if len(names) > 2 and "FC" in names:
        weights = np.array([DOWNMIX.get(name, SURROUND) for name in names], np.float32)
        mixed = np.einsum("c,cs->s", weights, samples.astype(np.float32) - np.float32(zero))
        return np.clip(mixed / np.float32(largest), -1, 1), False
    mean: NDArray[np.float32] = samples.mean(0, dtype=np.float32)
    opposed = False
    if len(samples) == 2:
        apart = samples.astype(np.float32) - np.float32(zero)
        power = np.square(apart).mean(1)
        opposed = bool(np.square(mean - np.float32(zero)).mean() < OPPOSED * power.mean())
        mean = apart[power.argmax()] + np.float32(zero) if opposed else mean
    return mean if largest == 1 else (mean - np.float32(zero)) / np.float32(largest), opposed


# --- log-mel spectrograms ---------------------------------------------------------------------------------------------

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
