"""MAGVIT-v2: the release's names and sizes, codes by hand, gradients that pass the signs; test/parity has numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2, Magvit2Config, Quantizer, normalized, pixels

TINY = Magvit2Config(
    channels=8, multipliers=(1, 2), encoder_blocks=(1, 1), decoder_blocks=(1, 1), code_bits=4, groups=4, patch=2
)


@pytest.fixture
def tiny() -> Magvit2:
    torch.manual_seed(0)
    return Magvit2(TINY).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_release_has_the_published_tensors() -> None:
    with torch.device("meta"):
        release = Magvit2(MAGVIT2_SIZES["magvit2-release"])
    shapes = {name: tuple(tensor.shape) for name, tensor in release.state_dict().items()}
    assert len(shapes) == 382
    assert sum(parameter.numel() for parameter in release.parameters()) == 95_387_004
    assert shapes["encoder.down.3.block.0.nin_shortcut.weight"] == (512, 256, 1, 1)
    assert shapes["decoder.up.4.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.conv_out.weight"] == (13, 512, 3, 3)
    assert shapes["quantize.embedding"] == (8192, 13)
    assert release.config.pixels_per_code == 16


def test_demo_is_small_and_has_an_8_by_8_grid() -> None:
    demo = Magvit2(MAGVIT2_SIZES["magvit2-demo"]).eval()
    assert sum(parameter.numel() for parameter in demo.parameters()) < 2_000_000
    with torch.inference_mode():
        codes = demo.encode(images(2, 3, 128, 128))
        assert codes.shape == (2, 64) and codes.dtype == torch.int64
        assert codes.min() >= 0 and codes.max() < demo.config.codes == 1024
        assert demo.decode(codes).shape == (2, 3, 128, 128)


def test_first_number_is_the_most_significant_bit() -> None:
    latent = torch.tensor([[0.1, -3.0, 2.0, -0.1], [-1.0, -1.0, -1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    assert Quantizer(4).codes(latent[:, :, None, None]).flatten().tolist() == [0b1010, 0b0001, 0b0111]


def test_codewords_are_the_signs_of_every_code() -> None:
    quantizer = Quantizer(10)
    codes = torch.arange(1024).reshape(2, 16, 32)
    words = quantizer.codewords(codes)
    assert words.shape == (2, 10, 16, 32) and torch.equal(words.abs(), torch.ones_like(words))
    assert torch.equal(quantizer.codes(words * 0.01), codes)


def test_codes_run_row_by_row_over_an_oblong_image(tiny: Magvit2) -> None:
    picture = images(1, 3, 8, 16)
    with torch.inference_mode():
        bits = tiny.latent(picture)[0] > 0  # (4, 2, 4)
        codes = tiny.encode(picture)[0]
        expected = [[sum(int(bits[k, y, x]) << (3 - k) for k in range(4)) for x in range(4)] for y in range(2)]
        assert codes.tolist() == [code for row in expected for code in row]
        assert tiny.decode(codes[None], grid=(2, 4)).shape == (1, 3, 8, 16)


def test_training_rebuilds_what_the_codes_keep(tiny: Magvit2) -> None:
    picture = images(2, 3, 16, 16)
    with torch.inference_mode():
        rebuilt, _ = tiny(picture)
        torch.testing.assert_close(rebuilt, tiny.decode(tiny.encode(picture)))


def test_gradients_pass_the_signs_unchanged(tiny: Magvit2) -> None:
    tiny.decoder = nn.Identity()  # type: ignore[assignment]
    words, latent = tiny(images(1, 3, 8, 8))
    latent.retain_grad()
    weights = images(*words.shape)
    (words * weights).sum().backward()
    assert torch.equal(words.detach().abs(), torch.ones_like(words))
    torch.testing.assert_close(latent.grad, weights)
    assert all(parameter.grad is not None for parameter in tiny.encoder.parameters())


def test_bytes_come_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    there = normalized(every)
    assert there.shape == (1, 3, 16, 16) and (there.min(), there.max()) == (-1.0, 1.0)
    back = pixels(there)
    assert back.dtype == torch.uint8 and (back.int() - every.int()).abs().max() <= 1  # cut off, not rounded
    wild = pixels(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).reshape(1, 1, 1, 5))
    assert np.array_equal(wild.flatten(), [0, 0, 127, 255, 255])


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 18, 16), (1, 3, 0, 16)])
def test_images_that_do_not_fit_are_refused(tiny: Magvit2, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images are \(B, 3, H, W\), H and W multiples of 4, got") as refused:
        tiny.encode(torch.zeros(shape))
    assert str(shape) in str(refused.value)


def test_codes_that_fill_no_grid_are_refused(tiny: Magvit2) -> None:
    with pytest.raises(ValueError, match="8 codes do not fill a grid of 2 x 2"):
        tiny.decode(torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="8 codes do not fill a grid of 3 x 3"):
        tiny.decode(torch.zeros(1, 8, dtype=torch.int64), grid=(3, 3))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoder_blocks": (1,)}, "name the same levels"),
        ({"decoder_blocks": (1, 0)}, "block counts of 1 to 64"),
        ({"groups": 3}, "multiple of groups = 3"),
        ({"code_bits": 0}, "code_bits"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Magvit2Config.model_validate({**TINY.model_dump(), **change})
