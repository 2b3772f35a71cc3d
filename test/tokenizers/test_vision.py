"""The small encoder keeps cameras apart; CLIP's tower gives what transformers gives, or says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from vla_ros.policies.replaying import Replayed
from vla_ros.tokenizers.vision import (
    CLIP_MEAN,
    CLIP_STD,
    ClipVision,
    SmallVision,
    SmallVisionConfig,
    VisionEncoderError,
    clip_images,
)

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
CLIP = CLIPVisionConfig(**SIZES, image_size=56, patch_size=14)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def preprocessed(images: torch.Tensor, pixels: int) -> torch.Tensor:
    return clip_images(images, pixels, *(torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD)))


@pytest.fixture
def small() -> SmallVision:
    torch.manual_seed(0)
    return SmallVision(SmallVisionConfig())


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPVisionModel(CLIP).save_pretrained(folder)
    return folder


def test_small_gives_one_feature_for_16_by_16_pixels(small: SmallVision) -> None:
    features = small.encode(pictures(3, 2, 128, 128, 3))
    assert features.shape == (3, 2 * 64, 128)
    assert (small.width, small.features_per_camera) == (128, 64)
    assert sum(parameter.numel() for parameter in small.parameters()) < 1_000_000


def test_small_keeps_cameras_apart_and_in_order(small: SmallVision) -> None:
    images = pictures(1, 2, 128, 128, 3)
    other = images.clone()
    other[:, 1] = 255 - other[:, 1]
    features, changed = small.encode(images), small.encode(other)
    torch.testing.assert_close(features[:, :64], changed[:, :64])
    assert (features[:, 64:] - changed[:, 64:]).abs().max() > 0.1
    same = small.encode(images[:, :1].expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(same[0, 64:] - same[0, :64], small.positions[1] - small.positions[0])


def test_small_features_lie_as_the_image_does(small: SmallVision) -> None:
    images = pictures(1, 2, 128, 128, 3)
    other = images.clone()
    other[0, 0, 82:94, 18:30] = 255  # in the square of row 5 and column 1
    changed = (small.encode(images) - small.encode(other)).square().sum(-1)[0, :64].reshape(8, 8)
    y, x = divmod(int(changed.argmax()), 8)
    assert abs(y - 5) <= 1 and abs(x - 1) <= 1
    assert changed[3:, :4].sum() > 0.9 * changed.sum()


def test_small_learns_from_what_is_behind_it(small: SmallVision) -> None:
    small.encode(pictures(1, 2, 128, 128, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in small.parameters())


@pytest.mark.parametrize("shape", [(1, 1, 128, 128, 3), (1, 2, 96, 128, 3), (2, 128, 128, 3), (1, 2, 3, 128, 128)])
def test_small_refuses_other_images(small: SmallVision, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images are \(B, 2, 128, 128, 3\)"):
        small.encode(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8, got .* of float32"):
        small.encode(torch.zeros(1, 2, 128, 128, 3))


@pytest.mark.parametrize("shape", [(200, 300), (480, 640), (336, 336), (50, 40)])
def test_clip_sees_what_its_own_preprocessing_gives(shape: tuple[int, int]) -> None:
    noise = pictures(1, *shape, 3)  # the hardest case: every pixel another, clipped between rows and columns
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336)
    theirs = processor(Image.fromarray(noise[0].numpy()), return_tensors="pt")["pixel_values"]
    ours = preprocessed(noise, 336)
    assert ours.shape == theirs.shape == (1, 3, 336, 336)
    assert (ours - theirs).abs().max() < 1.01 / 255 / 0.26  # one byte, as divided by the standard deviation
    assert np.isclose(ours, theirs, atol=1e-5).mean() > 0.98


def test_clip_gives_the_patches_of_the_last_layer_but_one(clip_folder: Path) -> None:
    encoder = ClipVision(clip_folder)
    assert (encoder.width, encoder.features_per_camera, encoder.pixels) == (32, 16, 56)
    images = pictures(2, 2, 56, 56, 3)
    features = encoder.encode(images)
    tower = CLIPVisionModel.from_pretrained(clip_folder).eval()
    with torch.inference_mode():
        expected = torch.cat(
            [tower(preprocessed(images[:, v], 56), output_hidden_states=True).hidden_states[-2][:, 1:] for v in (0, 1)],
            1,
        )
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, 32, 32) and not features.requires_grad


def test_clip_copies_nothing_from_the_host(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph cannot be captured of what does; nor is what it keeps for that a weight of the tower."""
    encoder, images = ClipVision(clip_folder), pictures(1, 1, 60, 80, 3)
    expected = encoder.encode(images)
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.delattr(torch, name)
    assert torch.equal(encoder.encode(images), expected)
    assert all(name.startswith("tower.") for name in encoder.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_clip_is_captured_as_a_graph(clip_folder: Path) -> None:
    encoder = ClipVision(clip_folder, device="cuda")
    seen = Replayed(lambda images: (encoder.encode(images),), torch.device("cuda"))
    for images in (pictures(1, 1, 60, 80, 3), 255 - pictures(1, 1, 60, 80, 3)):
        torch.testing.assert_close(seen(images.cuda())[0], encoder.encode(images))


def test_clip_is_frozen(clip_folder: Path) -> None:
    encoder = ClipVision(clip_folder)
    encoder.train()
    assert not encoder.tower.training and not any(p.requires_grad for p in encoder.parameters())
    assert ClipVision(clip_folder, dtype=torch.bfloat16).encode(pictures(1, 1, 60, 80, 3)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"images are \(B, V, H, W, 3\) of uint8"):
        encoder.encode(pictures(1, 60, 80, 3))


def test_clip_is_saved_as_it_is_read(clip_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = ClipVision(clip_folder)
    capfd.readouterr()
    encoder.save(tmp_path / "kept")
    assert capfd.readouterr() == ("", "")  # a command draws its own bar
    images = pictures(1, 1, 56, 56, 3)
    assert torch.equal(ClipVision(tmp_path / "kept").encode(images), encoder.encode(images))
    names = load_file(tmp_path / "kept" / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in names), "as published, which every transformers reads"


def test_clip_is_found_in_a_whole_clip(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = {**SIZES, "num_hidden_layers": 1, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=CLIP.to_dict(), projection_dim=16))
    whole.save_pretrained(tmp_path)
    capfd.readouterr()
    encoder = ClipVision(tmp_path)
    assert capfd.readouterr() == ("", "")  # nobody wants to hear of the text tower
    assert torch.equal(
        dict(encoder.named_parameters())[
            next(n for n, _ in encoder.named_parameters() if n.endswith("class_embedding"))
        ],
        whole.vision_model.embeddings.class_embedding,
    )


def test_folders_without_the_whole_tower_are_named(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VisionEncoderError, match=f"{tmp_path}/nowhere is not there"):
        ClipVision(tmp_path / "nowhere")
    with pytest.raises(VisionEncoderError, match=r"config.json and model.safetensors or pytorch_model.bin missing"):
        ClipVision(tmp_path)
    config = json.loads((clip_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    tensors = load_file(clip_folder / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VisionEncoderError, match="of a model of type 'siglip'"):
        ClipVision(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    gone = next(name for name in tensors if name.endswith("mlp.fc1.weight"))
    kept = {name: tensor for name, tensor in tensors.items() if name != gone}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VisionEncoderError, match=r"without 1 of the vision tower's weights, as .*fc1.weight"):
        ClipVision(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(VisionEncoderError, match="cannot be read"):
        ClipVision(tmp_path)
    with pytest.raises(VisionEncoderError, match="config.json is a file; CLIP's vision tower is a folder"):
        ClipVision(tmp_path / "config.json")


def test_an_empty_file_of_weights_is_told(clip_folder: Path, tmp_path: Path) -> None:
    """What torch raises for it has no words."""
    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(VisionEncoderError, match="cannot be read: EOFError"):
        ClipVision(tmp_path)
