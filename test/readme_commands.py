"""The README's commands, as tests type them in."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    [shlex.split(line, comments=True) for line in block.splitlines() if line.startswith(".venv/bin/vla-ros")]
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
]
#: Those of recording need what the ones before them left.
RECORDING = next(block for block in BLOCKS if any(command[1] == "replay" for command in block))
#: Those of training take an hour; training/test_up_vla.py and test_cli_evaluate.py go the same way with less.
TRAINING = next(block for block in BLOCKS if any(command[1] == "train" for command in block))
#: A model that is asked while it runs: ros/test_readme_commands.py does so at full counts.
ASKING = next(block for block in BLOCKS if any(command[1] == "ask" for command in block))
COMMANDS = [command for block in BLOCKS if block not in (RECORDING, TRAINING, ASKING) for command in block]
#: The one that never ends by itself; ros/test_readme_commands.py runs and interrupts it.
UNTIL_INTERRUPTED = [".venv/bin/vla-ros", "run", "franka_upvla", "--instruction", "lift the red cube"]
#: ros/test_doctor.py runs it and reads all of what it says.
DOCTOR = [".venv/bin/vla-ros", "doctor"]


def type_in(command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    done = subprocess.run(
        [sys.executable, "-m", "vla_ros", *command[1:]],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
