"""MAGVIT-v2: an image into a grid of binary codes and back (Yu et al. 2024), with the names of its release.

Shapes: B batch, H W image, h w grid, C channels, N = h * w codes in row-major order, K bits of a code.
Parameters are called as in `showlab/magvitv2`, so that its weights load as they are: 382 tensors, 95.4 M parameters.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vla_ros.values import Config

_EPSILON: Final = 1e-6  # of every group normalisation


class Magvit2Config(Config):
    """Sizes of the encoder and the decoder; the defaults are the release's.

    Level l has `channels * multipliers[l]` channels; each level but the first halves the resolution. The decoder's
    blocks are counted as its names are: `decoder_blocks[0]` stands at full resolution and comes last.
    """

    channels: int = Field(default=128, gt=0, le=16_384)
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    code_bits: int = Field(default=13, gt=0, le=20)
    groups: int = Field(default=32, gt=0, le=16_384)  # of the group normalisation
    patch: int = Field(default=1, gt=0, le=256)  # side of the square of pixels that is one position of level 0

    @model_validator(mode="after")
    def _levels_agree(self) -> Magvit2Config:
        counts = [len(self.multipliers), len(self.encoder_blocks), len(self.decoder_blocks)]
        if len(set(counts)) != 1 or not self.multipliers:
            raise ValueError(
                f"multipliers, encoder_blocks and decoder_blocks name the same levels, got {counts} of them"
            )
        counts = [*self.multipliers, *self.encoder_blocks, *self.decoder_blocks]
        if not all(1 <= count <= 64 for count in counts) or len(self.multipliers) > 16:
            raise ValueError(
                f"there are at most 16 levels, each with a multiplier and block counts of 1 to 64: {counts}"
            )
        uneven = [w for w in (self.channels * m for m in self.multipliers) if w % self.groups]
        if uneven:
            raise ValueError(f"every level's channels are a multiple of groups = {self.groups}, got {uneven}")
        return self

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return 1 << self.code_bits

    @property
    def pixels_per_code(self) -> int:
        """Side of the square of pixels that one code stands for."""
        return int(self.patch << (len(self.multipliers) - 1))


MAGVIT2_SIZES: Final = {
    "magvit2-release": Magvit2Config(),
    "magvit2-demo": Magvit2Config(
        channels=48,
        multipliers=(1, 2, 2),
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1, 1),
        code_bits=10,
        groups=16,
        patch=4,
    ),
}


class Magvit2(nn.Module):
    """Encoder, lookup-free quantiser and decoder.

    The sign of each of a position's K numbers is one bit of its code, the first number's the most significant.
    """

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.code_bits)

    def latent(self, images_B3HW: Tensor) -> Tensor:
        """Images in [-1, 1] -> (B, K, h, w), whose signs are the codes' bits.

        Raises:
            ValueError: the images are not (B, 3, H, W), H and W multiples of `config.pixels_per_code`.
        """
        side = self.config.pixels_per_code
        shape = tuple(images_B3HW.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] % side or shape[3] % side or not shape[2] * shape[3]:
            raise ValueError(f"images are (B, 3, H, W), H and W multiples of {side}, got {shape}")
        latent_BKhw: Tensor = self.encoder(images_B3HW.to(self.encoder.conv_in.weight.dtype))
        return latent_BKhw

    def encode(self, images_B3HW: Tensor) -> Tensor:
        """Images in [-1, 1] -> codes (B, N) int64; raises ValueError as `latent`."""
        return self.quantize.codes(self.latent(images_B3HW)).flatten(1)

    def decode(self, codes_BN: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Codes -> images (B, 3, H, W), about in [-1, 1]. `grid`: (h, w); None: a square one.

        Raises:
            ValueError: the codes do not fill the grid. A code outside 0 .. codes - 1 is the caller's to avoid.
        """
        count = codes_BN.shape[1]
        height, width = grid or (math.isqrt(count), math.isqrt(count))
        if height * width != count:
            raise ValueError(f"{count} codes do not fill a grid of {height} x {width}; give the grid's (height, width)")
        images_B3HW: Tensor = self.decoder(self.quantize.codewords(codes_BN.view(-1, height, width)))
        return images_B3HW

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """For training: (reconstruction (B, 3, H, W), latent (B, K, h, w)); gradients pass the sign unchanged."""
        latent_BKhw = self.latent(images_B3HW)
        signs_BKhw = torch.where(latent_BKhw > 0, 1.0, -1.0).to(latent_BKhw.dtype)
        return self.decoder(latent_BKhw + (signs_BKhw - latent_BKhw).detach()), latent_BKhw


