"""Networks of the real layout, many times thinner, and the arithmetic by other formulas."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counterpoint.data.features import YOUTUBE8M_SIZES, FeatureSet
from counterpoint.errors import Error
from counterpoint.media import encoders, inception, weights, youtube8m
from counterpoint.media import films as render
from counterpoint.media.encoders import Encoders
from counterpoint.media.sound import RATE
from counterpoint.media.youtube8m import Components, VGGish, YouTubePicture, YouTubeSound

THIN = 16


@pytest.fixture(scope="module")
def network() -> inception.Inception:
    """With running means and variances that are not those of a fresh network."""
    torch.manual_seed(0)
    thin = inception.Inception(THIN)
    for name, buffer in thin.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return thin.eval()


def test_the_layout_is_the_published_one() -> None:
    """Names, shapes and number of parameters of the port; the number is also Keras's, with its missing gammas."""
    with torch.device("meta"):
        full = inception.Inception()
    shapes = {name: tuple(value.shape) for name, value in full.state_dict().items()}
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.bn.bias": (192,),
    }.items():
        assert shapes[name] == shape
    assert full.features == 2048
    assert sum(parameter.numel() for parameter in full.parameters()) == 21_785_568
    with torch.device("meta"):
        sound = VGGish()
    shapes = {name: tuple(value.shape) for name, value in sound.state_dict().items()}
    assert shapes["features.0.weight"] == (64, 1, 3, 3)
    assert shapes["features.13.weight"] == (512, 512, 3, 3)
    assert shapes["embeddings.0.weight"] == (4096, 12288)
    assert shapes["embeddings.4.weight"] == (128, 4096)


