"""How long a model takes to see, decide, imagine and describe, by component, and how near that is to what is possible.

Weights are random: they change no time. On a CPU the demo size is measured, on a GPU the released size as well. "ours"
is what the policy runs: no pads, no logits but those that are asked for. Beside it stand, in the same run: a
straightforward float32 forward padded as in training with logits everywhere, its matrix products alone (the model's own
weights, one after the other, nothing between them), and the floating-point operations at the processor's peak.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.models.up_vla import SIZES, Sequence, UpVla, UpVlaConfig, action_sequence
from vla_ros.policies.images import square
from vla_ros.policies.replaying import Replayed
from vla_ros.policies.up_vla import LENGTH_STEP
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2, normalized, pixels
from vla_ros.tokenizers.vision import SmallVision, SmallVisionConfig

#: Dense bfloat16 operations a second with float32 sums, from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
GOAL_SPEED_UP, GOAL_OVER_PRODUCTS, GOAL_CHUNKS_HZ = 10.0, 1.5, 5.0
INSTRUCTION, DESCRIPTION, QUESTION = [5] * 13, [6] * 30, [7] * 12  # ids; a short sentence each
CAMERA = (480, 640, 3)


class Times(NamedTuple):
    """How long something takes by the clock, and of the processor's time."""

    ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Timer:
    """Median time of a call, after calls that do not count; what is slow is repeated less often.

    Beside the clock's that of the processor, of all threads together: it depends less on who else works there.
    """

    device: torch.device
    repetitions: int
    most_s: float = 10.0

    def times(self, call: Callable[[], object]) -> Times:
        """Runs `call` once to warm up (a GPU: three times), then `repetitions` times or until `most_s` have passed."""
        measured: list[Times] = []
        with torch.inference_mode():
            for _ in range(3 if self.device.type == "cuda" else 1):
                call()
            while len(measured) < self.repetitions and sum(each.ms for each in measured) < 1000.0 * self.most_s:
                measured.append(self._once(call))
        return Times(
            statistics.median(each.ms for each in measured), statistics.median(each.cpu_ms for each in measured)
        )

    def ratio(self, longer: Times, shorter: Times) -> float:
        """How many times longer, by the clock on a GPU, in processor time on a CPU."""
        on_gpu = self.device.type == "cuda"
        return longer.ms / shorter.ms if on_gpu else longer.cpu_ms / shorter.cpu_ms

    def _once(self, call: Callable[[], object]) -> Times:
        self._wait()
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        call()
        self._wait()
        return Times(1000.0 * (time.perf_counter() - start_s), 1000.0 * (time.process_time() - start_cpu_s))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Inputs:
    """What a model sees, with nothing in it."""

    sequence: Sequence
    features_BSF: Tensor | None
    state_BP: Tensor | None

    @property
    def seen(self) -> tuple[Tensor | None, Tensor | None]:
        return self.features_BSF, self.state_BP


def inputs(config: UpVlaConfig, device: torch.device, dtype: torch.dtype, pad_to: int | None = None) -> Inputs:
    """One observation; its length `pad_to`, or as the policy has it: as it comes, on a GPU up to a round number."""
    is_paper = config.conditioning == "paper"
    codes_BN = torch.zeros(1, config.all_codes, dtype=torch.int64, device=device)
    described = [DESCRIPTION] if is_paper else None
    sequence = action_sequence(config, [INSTRUCTION], codes_BN, described, pad_to)
    length_over = sequence.ids_BL.shape[1] % LENGTH_STEP
    if device.type == "cuda" and pad_to is None and length_over:
        longer = sequence.ids_BL.shape[1] + LENGTH_STEP - length_over
        sequence = action_sequence(config, [INSTRUCTION], codes_BN, described, longer)
    features_BSF = torch.randn(1, config.features, config.feature_width, device=device, dtype=dtype)
    state_BP = torch.randn(1, config.state_dims, device=device, dtype=dtype)
    return Inputs(sequence, features_BSF if is_paper else None, state_BP if config.state_dims else None)


def products(model: UpVla, length: int) -> Callable[[], None]:
    """The matrix products of one forward with its action head, each with its own weights, and nothing else."""
    config, weight = model.config, model.lm_head.weight
    rows = {"blocks": length, "action_head.projection": config.action_rows, "action_head.key_value": config.action_rows}
    rows |= {"action_head": 1}  # what follows the pooling
    if config.conditioning == "paper":
        rows |= {"projector": config.features, "state_projector": 1}
    pairs = [
        (weight.new_ones(next(rows[part] for part in rows if name.startswith(part)), layer.in_features), layer.weight.T)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(tuple(rows))
    ]
    heads_HLD = weight.new_ones(config.heads, length, config.head_width)
    scores_HLL = weight.new_ones(config.heads, length, length)

    def run() -> None:
        for left, right in pairs:
            torch.mm(left, right)
        for _ in model.blocks:
            torch.bmm(heads_HLD, heads_HLD.transpose(1, 2))
            torch.bmm(scores_HLL, heads_HLD)

    return run


