"""Trains the small image tokenizer on the frames of datasets, and shows what it keeps of them.

Shapes: B batch, H W pixels, h w grid, N = h * w codes, K bits of a code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW

from vla_ros.checkpoints.files import CheckpointError, read_metadata, read_tensors, write_tensors
from vla_ros.recording.files import write_atomically
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2, Magvit2Config, normalized, pixels
from vla_ros.training.augmentation import AugmentationConfig, augment, draw
from vla_ros.values import Config
from vla_ros.viewing.progress import Interrupted, interruptible
from vla_ros.viewing.reconstruction import reconstructions

Frames = NDArray[np.uint8]  # (N, H, W, 3), rgb

WEIGHTS = "image_tokenizer.safetensors"
SUMMARY = "image_tokenizer.json"  # written last: the training is done where it is there
CURVES = "image_tokenizer.jsonl"
PICTURE = "image_tokenizer.png"
STATE = "image_tokenizer.resume.safetensors"
_BLOCKS = 60  # into which the frames are cut, in their order, so that those held out are no neighbours of others
_HELD_OUT = 20  # one of so many blocks is held out
_MEASURED = 64  # frames by which the latent is spread at the beginning
_CURVE_EVERY = 10  # steps
_SHOWN = 8  # frames in the picture


class LossWeights(Config):
    """What each term counts for; see `losses`."""

    squared: float = 4.0  # without it the middle between two colours is where training begins, and stays
    pixels: float = 1.0
    hardest: float = 1.0
    edges: float = 1.0
    entropy: float = 0.1
    commitment: float = 0.05


class ImageTokenizerTraining(Config):
    """How the image tokenizer is trained."""

    size: str = "magvit2-demo"
    pixels: int = Field(default=128, gt=0)  # side of the squares that frames become
    steps: int = Field(default=3000, gt=0)
    batch: int = Field(default=8, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    warm_up: int = Field(default=100, ge=0)  # steps
    weights: LossWeights = LossWeights()
    augmentation: AugmentationConfig = AugmentationConfig()  # the policy learns from codes of such frames
    bfloat16: bool = True  # of the matrix products; on CPUs with AMX twice as fast
    save_every: int = Field(default=500, gt=0)  # steps, for resuming
    seed: int = 0

    @field_validator("size")
    @classmethod
    def _size_is_known(cls, size: str) -> str:
        if size not in MAGVIT2_SIZES:
            raise ValueError(f"size is one of {', '.join(MAGVIT2_SIZES)}, got {size!r}")
        return size


@dataclass(frozen=True)
class Progress:
    """Where the training is, and the losses of this step."""

    step: int
    steps: int
    losses: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Trained:
    """The tokenizer in eval mode, its PSNR on frames that it was not trained on, and how many codes those need."""

    tokenizer: Magvit2
    psnr_db: float
    codes_used: int


def train_image_tokenizer(
    frames: Frames,
    config: ImageTokenizerTraining,
    out: Path,
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train on frames (N, S, S, 3), S = `config.pixels`; weights, curves, a summary and a picture go into `out`.

    What was interrupted in `out` is continued, to the same result. One part in 20 of the frames is held out to be
    measured on, in three pieces: frames are best in the order in which they were recorded.

    Raises:
        ValueError: the frames are of another size, or too few.
        CheckpointError: what lies in `out` was trained otherwise, or cannot be written.
        Interrupted: by Ctrl-C or SIGTERM; what was learnt is saved.
    """
    if frames.shape[1:] != (config.pixels, config.pixels, 3) or len(frames) < _BLOCKS:
        raise ValueError(f"frames are (N, {config.pixels}, {config.pixels}, 3) with N >= {_BLOCKS}, got {frames.shape}")
    torch.manual_seed(config.seed)
    tokenizer = Magvit2(MAGVIT2_SIZES[config.size]).to(device)
    optimizer = AdamW(tokenizer.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    start = _resume(out, config, tokenizer, optimizer)
    blocks = np.arange(len(frames)) * _BLOCKS // len(frames)
    is_held_out = blocks % _HELD_OUT == _HELD_OUT // 2
    learnt = np.flatnonzero(~is_held_out)
    if start == 0:
        chosen = learnt[np.linspace(0, len(learnt) - 1, min(len(learnt), _MEASURED)).round().astype(int)]
        _spread(tokenizer, normalized(torch.from_numpy(frames[chosen]).to(device)))
    tokenizer.train()
    with interruptible() as asked:
        for step in range(start, config.steps):
            chosen = np.random.default_rng((config.seed, step)).choice(learnt, config.batch)
            images_b3hw = normalized(_changed(frames[np.sort(chosen)], config, step).to(device))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _rate(step, config)
            terms = _terms(tokenizer, images_b3hw, config)
            total = torch.stack([getattr(config.weights, name) * term for name, term in terms.items()]).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
            optimizer.step()
            values = {"total": total.item(), **{name: term.item() for name, term in terms.items()}}
            if step % _CURVE_EVERY == 0:
                _append(out / CURVES, {"step": step, **values})
            report(Progress(step, config.steps, values))
            done, stops = step + 1, asked.is_set()
            if (stops or done % config.save_every == 0) and done < config.steps:
                _save_state(out, config, tokenizer, optimizer, done)
                if stops:
                    raise Interrupted(f"image tokenizer stopped after step {done} of {config.steps}; saved in {out}")
    return _finish(tokenizer.eval(), frames[is_held_out], config, out)


def load_image_tokenizer(out: Path, device: torch.device | str = "cpu") -> Trained:
    """What `train_image_tokenizer` left in `out`, in eval mode; raises CheckpointError where it is not finished."""
    path = out / SUMMARY
    try:
        summary = json.loads(path.read_text())
        config = Magvit2Config.model_validate(summary["config"])
        psnr_db, codes_used = float(summary["psnr_db"]), int(summary["codes_used"])
    except OSError as error:
        raise CheckpointError(f"{out} has no finished image tokenizer: {path.name} cannot be read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a summary of an image tokenizer: {error}") from error
    tokenizer = Magvit2(config)
    _fill(tokenizer, read_tensors(out / WEIGHTS), out / WEIGHTS)
    return Trained(tokenizer.to(device).eval(), psnr_db, codes_used)


def losses(images_b3hw: Tensor, rebuilt_b3hw: Tensor, latent_bkhw: Tensor) -> dict[str, Tensor]:
    """The terms of the objective, each a mean; images in [-1, 1].

    squared, pixels: squared and absolute error. hardest: the absolute one over the 2 % of each image's pixels that are
    worst, for what is small and matters, as a cube, is little of the mean. edges: absolute error of the differences
    between neighbours, at full and half resolution. entropy: that of each code less that of their average (Yu et al.
    2024, section 3.1), so that codes are sure and all are used. commitment: squared distance of latent and signs.
    """
    error_b3hw = (rebuilt_b3hw - images_b3hw).abs()
    worst_bn = error_b3hw.mean(1).flatten(1)
    worst_bn = worst_bn.topk(max(1, worst_bn.shape[1] // 50), dim=1).values
    signs_bkhw = torch.where(latent_bkhw > 0, 1.0, -1.0)
    return {
        "squared": error_b3hw.square().mean(),
        "pixels": error_b3hw.mean(),
        "hardest": worst_bn.mean(),
        "edges": _edges(rebuilt_b3hw - images_b3hw),
        "entropy": _entropy(latent_bkhw.movedim(1, -1).flatten(0, -2)),
        "commitment": (latent_bkhw - signs_bkhw).square().mean(),
    }


def psnr_db(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Mean over images (N, H, W, 3) of their peak signal-to-noise ratio [dB]; equal images count as 100."""
    squared = (images.astype(np.float32) - others.astype(np.float32)) ** 2
    each = squared.reshape(len(images), -1).mean(1)
    return float(np.mean(10 * np.log10(255**2 / np.maximum(each, 255**2 * 1e-10))))


@torch.no_grad()
def _spread(tokenizer: Magvit2, images_b3hw: Tensor) -> None:
    """Give every number of the latent mean 0 and variance 1 over these images, so that codes differ from the start.

    As it is drawn the network has nearly the same code for everything, and little in the objective leads away from it.
    """
    latent_kn = tokenizer.latent(images_b3hw).movedim(1, 0).flatten(1)
    std_k, mean_k = torch.std_mean(latent_kn, dim=1)
    last = tokenizer.encoder.quant_conv
    last.weight.div_(std_k[:, None, None, None])
    last.bias.sub_(mean_k).div_(std_k)  # type: ignore[union-attr]


def _changed(frames: Frames, config: ImageTokenizerTraining, step: int) -> Tensor:
    """Frames (B, H, W, 3), each changed by chance, the same in every run."""
    draws = draw(len(frames), torch.Generator().manual_seed(config.seed * 2**32 + step))
    return augment(torch.from_numpy(frames)[:, None], config.augmentation, draws)[:, 0]


def _terms(tokenizer: Magvit2, images_b3hw: Tensor, config: ImageTokenizerTraining) -> dict[str, Tensor]:
    with torch.autocast(images_b3hw.device.type, torch.bfloat16, enabled=config.bfloat16):
        rebuilt_b3hw, latent_bkhw = tokenizer(images_b3hw)
    return losses(images_b3hw, rebuilt_b3hw.float(), latent_bkhw.float())


def _edges(error_b3hw: Tensor) -> Tensor:
    """Mean absolute difference between neighbours of an error, at full and half resolution."""
    total = torch.zeros((), device=error_b3hw.device)
    for error in (error_b3hw, functional.avg_pool2d(error_b3hw, 2)):
        total = total + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return total / 4


def _entropy(latent_nk: Tensor) -> Tensor:
    """Mean entropy of the codes' distributions minus the entropy of the mean distribution, per bit."""
    bits = latent_nk.shape[1]
    one_nk, zero_nk = functional.logsigmoid(4 * latent_nk), functional.logsigmoid(-4 * latent_nk)
    each = -(one_nk.exp() * one_nk + zero_nk.exp() * zero_nk).sum(1).mean()  # bits are independent: entropies add up
    bits_kc = (
        (torch.arange(1 << bits, device=latent_nk.device) >> torch.arange(bits, device=latent_nk.device)[:, None]) & 1
    ).float()
    mean_c = (one_nk @ bits_kc + zero_nk @ (1 - bits_kc)).exp().mean(0)
    return (each + (mean_c * mean_c.clamp_min(1e-9).log()).sum()) / (bits * math.log(2))


def _rate(step: int, config: ImageTokenizerTraining) -> float:
    """Learning rate as a share of the highest: up in a line, down in a half cosine."""
    if step < config.warm_up:
        return (step + 1) / config.warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - config.warm_up) / max(1, config.steps - config.warm_up)))


def _resume(out: Path, config: ImageTokenizerTraining, tokenizer: Magvit2, optimizer: AdamW) -> int:
    """Take up the state that lies in `out`; the step to begin with, 0 where there is none."""
    path = out / STATE
    if not path.exists():
        (out / CURVES).unlink(missing_ok=True)
        return 0
    said = read_metadata(path)
    if said.get("config") != config.model_dump_json():
        raise CheckpointError(f"{path} is of a training with other settings: {said.get('config')}; take another folder")
    stored = read_tensors(path)
    parameters = dict(tokenizer.named_parameters())
    _fill(tokenizer, {name.removeprefix("model."): t for name, t in stored.items() if name.startswith("model.")}, path)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            "step": stored["step"].clone(),
            **{key: stored[f"{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")},
        }
    step = int(stored["step"])
    curve = (out / CURVES).read_text().splitlines() if (out / CURVES).exists() else []
    lines = [line for line in curve if json.loads(line)["step"] < step]
    write_atomically(out / CURVES, "".join(f"{line}\n" for line in lines).encode())
    return step


