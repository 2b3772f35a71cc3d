"""One command on two processes learns what it learns on one; `make test-full` only, as each starts PyTorch anew."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STEPS = ("--steps", 2, "--steps-1", 2, "--steps-see", 2, "--steps-image", 2)
STAGES = {"see": ("measure",), "stage-1": ("predict", "understand"), "stage-2": ("predict", "act", "understand")}


def losses(out: Path) -> list[float]:
    found = []
    for stage, names in STAGES.items():
        for line in (out / stage / "curves.jsonl").read_text().splitlines():
            found += [json.loads(line)[name] for name in names]
    return found


@pytest.mark.full
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(
    dataset: Path, conversations: Path, measures: Path, tmp_path: Path, parallel: str
) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump({"data": {"pixels": 32}, "run": {"log_every": 1, "precision": "float32"}}))
    said = ("--conversations", conversations, "--measures", measures, "--config", written, "--parallel", parallel)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    told = []
    for name, launcher in (("one", ()), ("two", torchrun)):
        words = ["-m", *launcher, "vla_ros", "train", "up_vla", "--dataset", dataset, *said, *STEPS]
        run = [sys.executable, *map(str, words), "--batch", "4", "--out", str(tmp_path / name), "--device", "cpu"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        told.append(losses(tmp_path / name))
    assert len(told[0]) == 2 * (1 + 2 + 3)
    assert told[1] == pytest.approx(told[0], rel=2e-3)
    assert (tmp_path / "two" / "checkpoint" / "model.safetensors").stat().st_size > 1e6