def operations(config: UpVlaConfig, length: int) -> float:
    """Floating-point operations of the blocks' products (the rest is under 1 %)."""
    linear = 4 * config.width**2 + 2 * config.width * config.mlp_width
    return 2.0 * config.layers * length * (linear + 2 * length * config.width)


def straightforward(config: UpVlaConfig, model: UpVla, device: torch.device) -> Callable[[], object]:
    """Float32, padded as in training, logits of the whole vocabulary at every position."""
    longest = config.max_text + 1 + config.all_codes + 2 + config.action_rows
    if config.conditioning == "paper":
        longest += config.features + config.max_description + (config.state_dims > 0)
    given = inputs(config, device, torch.float32, longest)

    def run() -> tuple[Tensor, Tensor]:
        hidden_BLW = model(given.sequence, *given.seen)
        return model.act(hidden_BLW, given.sequence), model.text_logits(hidden_BLW)

    return run


def ours(model: UpVla, given: Inputs, compiles: bool) -> Callable[[], tuple[Tensor, ...]]:
    """Backbone and action head as the policy runs them: on a GPU as one graph, of fused kernels where `compiles`."""
    sequence, tensors = given.sequence, [each for each in given.seen if each is not None]

    def decide(ids_BL: Tensor, attended_BLL: Tensor, *seen: Tensor) -> tuple[Tensor, Tensor]:
        here = Sequence(ids_BL, attended_BLL, sequence.image, sequence.actions)
        hidden_BLW = model(here, *seen)
        return model.act(hidden_BLW, here), hidden_BLW

    function = torch.compile(decide, dynamic=False) if compiles else decide
    replayed = Replayed(function, sequence.ids_BL.device)
    return lambda: replayed(sequence.ids_BL, sequence.attended_BLL, *tensors)


def show(name: str, times: Times, note: str = "") -> None:
    print(f"  {name:<34}{times.ms:9.2f} ms  {times.cpu_ms:9.2f} ms of CPU  {note}", flush=True)


def bounds(size: str, timer: Timer, dtype: torch.dtype, compiles: bool) -> tuple[float, float]:
    """Backbone and head: how much faster than straightforward, how much slower than the matrix products alone."""
    config, device = SIZES[size], timer.device
    on_gpu, kind = device.type == "cuda", str(dtype).removeprefix("torch.")
    with device:
        model = UpVla(config).eval()
    print(f"\n{size}, backbone and action head, {device}")
    slow = timer.times(straightforward(config, model, device))
    show("straightforward float32", slow)
    model = model.to(dtype)
    given = inputs(config, device, dtype)
    length = given.sequence.ids_BL.shape[1]
    multiply, nothing = products(model, length), torch.zeros(1, device=device)

    def multiplied(tensor: Tensor) -> tuple[Tensor]:
        multiply()
        return (tensor + 1,)  # a graph has to give something

    replayed = Replayed(multiplied, device)
    least = timer.times(lambda: replayed(nothing))
    show(f"matrix products alone, {kind}", least)
    faster, over = 0.0, math.inf
    for compiled in (False, True) if compiles else (False,):
        times = timer.times(ours(model, given, compiled))
        faster, over = timer.ratio(slow, times), timer.ratio(times, least)
        name = f"ours {kind}, {length} tokens" + ", compiled" * compiled
        show(name, times, f"{faster:.1f} x faster than straightforward, {over:.2f} x the products")
    done = operations(config, length)
    peaks = [peak for name, peak in PEAKS.items() if on_gpu and name in torch.cuda.get_device_name()]
    bound = f", {1e3 * done / peaks[0]:.2f} ms at the peak of {peaks[0] / 1e12:.0f} TFLOP/s" if peaks else ""
    print(f"  {done / 1e9:.2f} GFLOP{bound}")
    return faster, over


