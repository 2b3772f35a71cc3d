#!/usr/bin/env python3
"""Write requirements.lock: one exact version of everything setup.py asks for; run it to update the pins.

usage: scripts/lock.py [PYTHON3.10 PYTHON3.11]

Two interpreters decide: 3.10 still needs older releases (numpy ended its support), everything newer takes what 3.11
takes. The lock carries no hashes and no addresses, so that pip finds the files wherever it is told to look.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "sim,record,models,ros,interfaces,dev"
TORCH = "torch==2.13.0"
#: What torch asks for depends on the build that pip finds, with CUDA or without; so that is left to pip.
OF_TORCH = re.compile(r"nvidia-.*|cuda-.*|triton")
HEADER = f"# Written by scripts/lock.py from setup.py[{EXTRAS}]; Python 3.10 to 3.14, x86_64. Do not edit.\n"


def resolve(python: str) -> dict[str, str]:
    """What pip would install into an empty environment of the interpreter `python`: name -> version."""
    with tempfile.TemporaryDirectory() as folder:
        report, venv = Path(folder) / "report.json", Path(folder) / "venv"
        subprocess.run([python, "-m", "venv", venv], check=True)
        pip = [venv / "bin/python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)  # 3.10 comes with one that writes no report
        command = [*pip, "--dry-run", "--ignore-installed", "--report", report, f"{ROOT}[{EXTRAS}]", TORCH]
        subprocess.run(command, check=True, cwd=folder)
        found = json.loads(report.read_text())["install"]
    metadata = (package["metadata"] for package in found)
    versions = {normal(entry["name"]): entry["version"].partition("+")[0] for entry in metadata}
    return {name: version for name, version in versions.items() if name != "vla-ros" and not OF_TORCH.fullmatch(name)}


def normal(name: str) -> str:
    """The one spelling of a distribution's name (packaging's rule)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(old: dict[str, str], new: dict[str, str]) -> str:
    """The lock's text: versions on which both agree bare, the others with the Python they are for."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            lines.append(f"{name}=={new[name]}")
            continue
        lines += [f'{name}=={old[name]} ; python_version < "3.11"'] if name in old else []
        lines += [f'{name}=={new[name]} ; python_version >= "3.11"'] if name in new else []
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    older, newer = sys.argv[1:] or ("python3.10", "python3.11")
    (ROOT / "requirements.lock").write_text(lock(resolve(older), resolve(newer)))