def test_blocks_by_the_book(network: inception.Inception) -> None:
    state = network.state_dict()

    def layer(x: Tensor, name: str, padding: tuple[int, int] = (0, 0), stride: int = 1) -> Tensor:
        y = F.conv2d(x, state[f"{name}.conv.weight"], padding=padding, stride=stride)
        mean, variance, gamma, beta = (
            state[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((y - mean) / (variance + 0.001).sqrt() * gamma + beta).clamp_min(0)

    def check(name: str, *expected: Tensor) -> None:
        torch.testing.assert_close(network.get_submodule(name)(x), torch.cat(expected, 1), atol=1e-4, rtol=1e-4)

    with torch.inference_mode():
        x = torch.rand(2, 192 // THIN, 9, 9)
        inside = F.avg_pool2d(torch.ones(1, 1, 9, 9), 3, 1, 1) * 9  # how many pixels of each window are in the picture
        mean = F.avg_pool2d(x, 3, 1, 1) * 9 / inside
        double = layer(layer(x, "Mixed_5b.branch3x3dbl_1"), "Mixed_5b.branch3x3dbl_2", (1, 1))
        double = layer(double, "Mixed_5b.branch3x3dbl_3", (1, 1))
        five = layer(layer(x, "Mixed_5b.branch5x5_1"), "Mixed_5b.branch5x5_2", (2, 2))
        check("Mixed_5b", layer(x, "Mixed_5b.branch1x1"), five, double, layer(mean, "Mixed_5b.branch_pool"))
        x = torch.rand(2, 288 // THIN, 9, 9)
        double = layer(layer(x, "Mixed_6a.branch3x3dbl_1"), "Mixed_6a.branch3x3dbl_2", (1, 1))
        double = layer(double, "Mixed_6a.branch3x3dbl_3", stride=2)
        check("Mixed_6a", layer(x, "Mixed_6a.branch3x3", stride=2), double, F.max_pool2d(x, 3, 2))
        x = torch.rand(2, 2048 // THIN, 5, 5)
        single = layer(x, "Mixed_7c.branch3x3_1")
        double = layer(layer(x, "Mixed_7c.branch3x3dbl_1"), "Mixed_7c.branch3x3dbl_2", (1, 1))
        check(
            "Mixed_7c",
            layer(x, "Mixed_7c.branch1x1"),
            layer(single, "Mixed_7c.branch3x3_2a", (0, 1)),
            layer(single, "Mixed_7c.branch3x3_2b", (1, 0)),
            layer(double, "Mixed_7c.branch3x3dbl_3a", (0, 1)),
            layer(double, "Mixed_7c.branch3x3dbl_3b", (1, 0)),
            layer(F.max_pool2d(x, 3, 1, 1), "Mixed_7c.branch_pool"),
        )


def test_pictures_are_scaled_as_tensorflow_did() -> None:
    """By the definition, pixel by pixel, up and down."""
    picture = np.random.default_rng(0).random((1, 1, 5, 8)).astype(np.float32)
    found = inception.resized(torch.from_numpy(picture), 6)[0, 0].numpy()
    for row in range(6):
        for column in range(6):
            y, x = row * 5 / 6, column * 8 / 6
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 4), min(left + 1, 7)
            upper = picture[0, 0, top, left] * (1 - x + left) + picture[0, 0, top, right] * (x - left)
            lower = picture[0, 0, bottom, left] * (1 - x + left) + picture[0, 0, bottom, right] * (x - left)
            assert found[row, column] == pytest.approx(upper * (1 - y + top) + lower * (y - top), abs=1e-5)


def pca_file(path: Path, size: int) -> dict[str, np.ndarray]:
    """An archive of the published layout."""
    random = np.random.default_rng(1)
    arrays = {
        "mean.npy": random.normal(size=(size, 1)).astype(np.float32),
        "eigenvals.npy": np.sort(random.random((size, 1)).astype(np.float32), 0)[::-1],
        "eigenvecs.npy": random.normal(size=(size, size)).astype(np.float32),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            member = tarfile.TarInfo(name)
            member.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(member, buffer)
    return arrays


def test_picture_components(tmp_path: Path) -> None:
    """As the published extractor computes them."""
    arrays = pca_file(tmp_path / "pca.tgz", 32)
    x = np.random.default_rng(2).normal(size=(3, 32))
    projected = (x - arrays["mean.npy"][:, 0]) @ arrays["eigenvecs.npy"].T[:, :8]
    expected = projected / np.sqrt(arrays["eigenvals.npy"][:8, 0] + 1e-4)
    found = youtube8m.picture_components(tmp_path / "pca.tgz", 8)(torch.from_numpy(x).float())
    assert np.abs(found.numpy() - expected).max() < 1e-4


def test_sound_components(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    vectors, means = random.normal(size=(128, 128)), random.normal(size=(128, 1))
    stored = {"pca_eigen_vectors": torch.from_numpy(vectors), "pca_means": torch.from_numpy(means)}
    torch.save(stored, tmp_path / "pca.pth")
    x = random.normal(size=(3, 128))
    expected = (vectors @ (x.T - means)).T
    found = youtube8m.sound_components(tmp_path / "pca.pth")(torch.from_numpy(x).float())
    assert np.abs(found.numpy() - expected).max() < 1e-4


def test_vggish_does_not_cut_below_zero() -> None:
    torch.manual_seed(0)
    sound = VGGish(THIN).eval()
    with torch.inference_mode():
        seconds = torch.randn(2, RATE) * 0.1
        found = sound(seconds)
        assert found.shape == (2, 128)
        assert (found < 0).any()
        seconds[:, -200:] = 0  # what lies behind its 96 windows does not matter
        torch.testing.assert_close(sound(seconds), found)


@pytest.fixture
def thin(network: inception.Inception, tmp_path: Path) -> Encoders:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(1024, network.features, generator=random)
    picture = YouTubePicture(network, Components(torch.zeros(network.features), vectors, torch.ones(1024)))
    sound = YouTubeSound(VGGish(THIN), Components(torch.zeros(128), torch.eye(128), torch.ones(128)))
    return Encoders("youtube8m", picture, sound)


def test_features_are_youtube8m_s(thin: Encoders, tmp_path: Path) -> None:
    assert thin.features == FeatureSet(YOUTUBE8M_SIZES)
    assert thin.features.youtube8m
    assert thin.picture.size(1920, 1080) == (640, 360)
    assert thin.picture.size(320, 240) == (320, 240)
    frames = [np.full((48, 64, 3), 90, np.uint8)] * 20
    film = render.write(tmp_path / "film.mp4", frames, np.random.default_rng(0).normal(0, 0.1, 2 * render.RATE), fps=10)
    tracks = thin.encode(film, "film").clip.tracks
    assert {name: track.shape for name, track in tracks.items()} == {"video": (2, 1024), "audio": (2, 128)}


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    with pytest.raises(Error, match=r"pt_inception-.*, yt8m_pca.tgz, .* not there; `counterpoint weights"):
        encoders.build("youtube8m")
    for url in weights.URLS.values():
        (tmp_path / weights._name(url)).write_bytes(b"something else")
    with pytest.raises(Error, match=r"pt_inception-.*: not the weights that it should hold"):
        encoders.build("youtube8m")


@pytest.mark.slow
def test_weights_of_the_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    names = {part: tmp_path / weights._name(url) for part, url in weights.URLS.items()}
    torch.save({**inception.Inception().state_dict(), "fc.weight": torch.zeros(1008, 2048)}, names["inception"])
    torch.save(VGGish().state_dict(), names["vggish"])
    pca_file(names["inception-pca"], 2048)
    torch.save({"pca_eigen_vectors": torch.eye(128), "pca_means": torch.zeros(128, 1)}, names["vggish-pca"])
    assert encoders.build("youtube8m").features == FeatureSet(YOUTUBE8M_SIZES)
