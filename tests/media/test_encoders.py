import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from counterpoint.data.features import FeatureSet
from counterpoint.data.records import dequantize
from counterpoint.errors import Error
from counterpoint.media import efficientnet, encoders, sound
from counterpoint.media import films as render
from counterpoint.media.decode import Video
from counterpoint.media.encoders import Encoded, Encoders, LitePicture, LiteSound
from counterpoint.media.sound import RATE
from counterpoint.media.workers import Source, encode_all


@pytest.fixture(scope="module")
def lite() -> Encoders:
    return encoders.build("lite")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    render.film(path, "Balls:Music", 0, seconds=10)
    return path


def plain(count: int) -> Iterator[NDArray[np.uint8]]:
    yield from [np.full((64, 64, 3), 90, np.uint8)] * count


# --- log-mel ----------------------------------------------------------------------------------------------------------


def test_log_mel_against_its_definition() -> None:
    """Another way to the same numbers: a discrete Fourier transform by sines, and each triangle by its corners."""
    samples = np.random.default_rng(0).normal(0, 0.1, RATE)
    found = sound.log_mel(torch.from_numpy(samples[None]).float())[0].numpy()
    assert found.shape == (98, 64)
    corners = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([125, 7500]) / 700)), 66) / 2595) - 1)
    times = np.arange(400)
    hann = np.sin(np.pi * times / 400) ** 2
    for frame in (0, 13, 97):
        windowed = samples[160 * frame : 160 * frame + 400] * hann
        for band in (0, 5, 30, 63):
            total = 0.0
            for k in range(1, 257):
                at = np.interp(2595 * np.log10(1 + k * RATE / 512 / 700), *_triangle(corners[band : band + 3]))
                total += at * abs((windowed * np.exp(-2j * np.pi * k * times / 512)).sum())
            assert found[frame, band] == pytest.approx(np.log(total + 0.01), abs=1e-4)


def _triangle(corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int]]:
    return 2595 * np.log10(1 + corners / 700), [0, 1, 0]


def test_a_tone_is_in_its_band() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)[None]
    band = int(sound.log_mel(tone)[0].mean(0).argmax())
    middle = np.linspace(*sound.mel(np.array([125.0, 7500.0])).tolist(), 66)[1:-1]
    assert band == int(np.abs(middle - sound.mel(np.array([1000.0]))).argmin())