def _save_state(out: Path, config: ImageTokenizerTraining, tokenizer: Magvit2, optimizer: AdamW, step: int) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    for name, parameter in tokenizer.named_parameters():
        tensors |= {f"{key}.{name}": optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")}
    write_tensors(out / STATE, {**tensors, "step": torch.tensor(float(step))}, {"config": config.model_dump_json()})


def _fill(tokenizer: Magvit2, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        tokenizer.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another image tokenizer: {str(error).splitlines()[-1].strip()}") from error


def _finish(tokenizer: Magvit2, held_out: Frames, config: ImageTokenizerTraining, out: Path) -> Trained:
    """Measure on frames held out, draw them, and write what there is to keep."""
    rebuilt, codes = [], []
    for first in range(0, len(held_out), config.batch):
        with torch.inference_mode():
            device = next(tokenizer.parameters()).device
            codes_bn = tokenizer.encode(normalized(torch.from_numpy(held_out[first : first + config.batch]).to(device)))
            rebuilt.append(pixels(tokenizer.decode(codes_bn)).cpu().numpy())
            codes.append(codes_bn.cpu().numpy())
    shown = np.concatenate(rebuilt)
    trained = Trained(tokenizer, psnr_db(held_out, shown), len(np.unique(np.concatenate(codes))))
    write_tensors(out / WEIGHTS, tokenizer.state_dict())
    _draw(held_out, shown, trained, out / PICTURE)
    summary = {
        "config": tokenizer.config.model_dump(mode="json"),
        "training": config.model_dump(mode="json"),
        "psnr_db": trained.psnr_db,
        "codes_used": trained.codes_used,
        "held_out": len(held_out),
    }
    write_atomically(out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    (out / STATE).unlink(missing_ok=True)
    return trained


def _draw(originals: Frames, rebuilt: Frames, trained: Trained, path: Path) -> None:
    """Some of the frames held out, as they are and as their codes give them back."""
    chosen = np.linspace(0, len(originals) - 1, min(_SHOWN, len(originals))).round().astype(int)
    notes = [f"{psnr_db(originals[[one]], rebuilt[[one]]):.1f} dB" for one in chosen]
    title = f"image tokenizer: PSNR {trained.psnr_db:.1f} dB, {trained.codes_used} codes used, frames held out"
    write_atomically(path, reconstructions(title, originals[chosen], rebuilt[chosen], notes))


def _append(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
