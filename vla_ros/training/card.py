"""The model card: what a checkpoint of UP-VLA is, what it was trained on and how that went, how it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.checkpoints.files import CheckpointError
from vla_ros.checkpoints.manifest import CARD, UpVlaManifest
from vla_ros.recording.files import write_atomically

#: Where the success rate goes when it has been measured; `vla-ros evaluate` tells it.
UNMEASURED = "not yet measured: `vla-ros evaluate` tells it"
_SUCCESS = "| success rate | "

_LOSSES = {
    "measure": "where things are in pictures (of standard deviations)",
    "predict": "next frame (cross entropy of codes)",
    "act": "actions (squared error, gripper cross entropy)",
    "understand": "answers (cross entropy of words)",
}


def model_card(manifest: UpVlaManifest, parameters: int) -> str:
    """Markdown with the front matter that model hubs read."""
    trained, model = manifest.trained, manifest.model
    cameras = ", ".join(f"{one.name} ({one.width} x {one.height})" for one in manifest.cameras)
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: vla_ros",
        "pipeline_tag: robotics",
        "---",
        "",
        f"# {manifest.size}, trained on {', '.join(trained.get('datasets', [])) or 'nothing'}",
        "",
        f"UP-VLA with conditioning `{model.conditioning}` for `{manifest.robot}`: sees {cameras}"
        + (f" and its own {' and '.join(manifest.proprioception)}" if manifest.proprioception else "")
        + f", follows an instruction, gives {manifest.action.horizon} actions of "
        f"{manifest.action.rate_hz:g} Hz and the frame that it expects after them.",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {parameters / 1e6:.1f} million |",
        f"| layers, width | {model.layers}, {model.width} |",
        f"| actions | {manifest.action.space.value}, {', '.join(manifest.action.dimensions)} |",
        f"{_SUCCESS}{UNMEASURED} |",
        "",
        "## Data",
        "",
        f"- {trained.get('episodes', 0)} episodes with {trained.get('rows', 0)} rows; "
        f"{len(trained.get('held_out_episodes', []))} episodes of them held out",
        f"- {trained.get('turns', 0)} questions about images with their answers",
        f"- {trained.get('measured', 0)} pictures with where things are, for the vision encoder to learn to see by",
        *(f"- instruction: {text}" for text in manifest.instructions),
        "",
        "## Training",
        "",
        f"Seed {trained.get('seed')}, {trained.get('precision')}, {trained.get('processes')} process(es) on "
        f"{trained.get('device')}" + (f", from {trained['start']}" if trained.get("start") else "") + ".",
        "",
        "| | " + " | ".join(stages := list(trained.get("stages", {}))) + " |",
        "|---|" + "---|" * len(stages),
        *(f"| {label} | {' | '.join(values)} |" for label, values in _rows(trained.get("stages", {})).items()),
        "",
        "## Use",
        "",
        "```sh",
        "vla-ros evaluate SYSTEM --checkpoint THIS_FOLDER",
        "vla-ros run SYSTEM --policy up_vla --checkpoint THIS_FOLDER",
        "```",
        "",
        f"It knows these words: {', '.join(manifest.words) or 'any'}. What it was not trained on (other cameras, "
        "other places of them, another robot) it cannot do.",
        "",
    ]
    return "\n".join(lines)


def record_success(folder: Path, said: str) -> None:
    """Put a measured success rate, as "23 of 50 (33 % to 60 %), seeds 1000 on", into the card of a checkpoint.

    Raises CheckpointError where the folder has no card with a place for it.
    """
    path = folder / CARD
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    changed, places = re.subn(rf"^{re.escape(_SUCCESS)}.*$", lambda _: f"{_SUCCESS}{said} |", card, flags=re.MULTILINE)
    if not places:
        raise CheckpointError(f"{path} is not a model card with a line for the success rate")
    write_atomically(path, changed.encode())


def _rows(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Label -> a value for each stage."""
    rows = {
        "updates": [f"{stage.get('step', 0)}" for stage in stages.values()],
        "windows, conversations an update": [
            f"{stage.get('batch')}, {stage.get('conversations')}" for stage in stages.values()
        ],
        "time": [f"{stage.get('seconds', 0) / 60:.0f} min" for stage in stages.values()],
    }
    for name, label in _LOSSES.items():
        if any(name in stage for stage in stages.values()):
            rows[f"loss: {label}"] = [_loss(stage, name) for stage in stages.values()]
    return rows


def _loss(stage: Mapping[str, Any], name: str) -> str:
    if name not in stage:
        return "-"
    held_out = stage.get(f"held_out_{name}")
    return f"{stage[name]:.4g}" + (f" (held out {held_out:.4g})" if held_out is not None else "")
