"""Training goes on bit by bit after a kill, stops when asked to, and is the same on one process and on two."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import toy

from vla_ros.checkpoints.files import CheckpointError
from vla_ros.training.progress import Curves, Meter, read_curves, training_flops
from vla_ros.training.saving import steps_done
from vla_ros.training.trainer import Interrupted
from vla_ros.training.up_vla_objective import Part

SCRIPT = str(Path(toy.__file__))
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    straight = toy.train(tmp_path / "straight", 6, toy.Batches())
    killed = subprocess.run([sys.executable, SCRIPT, "killed", str(tmp_path / "killed")], env=ALONE, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert steps_done(tmp_path / "killed") == 3
    resumed = toy.train(tmp_path / "killed", 6, toy.Batches())
    assert same(straight, resumed)
    assert toy.losses(tmp_path / "straight") == toy.losses(tmp_path / "killed")
    assert [one.name for one in (tmp_path / "killed").iterdir() if one.is_dir()] == ["step-00000006"]


def test_a_torn_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    toy.train(tmp_path, 2, toy.Batches())
    for torn in (tmp_path / ".step-00000003.tmp", tmp_path / ".step-00000007.tmp"):  # what a kill while saving leaves
        torn.mkdir()
        (torn / "weights.safetensors").write_bytes(b"half")
    assert steps_done(tmp_path) == 2
    toy.train(tmp_path, 3, toy.Batches())
    assert steps_done(tmp_path) == 3
    assert not list(tmp_path.glob(".step-*"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    toy.train(tmp_path, 1, toy.Batches())
    weights = tmp_path / "step-00000001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="weights.safetensors"):
        toy.train(tmp_path, 2, toy.Batches())


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    toy.train(tmp_path, 1, toy.Batches())
    state = tmp_path / "step-00000001" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "about": {"toy": "2"}}))
    with pytest.raises(CheckpointError, match="toy was 2, is 1"):
        toy.train(tmp_path, 2, toy.Batches())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_asked_to_stop_saves(tmp_path: Path, number: int) -> None:
    class Stopped(toy.Batches):
        def __call__(self, steps: range) -> Iterator[tuple[int, Sequence[Part]]]:
            for step, parts in super().__call__(steps):
                if step == 2:
                    os.kill(os.getpid(), number)
                yield step, parts

    with pytest.raises(Interrupted, match="after step 3 of 6"):
        toy.train(tmp_path / "stopped", 6, Stopped(), save_every_s=1000.0)
    assert same(toy.train(tmp_path / "stopped", 6, toy.Batches()), toy.train(tmp_path / "straight", 6, toy.Batches()))


def test_weights_of_a_broken_update_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is of the weights before the update: it is whole when the gradient is not."""
    objective, updates = toy.objective(), iter((1.0, 1.0, float("inf")))
    objective.model.norm.bias.register_hook(lambda gradient: gradient * next(updates))
    monkeypatch.setattr(toy, "objective", lambda: objective)
    with pytest.raises(FloatingPointError, match="gradient norm at step 3 is") as raised:
        toy.train(tmp_path, 6, toy.Batches())
    assert steps_done(tmp_path) == 2
    assert raised.tb is not None, "and with it all that the trainer had; but its files are closed"
    assert not [file for file in Path("/proc/self/fd").iterdir() if file.resolve().is_relative_to(tmp_path.resolve())]


def test_a_batch_in_parts_is_the_batch(tmp_path: Path) -> None:
    toy.train(tmp_path / "whole", 4, toy.Batches())
    toy.train(tmp_path / "parts", 4, toy.Batches(pieces=4))
    assert toy.losses(tmp_path / "parts") == pytest.approx(toy.losses(tmp_path / "whole"), rel=1e-4)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    alone = toy.train(tmp_path / "alone", 4, toy.Batches())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, "many", str(tmp_path)], env={**ALONE, **world, "RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    for parallel in ("ddp", "fsdp"):
        assert toy.losses(tmp_path / parallel) == pytest.approx(toy.losses(tmp_path / "alone"), rel=1e-4)
        assert toy.held_out(tmp_path / parallel) == pytest.approx(toy.held_out(tmp_path / "alone"), rel=1e-3)
        weights = torch.load(tmp_path / f"{parallel}.pt", weights_only=True)
        for name, tensor in alone.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3)


def test_what_only_the_unweighted_would_train_stays(tmp_path: Path) -> None:
    objective = toy.objective()
    stays = toy.UpVlaObjective(objective.model, objective.vision, {"predict": 1.0, "act": 0.0, "understand": 0.1})
    assert not any(one.requires_grad for one in stays.model.action_head.parameters())
    assert set(stays(toy.Batches().part(0, 0))) == {"predict", "understand"}


def test_counts_are_known_beforehand() -> None:
    objective, part = toy.objective(), toy.Batches().part(0, 0)
    assert part.windows is not None and part.windows.is_pad_BK is not None and part.talks is not None
    counts = objective.counts(part)
    assert float(counts["predict"]) == toy.BATCH * 6
    assert float(counts["act"]) == int((~part.windows.is_pad_BK).sum()) * 2
    assert float(counts["understand"]) == sum(1 + 2 * place for place in range(toy.TALKS))


def test_recomputing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        objective = toy.objective().train()
        objective.model.recompute = recompute
        sum(objective(toy.Batches().part(0, 0)).values()).backward()
        gradients.append([one.grad for one in objective.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_curves_beyond_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    with Curves(tmp_path / "curves.jsonl", 0) as curves:
        for step in range(1, 5):
            curves.add(step, {"loss": step / 3, "broken": float("nan")})
    with (tmp_path / "curves.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a kill in the middle of a line
    with Curves(tmp_path / "curves.jsonl", 3):
        pass
    assert [line["step"] for line in read_curves(tmp_path / "curves.jsonl")] == [1, 2, 3]
    assert read_curves(tmp_path / "curves.jsonl")[0] == {"step": 1, "loss": 0.333333}


def test_a_step_s_flops_are_those_of_its_products() -> None:
    """Closed form, 2 a multiplication: projections, attention over L positions, the MLP; three times the forward."""
    config, batch = toy.CONFIG, 4
    sequence = toy.action_sequence(config, [[5, 6]] * batch, torch.zeros(batch, 4, dtype=torch.int64))
    features, state = torch.randn(batch, 2, 16), torch.randn(batch, 3)
    model, length, width = toy.UpVla(config), sequence.ids_BL.shape[1], config.width
    per_position = 4 * width * width + 2 * width * config.mlp_width
    attention = 2 * length * length * width
    projectors = 2 * (16 * width + width * width) + 3 * width + width * width
    forward = 2 * batch * (config.layers * (length * per_position + attention) + projectors)
    assert training_flops(model, lambda model: model(sequence, features, state)) == 3 * forward


def test_the_meter_counts_from_the_last_time() -> None:
    now = iter([0.0, 4.0, 4.0, 6.0, 8.0, 8.0])
    meter = Meter(flops_per_frame=10.0, peak_flops_per_s=100.0, clock=lambda: next(now))
    meter.add(8)
    speed = meter.take()
    assert (speed.frames_per_s, speed.model_flops_per_s, speed.of_peak) == pytest.approx((2.0, 20.0, 0.2))
    meter.restart()
    meter.add(2)
    assert meter.take().frames_per_s == pytest.approx(1.0)
