"""Models that are made here, small and untrained, and kept as their libraries keep them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.errors import Error
from counterpoint.media import encoders, pretrained
from counterpoint.media import films as render


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="the extra `any` is not installed")
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=16)).save_pretrained(folder / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    ast = transformers.ASTConfig(**small, max_length=104, num_mel_bins=32)
    transformers.ASTModel(ast).save_pretrained(folder / "ast")
    transformers.ASTFeatureExtractor(max_length=104, num_mel_bins=32).save_pretrained(folder / "ast")
    return folder


def test_hugging_face_models(models: Path, tmp_path: Path) -> None:
    name = f"any:hf/{models / 'vit'},hf/{models / 'ast'}"
    made_by = encoders.build(name)
    assert made_by.features.sizes == {"audio": 16, "video": 16}
    assert made_by.features.encoder.startswith(f"{name}-")
    assert encoders.of(made_by.features, "the model").features == made_by.features
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    film = render.write(tmp_path / "film.mp4", frames, random.normal(0, 0.1, 3 * render.RATE), fps=10)
    clip, _ = made_by.encode(film, "film")
    assert {name: track.shape for name, track in clip.tracks.items()} == {"video": (3, 16), "audio": (3, 16)}


def test_timm_models(models: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=3)
    timm.models.save_for_hf(network, tmp_path / "resnet")
    picture = pretrained.TimmPicture(f"local-dir:{tmp_path / 'resnet'}")
    assert picture.features == 512
    frames = torch.randint(0, 256, (2, *picture.size(640, 480)[::-1], 3), dtype=torch.uint8)
    with torch.inference_mode():
        found = picture(frames)
        mean = torch.tensor(network.pretrained_cfg["mean"])
        deviation = torch.tensor(network.pretrained_cfg["std"])
        pictures = ((frames / 255 - mean) / deviation).permute(0, 3, 1, 2)
        expected = network.eval().forward_features(pictures).mean((2, 3))
    expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, correction=0, keepdim=True) * 0.6
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_standardized() -> None:
    found = pretrained.standardized(torch.randn(4, 100) * 7 + 3)
    assert found.mean(1).numpy() == pytest.approx(np.zeros(4), abs=1e-5)
    assert found.std(1, correction=0).numpy() == pytest.approx(np.full(4, 0.6), abs=1e-4)


@pytest.mark.parametrize("name", ["any:", "any:timm/a", "any:timm/a,timm/b", "any:resnet,hf/b", "any:hf/,hf/b"])
def test_names(name: str) -> None:
    with pytest.raises(Error, match="not any:IMAGE,AUDIO, where"):
        encoders.build(name)


def test_models_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"^any:hf/.*(cannot|not|extra)"):
        encoders.build(f"any:hf/{tmp_path / 'none'},hf/{tmp_path / 'none'}")