def test_lite_sound() -> None:
    seconds = torch.randn(3, RATE) * 0.1
    features = LiteSound()(seconds)
    spectrogram = sound.log_mel(seconds).double().numpy()
    assert features.shape == (3, LiteSound.features)
    assert features[:, :64].numpy() == pytest.approx((spectrogram.mean(1) + 0.75) / 2, abs=1e-5)
    assert features[:, 64:].numpy() == pytest.approx((spectrogram.std(1, ddof=1) - 0.75) * 1.2, abs=1e-5)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_network_against_its_layers() -> None:
    """One block by the book: convolution, normalization and padding apart, as TensorFlow has them."""
    network = efficientnet.EfficientNetLite0.load(efficientnet.weights_file())
    stored = torch.load(efficientnet.weights_file(), weights_only=True)
    x = torch.rand(2, 32, 30, 30) * 4 - 2

    def normalized(y: torch.Tensor, name: str) -> torch.Tensor:
        part = {key: stored[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        return torch.nn.functional.batch_norm(y, **part, eps=1e-3)

    y = torch.nn.functional.conv2d(x, stored["_blocks.0._depthwise_conv.weight"], padding=1, groups=32)
    y = normalized(y, "_blocks.0._bn1").clamp(0, 6)
    y = normalized(torch.nn.functional.conv2d(y, stored["_blocks.0._project_conv.weight"]), "_blocks.0._bn2")
    with torch.inference_mode():
        torch.testing.assert_close(network.blocks[0](x), y, atol=1e-4, rtol=1e-4)
        frame = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
        padded = torch.nn.functional.pad((frame.permute(0, 3, 1, 2).float() - 127) / 128, (0, 1, 0, 1))
        stem = torch.nn.functional.conv2d(padded, stored["_conv_stem.weight"], stride=2)
        found = network.stem((frame.permute(0, 3, 1, 2).float() - 127) / 128)
        torch.testing.assert_close(found, normalized(stem, "_bn0").clamp(0, 6), atol=1e-4, rtol=1e-4)


def test_packed_weights_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's fused convolutions, where there are some, against PyTorch's plain ones, for frames of several shapes."""
    packed = efficientnet.EfficientNetLite0.load(efficientnet.weights_file())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = efficientnet.EfficientNetLite0.load(efficientnet.weights_file())
    assert plain.stem.packed is None
    with torch.inference_mode():
        for shape in ((1, 32, 96), (3, 160, 96)):
            frames = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
            torch.testing.assert_close(packed(frames), plain(frames), atol=1e-4, rtol=1e-4)
        with pytest.raises(ValueError, match="no multiples of 32"):
            plain(frames[:, 1:])


def test_the_network_recognizes_pictures(real_data: Path) -> None:
    """Its classifier, which is not part of it here, sees barbells (ImageNet's 422) where one lifts weights."""
    path = real_data / "media" / "v_GGSY1Qvo990.mp4"
    if not path.exists():
        pytest.skip(f"no {path}")
    lite = LitePicture()
    stored = torch.load(efficientnet.weights_file(), weights_only=True)
    with Video(path) as video:
        frames = torch.from_numpy(np.stack(list(video.frames(lite.size))))
    with torch.inference_mode():
        classes = (lite.network(frames) @ stored["_fc.weight"].T + stored["_fc.bias"]).argmax(1)
    assert (classes == 422).float().mean() > 0.8


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Error, match=r"other\.pth: not the weights of EfficientNet-Lite0"):
        efficientnet.EfficientNetLite0.load(tmp_path / "other.pth")


@pytest.mark.parametrize("shape", [(1920, 1080), (1080, 1920), (640, 480), (1000, 100), (10, 10)])
def test_pictures_keep_their_shape(shape: tuple[int, int], lite: Encoders) -> None:
    width, height = lite.picture.size(*shape)
    assert width % 32 == height % 32 == 0
    assert 0.8 < width * height / 224**2 < 1.2
    assert abs(np.log(width / height) - np.clip(np.log(shape[0] / shape[1]), -np.log(3), np.log(3))) < 0.12


def test_codes_lose_little(lite: Encoders, film: Path) -> None:
    """The cosine between a frame's features and what its codes say, offset apart, and the same for sound."""
    with Video(film) as video, torch.inference_mode():
        exact = {"video": lite.picture(torch.from_numpy(np.stack(list(video.frames(lite.picture.size)))))}
        exact["audio"] = lite.sound(torch.from_numpy(video.sound().seconds))
    coded = lite.encode(film, "film").clip.tracks
    for name, features in exact.items():
        one, other = features.numpy(), dequantize(coded[name])
        cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosine.min() > 0.998, name


# --- sets -------------------------------------------------------------------------------------------------------------


def test_a_clip(lite: Encoders, film: Path) -> None:
    clip, notes = lite.encode(film, "a/film")
    assert clip.id == "a/film"
    assert {name: (track.shape, track.dtype) for name, track in clip.tracks.items()} == {
        "video": ((10, 1280), np.uint8),
        "audio": ((10, 128), np.uint8),
    }
    assert clip.labels.tolist() == []
    assert notes == []


def test_what_is_missing(lite: Encoders, tmp_path: Path) -> None:
    silent = render.write(tmp_path / "silent.mp4", plain(30), None)
    assert set(lite.encode(silent, "silent").clip.tracks) == {"video"}
    only = render.write(tmp_path / "only.mp4", None, np.random.default_rng(0).normal(0, 0.1, 2 * render.RATE))
    assert set(lite.encode(only, "only").clip.tracks) == {"audio"}
    short = render.write(tmp_path / "short.mp4", plain(75), np.random.default_rng(0).normal(0, 0.1, render.RATE))
    clip = lite.encode(short, "short").clip
    assert (len(clip.tracks["video"]), len(clip.tracks["audio"])) == (3, 1)
    mute = lite.encode(render.write(tmp_path / "mute.mp4", plain(75), np.zeros(3 * render.RATE)), "mute")
    assert (set(mute.clip.tracks), mute.notes) == ({"video"}, ["no sound: its track is silent"])
    blink = render.write(tmp_path / "blink.wav", None, np.ones(int(0.3 * render.RATE)))
    with pytest.raises(Error, match="nothing in it can be decoded"):
        lite.encode(blink, "blink")


def test_a_model_of_silent_films_reads_films(lite: Encoders) -> None:
    silent = replace(lite.features, sizes={"video": lite.features.sizes["video"]})
    assert encoders.of(silent, "runs/x").features == lite.features
    with pytest.raises(Error, match="runs/x reads lite-0 features"):
        encoders.of(replace(silent, encoder="lite-0"), "runs/x")


def test_fingerprints(lite: Encoders) -> None:
    assert lite.features.encoder.startswith("lite-")
    assert lite.features == encoders.build("lite").features
    assert encoders.of(lite.features, "the model").features == lite.features
    stranger = FeatureSet(lite.features.sizes, "lite-00000000")
    with pytest.raises(Error, match=r"runs/a reads lite-00000000 features .*, not lite-"):
        encoders.of(stranger, "runs/a")
    with pytest.raises(Error, match=r"runs/a reads synthetic features \(video 8\), which are not made of video files"):
        encoders.of(FeatureSet({"video": 8}, "synthetic"), "runs/a")


# --- of one's own -----------------------------------------------------------------------------------------------------

OWN = """
import torch
from counterpoint.media.encoders import Encoders, LiteSound

class Grey:
    features, fingerprint = 3, "grey"
    def size(self, width, height):
        return 8, 8
    def __call__(self, frames):
        return frames.float().mean((1, 2)) / 128 - 1

def grey() -> Encoders:
    return Encoders("grey", Grey(), LiteSound())

def unpromised():
    raise AssertionError("must not be called")

BUILT = grey()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with encoders, outside the package."""
    (tmp_path / "own_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_encoders", raising=False)
    return "own_encoders"


@pytest.mark.parametrize("name", ["grey", "BUILT"])
def test_encoders_of_a_module(own: str, name: str, film: Path) -> None:
    """Its name comes back from features.json, and child processes import it."""
    made_by = encoders.build(f"{own}:{name}")
    assert made_by.features.sizes == {"audio": 128, "video": 3}
    assert made_by.features.encoder.startswith(f"{own}:{name}-")
    assert encoders.of(made_by.features, "the model").features == made_by.features
    ((_, result),) = encode_all([Source("film", film)], made_by.name, 1)
    assert isinstance(result, Encoded)
    assert np.array_equal(result.clip.tracks["video"], made_by.encode(film, "film").clip.tracks["video"])


def test_registered_encoders(monkeypatch: pytest.MonkeyPatch, lite: Encoders) -> None:
    monkeypatch.delitem(encoders._REGISTRY, "small", raising=False)
    encoders.register("small", lambda name: replace(lite, name=name))
    try:
        assert encoders.of(encoders.build("small").features, "the model").name == "small"
        with pytest.raises(Error, match=r"no encoders are called 'smal'; did you mean small\? There are lite, small"):
            encoders.build("smal")
    finally:
        del encoders._REGISTRY["small"]


def test_other_objects_of_a_module_are_no_encoders(own: str) -> None:
    for name in ("unpromised", "Grey", "torch"):
        with pytest.raises(Error, match="neither an Encoders nor a function annotated to return one"):
            encoders.build(f"{own}:{name}")
    for name in (f"{own}:none", "no_such_module:grey"):
        with pytest.raises(Error, match="cannot be imported"):
            encoders.build(name)
    with pytest.raises(Error, match=r"no encoders are called 'none'\. There are lite, youtube8m, any:IMAGE,AUDIO and"):
        encoders.build("none")