def normalized(pixels_BHW3: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 rgb -> images (B, 3, H, W) in [-1, 1]."""
    return ((pixels_BHW3.permute(0, 3, 1, 2) / 255) - 0.5) / 0.5


def pixels(decoded_B3HW: Tensor) -> Tensor:
    """Decoded images -> (B, H, W, 3) uint8, clamped and cut off as the release does."""
    return ((decoded_B3HW.float() + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8).permute(0, 2, 3, 1)


class Quantizer(nn.Module):
    """Codes of signs, and signs of codes; its tables follow from the number of bits, and are kept as in the release."""

    embedding: Tensor  # (codes, K) of -1 and 1
    power_vals: Tensor  # (K,) int64, 2^(K-1) .. 1

    def __init__(self, code_bits: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # even where the network itself is only an outline, on `meta`: these are known
            powers_K = 2 ** torch.arange(code_bits - 1, -1, -1)
            bits_CK = (torch.arange(1 << code_bits)[:, None] & powers_K) > 0
        self.register_buffer("embedding", bits_CK.float() * 2 - 1)
        self.register_buffer("power_vals", powers_K)

    def codes(self, latent_BKhw: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, h, w) int64."""
        return ((latent_BKhw > 0) * self.power_vals[:, None, None]).sum(1)

    def codewords(self, codes_Bhw: Tensor) -> Tensor:
        """(B, h, w) -> (B, K, h, w) of -1 and 1."""
        return self.embedding[codes_Bhw].movedim(-1, 1)


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latent (B, K, h, w)."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in (1, *config.multipliers)]
        self.patch = config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Level(widths[level], widths[level + 1], blocks, config.groups)
            for level, blocks in enumerate(config.encoder_blocks)
        )
        for level, width in zip(self.down[:-1], widths[1:], strict=False):
            level.add_module("downsample", Downsample(width))
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], _EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], config.code_bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.code_bits, config.code_bits, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Images in [-1, 1] -> latent."""
        x_BCHW = self.conv_in(functional.pixel_unshuffle(images_B3HW, self.patch))
        for level in self.down:
            x_BCHW = level(x_BCHW)
        x_BChw = functional.silu(self.norm_out(self.mid(x_BCHW)))
        latent_BKhw: Tensor = self.quant_conv(self.conv_out(x_BChw))
        return latent_BKhw


class Decoder(nn.Module):
    """Codewords (B, K, h, w) -> images (B, 3, H, W); level l gives the width that the encoder's level l takes."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in (1, *config.multipliers)]
        self.patch = config.patch
        self.post_quant_conv = nn.Conv2d(config.code_bits, config.code_bits, 1)
        self.conv_in = nn.Conv2d(config.code_bits, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        self.up = nn.ModuleList(
            Level(widths[level + 1], widths[level], blocks, config.groups)
            for level, blocks in enumerate(config.decoder_blocks)
        )
        for level, width in zip(self.up[1:], widths[1:], strict=False):
            level.add_module("upsample", Upsample(width))
        self.norm_out = nn.GroupNorm(config.groups, widths[0], _EPSILON)
        self.conv_out = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)

    def forward(self, codewords_BKhw: Tensor) -> Tensor:
        """Codewords of -1 and 1 -> images, about in [-1, 1]."""
        x_BCHW = self.mid(self.conv_in(self.post_quant_conv(codewords_BKhw)))
        for level in reversed(self.up):
            x_BCHW = level(x_BCHW)
        x_BCHW = self.conv_out(functional.silu(self.norm_out(x_BCHW)))
        return functional.pixel_shuffle(x_BCHW, self.patch)


class Level(nn.Module):
    """Residual blocks at one resolution, then the step to the next where there is one."""

    def __init__(self, width_in: int, width: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(width if n else width_in, width, groups) for n in range(blocks))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H', W')."""
        for module in (*self.block, *(m for name, m in self.named_children() if name != "block")):
            x_BCHW = module(x_BCHW)
        return x_BCHW


class Middle(nn.Module):
    """Block, attention over all positions, block; at the codes' resolution."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = Block(width, width, groups)
        self.attn_1 = Attention(width, groups)
        self.block_2 = Block(width, width, groups)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        out_BChw: Tensor = self.block_2(self.attn_1(self.block_1(x_BChw)))
        return out_BChw


class Block(nn.Module):
    """Two convolutions and what they are added to."""

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, _EPSILON)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, _EPSILON)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if width_in != width:
            self.nin_shortcut = nn.Conv2d(width_in, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H, W)."""
        h_BCHW = self.conv1(functional.silu(self.norm1(x_BCHW)))
        h_BCHW = self.conv2(functional.silu(self.norm2(h_BCHW)))
        sum_BCHW: Tensor = h_BCHW + (self.nin_shortcut(x_BCHW) if hasattr(self, "nin_shortcut") else x_BCHW)
        return sum_BCHW


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, _EPSILON)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        h_BChw = self.norm(x_BChw)
        q_BNC, k_BNC, v_BNC = (part(h_BChw).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen_BNC = functional.scaled_dot_product_attention(q_BNC[:, None], k_BNC[:, None], v_BNC[:, None])[:, 0]
        seen_BChw: Tensor = self.proj_out(seen_BNC.transpose(1, 2).reshape(x_BChw.shape))
        return x_BChw + seen_BChw


class Downsample(nn.Module):
    """Half the resolution; padded below and on the right only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        half_BChw: Tensor = self.conv(functional.pad(x_BCHW, (0, 1, 0, 1)))
        return half_BChw


class Upsample(nn.Module):
    """Twice the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        double_BCHW: Tensor = self.conv(functional.interpolate(x_BChw, scale_factor=2.0, mode="nearest"))
        return double_BCHW
