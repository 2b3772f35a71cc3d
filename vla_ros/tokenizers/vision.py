"""Vision encoders: what cameras show, as features for the language model; CLIP's tower, or a small one trained here.

Shapes: B batch, V cameras, H W pixels, C channels, n features of a camera, S = V * n features of all, F width of one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vla_ros.values import Config

#: Mean and standard deviation of rgb in [0, 1] that CLIP was trained with (Radford et al. 2021, the released code).
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
#: Side of the square of pixels that one feature of the small encoder stands for.
PIXELS_PER_FEATURE: Final = 16
_PATCH: Final = 4  # pixels, across and down, that the small encoder begins with
_CLIP_PREFIX: Final = "vision_model."
_CLIP_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")


class VisionEncoderError(ValueError):
    """A vision encoder's folder that is not there, not whole, or another's; the text says what is missing."""


class VisionEncoder(Protocol):
    """Images of cameras into features, one camera's behind the other's."""

    @property
    def width(self) -> int:
        """F, numbers in a feature."""
        ...

    @property
    def features_per_camera(self) -> int:
        """n, row by row over the image."""
        ...

    def encode(self, images_BVHW3: Tensor) -> Tensor:
        """(B, V, H, W, 3) uint8 rgb -> features (B, S, F); raises ValueError for another shape or type."""
        ...


class SmallVisionConfig(Config):
    """Sizes of the small encoder; the defaults are those of `up-vla-demo`."""

    pixels: int = Field(default=128, gt=0, le=8192, multiple_of=PIXELS_PER_FEATURE)  # side of its images
    cameras: int = Field(default=2, gt=0, le=64)
    width: int = Field(default=128, gt=0, le=65_536, multiple_of=16)


class SmallVision(nn.Module):
    """Convolutions down to one feature for 16 x 16 pixels, and a learned position for every feature of every camera.

    Where things are matters here, so nothing is pooled, and positions are as large as what stands there: with small
    ones it takes tens of thousands of images to find out that features have a place. 0.9 million parameters.
    """

    def __init__(self, config: SmallVisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Conv2d(3 * _PATCH**2, width // 2, 3, padding=1)  # 4 x 4 pixels are one position
        self.stages = nn.Sequential(
            _Residual(width // 2),
            _Halving(width // 2, width), _Residual(width), _Residual(width),
            _Halving(width, width), _Residual(width), _Residual(width),
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        grid = config.pixels // PIXELS_PER_FEATURE
        with torch.device("cpu"):  # on `meta` a product of two tensors makes torch import its compiler, which takes 2 s
            positions = _waves(grid, width) + 0.5 * torch.randn(config.cameras, 1, width)
        self.positions = nn.Parameter(positions.to(self.stem.weight.device))

    @property
    def width(self) -> int:
        """See `VisionEncoder`."""
        return self.config.width

    @property
    def features_per_camera(self) -> int:
        """See `VisionEncoder`."""
        return (self.config.pixels // PIXELS_PER_FEATURE) ** 2

    def encode(self, images_BVHW3: Tensor) -> Tensor:
        """See `VisionEncoder`; gradients flow. The images are (B, cameras, pixels, pixels, 3)."""
        features_BSF: Tensor = self(images_BVHW3)
        return features_BSF

    def forward(self, images_BVHW3: Tensor) -> Tensor:
        """As `encode`, so that what wraps modules (compilation, data parallelism) finds it."""
        side = self.config.pixels
        _check(images_BVHW3, f"(B, {self.config.cameras}, {side}, {side}, 3)")
        if images_BVHW3.shape[1:] != (self.config.cameras, side, side, 3):
            raise ValueError(f"images are (B, {self.config.cameras}, {side}, {side}, 3), got {_said(images_BVHW3)}")
        pixels_XCHW = images_BVHW3.flatten(0, 1).permute(0, 3, 1, 2).to(self.stem.weight.dtype) / 127.5 - 1
        patches_XCHW = functional.pixel_unshuffle(pixels_XCHW, _PATCH).to(memory_format=torch.channels_last)
        x_XCHW = self.stages(self.stem(patches_XCHW))
        x_XnF = self.norm(x_XCHW.flatten(2).transpose(1, 2))
        x_BSF: Tensor = x_XnF.reshape(len(images_BVHW3), -1, self.width)
        return x_BSF + self.positions.flatten(0, 1)


class ClipVision(nn.Module):
    """CLIP's vision tower from a local folder, frozen: the patches of the last layer but one, as LLaVA takes them.

    Published UP-VLA uses openai/clip-vit-large-patch14-336: 576 features of 1024 numbers for each image.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises VisionEncoderError where the folder does not have the whole tower."""
        super().__init__()
        self.tower = _read_tower(folder, dtype).to(device).eval().requires_grad_(False)
        self.pixels: int = self.tower.config.image_size
        # Beside the tower, as a captured graph may copy nothing from the host.
        self.mean_311: Tensor
        self.std_311: Tensor
        for name, values in (("mean_311", CLIP_MEAN), ("std_311", CLIP_STD)):
            self.register_buffer(name, torch.tensor(values, device=device)[:, None, None], persistent=False)

    @property
    def width(self) -> int:
        """See `VisionEncoder`."""
        return int(self.tower.config.hidden_size)

    @property
    def features_per_camera(self) -> int:
        """See `VisionEncoder`."""
        return int((self.pixels // self.tower.config.patch_size) ** 2)

    @torch.no_grad()
    def encode(self, images_BVHW3: Tensor) -> Tensor:
        """See `VisionEncoder`; without gradients. The images may have any size."""
        _check(images_BVHW3, "(B, V, H, W, 3)")
        weight = next(self.tower.parameters())
        images_XHW3 = images_BVHW3.flatten(0, 1).to(weight.device)
        x_XCHW = clip_images(images_XHW3, self.pixels, self.mean_311, self.std_311).to(weight.dtype)
        layers = self.tower(x_XCHW, output_hidden_states=True).hidden_states
        patches_XnF: Tensor = layers[-2][:, 1:]  # the first is the class
        return patches_XnF.reshape(len(images_BVHW3), -1, self.width)

    def forward(self, images_BVHW3: Tensor) -> Tensor:
        """As `encode`."""
        return self.encode(images_BVHW3)

    def train(self, mode: bool = True) -> ClipVision:
        """Stays in eval mode: it is frozen."""
        return self

    def save(self, folder: Path) -> None:
        """Write the tower as transformers does, for `ClipVision(folder)`, under the names that CLIP is published with.

        Without them transformers 5 leaves out the first part of each, and older ones find no weight.
        """
        named = {
            f"{_CLIP_PREFIX}{name.removeprefix(_CLIP_PREFIX)}": each for name, each in self.tower.state_dict().items()
        }
        with _quiet():
            self.tower.save_pretrained(folder, state_dict=named)


def clip_images(images_BHW3: Tensor, pixels: int, mean_311: Tensor, std_311: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 rgb -> (B, 3, pixels, pixels): CLIP's own preprocessing, of a batch at a time.

    The shorter side becomes `pixels` (bicubic, antialiased, rounded to bytes), the middle is cut out, and mean and
    standard deviation (`CLIP_MEAN`, `CLIP_STD`) become 0 and 1.
    """
    images_B3HW = images_BHW3.permute(0, 3, 1, 2)
    height, width = images_B3HW.shape[2:]
    shorter = min(height, width)
    size = (pixels * height // shorter, pixels * width // shorter)
    if size != (height, width):
        for step in ((height, size[1]), size):  # rows, then columns, bytes in between: as Pillow does it
            images_B3HW = functional.interpolate(images_B3HW.float(), step, mode="bicubic", antialias=True)
            images_B3HW = images_B3HW.round().clamp(0, 255)
    top, left = ((side - pixels) // 2 for side in size)
    cut_B3HW = images_B3HW[:, :, top : top + pixels, left : left + pixels] / 255
    return (cut_B3HW - mean_311) / std_311


def _read_tower(folder: Path, dtype: torch.dtype) -> Any:
    """CLIPVisionModel of a folder, with every weight it needs; nothing is fetched."""
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "is not there"
        raise VisionEncoderError(f"{folder} {problem}; CLIP's vision tower is a folder with config.json and weights")
    missing = [] if (folder / "config.json").exists() else ["config.json"]
    if not any((folder / name).exists() for name in (*_CLIP_WEIGHTS, f"{_CLIP_WEIGHTS[0]}.index.json")):
        missing.append(" or ".join(_CLIP_WEIGHTS))
    if missing:
        raise VisionEncoderError(f"{folder} has no CLIP vision tower: {' and '.join(missing)} missing")
    kind = _model_type(folder / "config.json")
    if kind not in ("clip", "clip_vision_model"):
        raise VisionEncoderError(f"{folder} is of a model of type {kind!r}; CLIP's is 'clip' or 'clip_vision_model'")
    from transformers import CLIPVisionModel

    try:
        with _quiet():
            tower, loaded = CLIPVisionModel.from_pretrained(
                folder, local_files_only=True, dtype=dtype, output_loading_info=True
            )
    except Exception as error:  # a cut-off file raises the error of whichever library reads it
        said = str(error).partition("\n")[0] or type(error).__name__
        raise VisionEncoderError(f"{folder} has a CLIP that cannot be read: {said}") from error
    absent = sorted(loaded["missing_keys"])
    if absent:
        raise VisionEncoderError(
            f"{folder} has a CLIP without {len(absent)} of the vision tower's weights, as {', '.join(absent[:3])}"
        )
    return tower


@contextmanager
def _quiet() -> Iterator[None]:
    """Let transformers draw no bars of its own, nor list the weights of CLIP's text tower, which nobody asked for."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _model_type(path: Path) -> str:
    try:
        return str(json.loads(path.read_text()).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise VisionEncoderError(f"{path} is not a model configuration: {error}") from error


def _check(images_BVHW3: Tensor, wanted: str) -> None:
    if images_BVHW3.dtype != torch.uint8 or images_BVHW3.ndim != 5 or images_BVHW3.shape[-1] != 3:
        raise ValueError(f"images are {wanted} of uint8, got {_said(images_BVHW3)}")


def _said(images: Tensor) -> str:
    return f"{tuple(images.shape)} of {str(images.dtype).removeprefix('torch.')}"


class _Halving(nn.Module):
    """Half the resolution."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, stride=2, padding=1)

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """(X, C, H, W) -> (X, width, H/2, W/2)."""
        halved_XCHW: Tensor = self.conv(functional.relu(x_XCHW))
        return halved_XCHW


class _Residual(nn.Module):
    """One convolution beside what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """Of the same shape."""
        change_XCHW: Tensor = self.conv(functional.relu(self.norm(x_XCHW)))
        return x_XCHW + change_XCHW


def _waves(side: int, width: int) -> Tensor:
    """Sines and cosines of a grid's rows and columns, (side * side, width): from a quarter of a wave to side / 4."""
    places = (torch.arange(side) + 0.5) / side
    waves = torch.logspace(math.log10(0.25), math.log10(max(0.5, side / 4)), width // 4)
    angles = 2.0 * math.pi * places[:, None] * waves
    line = torch.cat([angles.sin(), angles.cos()], -1)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
