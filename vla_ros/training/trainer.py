"""The training loop: parts of batches into updates, checkpoints that a kill cannot tear, and resuming bit by bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, cast

import torch
from torch import Tensor, nn

from vla_ros.training.config import RunConfig, Schedule
from vla_ros.training.distributed import Processes, sharded, whole, without_sync
from vla_ros.training.ema import MovingAverage
from vla_ros.training.objectives import Objective, Part
from vla_ros.training.optimizer import learning_rate, make_optimizer
from vla_ros.training.progress import Curves, Meter, Tell, matmul_peak, training_flops
from vla_ros.training.saving import Saved, load_newest, save
from vla_ros.viewing.progress import Interrupted, interruptible

CURVES = "curves.jsonl"


#: (step, the parts of its batch that are this process's), for each of the steps asked for.
Parts = Callable[[range], Iterator[tuple[int, Sequence[Part]]]]


@dataclass(frozen=True)
class Job:
    """What a stage is called, where its files lie, who takes part, and in which type products are computed."""

    name: str
    folder: Path
    stage: Schedule
    run: RunConfig
    processes: Processes
    dtype: torch.dtype = torch.float32
    tell: Tell = lambda what, done, total, said: None
    about: Mapping[str, str] = field(default_factory=dict)  # may not differ when a run goes on
    on_saved: Callable[[], None] = lambda: None  # on the way, on the process that leads


class Trainer(Generic[Part]):
    """Trains an objective for a stage's steps; goes on from the checkpoint in the job's folder where there is one.

    `held_out` parts are only looked at, now and then.
    """

    def __init__(self, objective: Objective[Part], job: Job, parts: Parts[Part], held_out: Sequence[Part] = ()) -> None:
        self._objective, self._job, self._parts, self._held_out = objective, job, parts, held_out
        objective.to(job.processes.device).train()
        self._module = sharded(objective, job.processes, job.run.parallel)
        self._optimizer = make_optimizer(objective, job.stage.optimizer)
        self._average = MovingAverage(objective, job.stage.ema_decay) if job.stage.ema_decay else None
        self._saved = Saved(objective, self._optimizer, self._average)
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def run(self) -> dict[str, Tensor]:
        """Train to the last step; returns all weights, whole, on the CPU: the averages where the stage has them.

        Raises Interrupted when asked to stop (all is saved), CheckpointError for a checkpoint of another training,
        FloatingPointError for a loss or a gradient that is no number (the checkpoint before it stays).
        """
        first, seconds = load_newest(self._job.folder, self._saved, self._job.about)
        if first < self._job.stage.steps:
            self._train(first, seconds)
        with self._averages():
            return {name: whole(tensor).clone() for name, tensor in self._objective.state_dict().items()}

    def _train(self, first: int, seconds: float) -> None:
        job, steps = self._job, self._job.stage.steps
        meter: Meter | None = None
        begin = last_saved = time.monotonic()
        written = Curves(job.folder / CURVES, first) if job.processes.leads else nullcontext()
        job.tell(job.name, first, steps, "")
        with written as curves, interruptible() as asked:
            for step, parts in self._parts(range(first, steps)):
                meter = meter or self._meter(parts[0])
                is_due = time.monotonic() - last_saved > job.run.save_every_s
                norm, stops, saves = self._update(step, parts, asked.is_set(), is_due and job.processes.leads)
                meter.add(sum(part.frames for part in parts) * job.processes.world)
                done = step + 1
                ends = done == steps or stops
                if not (ends or saves or done % job.run.log_every == 0):
                    continue
                spent_s = seconds + time.monotonic() - begin
                values = self._values(step, norm, meter) | {"seconds": spent_s}
                if self._held_out and (done == steps or done % job.run.held_out_every == 0):
                    values |= self._look_at_held_out()
                if curves is not None:
                    curves.add(done, values)
                job.tell(job.name, done, steps, _said(values))
                for what in ("loss", "gradient_norm"):  # the loss is of the weights before the update
                    if not math.isfinite(values[what]):
                        named = what.replace("_", " ")
                        raise FloatingPointError(f"{job.name}: the {named} at step {done} is {values[what]}")
                if ends or saves:
                    save(job.folder, self._saved, done, spent_s, job.about, job.processes)
                    if job.processes.leads and not ends:
                        job.on_saved()
                    last_saved = time.monotonic()
                meter.restart()  # what is not training does not count as its speed
                if stops and done < steps:
                    raise Interrupted(f"{job.name} stopped after step {done} of {steps}; all is saved in {job.folder}")

    def _update(self, step: int, parts: Sequence[Part], stops: bool, saves: bool) -> tuple[Tensor, bool, bool]:
        """One update; returns the gradient's norm, and whether any process was told to stop or wants to save.

        Each loss is divided by what it counts in all parts of all processes, so that gradients do not know how a batch
        was shared out.
        """
        objective, stage = self._objective, self._job.stage
        own = [objective.counts(part) for part in parts]
        wishes = [torch.tensor(float(stops)), torch.tensor(float(saves))]
        stop, keep, *summed = self._job.processes.sum(
            [*wishes, *(torch.stack([one[name] for one in own]).sum() for name in objective.weights)]
        )
        scales = {  # gradients are means over the processes: the factor makes them sums
            name: weight * self._job.processes.world / max(1.0, float(count))
            for (name, weight), count in zip(objective.weights.items(), summed, strict=True)
        }
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(stage.optimizer, step, stage.steps)
        self._optimizer.zero_grad()
        for place, part in enumerate(parts):
            with without_sync(self._module, waits=place + 1 < len(parts)):
                with self._precision():
                    totals: dict[str, Tensor] = self._module(part)
                loss = torch.stack([scales[name] * total for name, total in totals.items()]).sum()
                loss.backward()  # type: ignore[no-untyped-call]
            _add(self._totals, totals)
        _add(self._counts, dict(zip(objective.weights, summed, strict=True)))
        gradients = [one for one in objective.parameters() if one.grad is not None]
        if stage.optimizer.clip_norm is None:
            norm = nn.utils.get_total_norm([cast("Tensor", one.grad) for one in gradients])
        else:
            norm = nn.utils.clip_grad_norm_(gradients, stage.optimizer.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update(step)
        return norm, float(stop) > 0, float(keep) > 0

    def _values(self, step: int, norm: Tensor, meter: Meter) -> dict[str, float]:
        """What is told of the steps since the last time; begins to count anew."""
        summed = self._job.processes.sum(list(self._totals.values()))
        losses = _means(dict(zip(self._totals, summed, strict=True)), self._counts)
        self._totals, self._counts = {}, {}
        speed = meter.take()
        return {
            **losses,
            "loss": sum(self._objective.weights[name] * loss for name, loss in losses.items()),
            "learning_rate": learning_rate(self._job.stage.optimizer, step, self._job.stage.steps),
            "gradient_norm": float(whole(norm)),
            "frames_per_s": speed.frames_per_s,
            "mfu": speed.of_peak,
        }

    @torch.no_grad()
    def _look_at_held_out(self) -> dict[str, float]:
        """Losses of what is not trained on, with the averages where there are some."""
        totals: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        self._objective.eval()
        with self._averages(), self._precision():
            for part in self._held_out:
                _add(totals, self._module(part))
                _add(counts, self._objective.counts(part))
        self._objective.train()
        names = list(totals)
        summed = self._job.processes.sum([*totals.values(), *(counts[name] for name in names)])
        losses = _means(*(dict(zip(names, half, strict=True)) for half in (summed[: len(names)], summed[len(names) :])))
        return {f"held_out_{name}": loss for name, loss in losses.items()}

    def _averages(self) -> AbstractContextManager[None]:
        return self._average.in_place() if self._average is not None else nullcontext()

    def _precision(self) -> torch.autocast:
        return torch.autocast(
            self._job.processes.device.type, torch.bfloat16, enabled=self._job.dtype == torch.bfloat16
        )

    def _meter(self, part: Part) -> Meter:
        with self._precision():
            flops = training_flops(self._objective, lambda objective: objective(part))
        processes = self._job.processes
        processes.wait()  # those that share a machine have to share it while it is measured, too
        peak = torch.tensor(matmul_peak(processes.device, self._job.dtype))
        return Meter(flops / part.frames, float(processes.sum([peak])[0]))


def _add(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


def _means(totals: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses from their sums and counts; those that counted nothing are left out."""
    return {name: float(total) / float(counts[name]) for name, total in totals.items() if float(counts[name])}


def _said(values: Mapping[str, float]) -> str:
    shown = [f"{name} {values[name]:.4g}" for name in values if name in ("measure", "predict", "act", "understand")]
    shown += [f"{name.replace('_', ' ')} {values[name]:.4g}" for name in values if name.startswith("held_out")]
    return "  ".join([*shown, f"{values['frames_per_s']:.1f} frames/s", f"MFU {values['mfu']:.0%}"])