def components(size: str, timer: Timer, dtype: torch.dtype, image_tokenizer: str) -> float:
    """Each component of one size; chunks a second, from camera frames to actions."""
    config, device, codes = SIZES[size], timer.device, MAGVIT2_SIZES[image_tokenizer]
    side = math.isqrt(config.image_codes) * codes.pixels_per_code  # of the square image whose codes the model reads
    with device:
        model, tokenizer = UpVla(config).eval().to(dtype), Magvit2(codes).eval()
        small = SmallVisionConfig(pixels=side, cameras=2, width=config.feature_width)
        vision = SmallVision(small).eval().to(dtype) if config.conditioning == "paper" else None
    frames = [np.zeros(CAMERA, np.uint8)] * (vision.config.cameras if vision else config.views)
    given = inputs(config, device, dtype)

    def images() -> Tensor:
        return torch.from_numpy(np.stack([square(frame, side) for frame in frames])[None]).to(device)

    seen = images()
    run = ours(model, given, compiles=False)
    with torch.inference_mode():
        _, hidden_BLW = run()
    codes_BN = torch.zeros(config.views, config.image_codes, dtype=torch.int64, device=device)

    def encode(images_BVHW3: Tensor) -> tuple[Tensor]:
        return (tokenizer.encode(normalized(images_BVHW3[0, : config.views])),)

    def encode_all(images_BVHW3: Tensor) -> tuple[Tensor, ...]:
        return encode(images_BVHW3) if vision is None else (*encode(images_BVHW3), vision.encode(images_BVHW3))

    see, see_codes = Replayed(encode_all, device), Replayed(encode, device)

    def chunk() -> None:
        see(images())
        inputs(config, device, dtype)
        run()

    print(f"\n{size}, {str(dtype).removeprefix('torch.')} (image tokenizer float32), {device}")
    times = timer.times(chunk)
    show("frames to actions", times, f"{1000 / times.ms:.1f} chunks/s (goal {GOAL_CHUNKS_HZ:g})")
    show("  resize frames", timer.times(images), f"{len(frames)} of {CAMERA[1]} x {CAMERA[0]} to {side}")
    show("  encode image", timer.times(lambda: see_codes(seen)))
    if vision is not None:
        see_features = Replayed(lambda images_BVHW3: (vision.encode(images_BVHW3),), device)
        show("  encode for understanding", timer.times(lambda: see_features(seen)))
    show("  lay out the sequence", timer.times(lambda: inputs(config, device, dtype)))
    show(
        "  backbone",
        timer.times(lambda: model(given.sequence, *given.seen)),
        f"{given.sequence.ids_BL.shape[1]} tokens",
    )
    show("  action head", timer.times(lambda: model.act(hidden_BLW, given.sequence)))
    print("  off the control path:")
    show("  future head", timer.times(lambda: model.imagine(hidden_BLW, given.sequence).argmax(-1)))
    show("  decode the future frame", timer.times(lambda: pixels(tokenizer.decode(codes_BN))))
    with torch.no_grad():
        model.lm_head.bias[config.vocabulary.end_of_text] = -torch.inf  # the longest answer
    features_BSF = torch.randn(1, config.features, config.feature_width, device=device, dtype=dtype)
    described = timer.times(lambda: model.answer(features_BSF, QUESTION, config.max_description))
    show("  describe", described, f"{config.max_description} ids")
    return 1000.0 / times.ms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["up_vla"], default="up_vla")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--full-size", action="store_true", help="the released size on a CPU too (12 GB, minutes)")
    parser.add_argument("--no-compile", action="store_true", help="CUDA graphs of torch's own kernels only")
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device, on_gpu = torch.device(arguments.device), arguments.device.startswith("cuda")
    timer = Timer(device, 5 if arguments.quick else 30)
    where = torch.cuda.get_device_name(device) if on_gpu else f"{arguments.threads} threads"
    print(f"torch {torch.__version__}, {where}, median of {timer.repetitions}")
    rates = [components("up-vla-demo", timer, dtype, "magvit2-demo") for dtype in (torch.float32, torch.bfloat16)]
    met = max(rates) >= GOAL_CHUNKS_HZ
    if not on_gpu:
        for dtype in (torch.float32, torch.bfloat16):
            bounds("up-vla-demo", timer, dtype, compiles=False)
    if on_gpu or arguments.full_size:
        compiles = on_gpu and not arguments.no_compile
        faster, over = bounds("up-vla-release", timer, torch.bfloat16, compiles)
        print(
            f"  {faster:.1f} x faster, goal {GOAL_SPEED_UP:g}; {over:.2f} x the products, goal {GOAL_OVER_PRODUCTS:g}"
        )
        met &= faster >= GOAL_SPEED_UP and over <= GOAL_OVER_PRODUCTS
    if on_gpu:
        components("up-vla-release", timer, torch.bfloat16, "magvit2-release")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
