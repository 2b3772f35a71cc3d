"""vla-ros train: datasets into a model that acts."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_ros.cli.common import (
    EXIT_FAILED,
    checkpoint_errors,
    clear_errors,
    command_again,
    dataset_errors,
    interrupted,
    obstacle,
    refuse,
)

if TYPE_CHECKING:
    from vla_ros.training.up_vla import Until
    from vla_ros.training.up_vla_material import Request

app = typer.Typer(help="Train a model on datasets.", no_args_is_help=True)

_LOCK = ".lock"
_STAGES = ("text", "image", "see", "1", "describe", "2", "all")


@app.callback()
def _models() -> None:
    """Train a model on datasets."""


@app.command("up_vla")
def up_vla(
    context: typer.Context,
    dataset: Annotated[list[Path], typer.Option(metavar="DIR", help="A LeRobot dataset; may be given more than once.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder; the model goes to DIR/checkpoint.")],
    conversations: Annotated[
        list[Path] | None, typer.Option(metavar="JSON", help="Conversations in LLaVA's format; repeatable.")
    ] = None,
    measures: Annotated[
        list[Path] | None,
        typer.Option(metavar="JSONL", help="Images with measurements for the vision encoder; repeatable."),
    ] = None,
    size: Annotated[str, typer.Option(help="up-vla-demo, or up-vla-release with --start.")] = "up-vla-demo",
    start: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkpoint to start from, with its tokenizers.")
    ] = None,
    stage: Annotated[
        str, typer.Option(help=f"The last stage to run: {', '.join(_STAGES)}. Finished ones are not repeated.")
    ] = "all",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in the folder.")] = False,
    steps: Annotated[int, typer.Option(min=0, help="Updates of stage 2; default: the size's.")] = 0,
    steps_1: Annotated[int, typer.Option("--steps-1", min=0, help="Updates of stage 1.")] = 0,
    steps_see: Annotated[int, typer.Option(min=0, help="Updates of the vision encoder.")] = 0,
    steps_image: Annotated[int, typer.Option(min=0, help="Updates of the image tokenizer.")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="Windows per update, over all processes.")] = 0,
    conversation_batch: Annotated[int, typer.Option(min=0, help="Conversations per update of stage 1.")] = 0,
    parts: Annotated[int, typer.Option(min=0, help="Micro-batches per process and update, to save memory.")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="The highest; default: the size's.")] = 0.0,
    config: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="All other settings: sections data (columns, cameras, action), recipe, run."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and chance.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "",
    parallel: Annotated[str, typer.Option(help="Under torchrun: ddp, or fsdp to shard the model as well.")] = "",
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Keep fewer activations: less memory, a third more work.")
    ] = False,
) -> None:
    """Train UP-VLA, in all stages or some: tokenizers, vision encoder, prediction, descriptions, actions."""
    with clear_errors(), dataset_errors(), checkpoint_errors():
        run = {"seed": seed, "device": device, "precision": precision, "parallel": parallel, "recompute": recompute}
        stages: dict[str, dict[str, Any]] = {
            "image_tokenizer": {"steps": steps_image},
            "see": {"steps": steps_see},
            "stage_1": {"steps": steps_1, "batch": batch, "conversations": conversation_batch, "parts": parts},
            "stage_2": {"steps": steps, "batch": batch, "parts": parts},
        }
        for name in ("stage_1", "stage_2"):
            stages[name]["optimizer"] = {"learning_rate": learning_rate}
        if stage not in _STAGES:
            refuse(f"--stage: unknown stage {stage}; should be one of {', '.join(_STAGES)}")
        _refuse_unless_fit(out, resume)
        given = _read(config)
        said = {"conversations": tuple(conversations or ()), "measures": tuple(measures or ())}
        request = _request(
            {"datasets": tuple(dataset), **said, "out": out, "start": start},
            size,
            _given({"recipe": stages, "run": run}),
            given,
        )
        from vla_ros.training.up_vla import Until

        _train(context, request, Until.ACT if stage == "all" else Until(stage))


def _train(context: typer.Context, request: Request, until: Until) -> None:
    from vla_ros.recording.files import FolderLock
    from vla_ros.training.distributed import joined
    from vla_ros.training.progress import shown
    from vla_ros.training.up_vla import UpVlaTraining
    from vla_ros.viewing.progress import Interrupted

    try:
        with joined(request.run.device) as processes, ExitStack() as stack:
            leads = processes.leads
            if leads:
                stack.enter_context(FolderLock(request.out, request.out / _LOCK))
                stack.callback(_remove_if_unused, request.out)
            training = UpVlaTraining(request, processes, stack.enter_context(shown(leads)))
            for notice in training.samples.notices if leads else ():
                typer.echo(f"warning: {notice}", err=True)
            made = training.run(until)
    except Interrupted as stop:
        interrupted(str(stop), _how_to_continue(context))
    except KeyboardInterrupt:  # between two stages, or while frames are read
        if is_training(request.out):
            interrupted(f"the finished stages are kept in {request.out}", _how_to_continue(context))
        interrupted("nothing has been trained yet")
    except (ValueError, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    if leads:
        typer.echo(f"{made}")


def _remove_if_unused(out: Path) -> None:
    """Leave no folder of a training that was refused before it made anything."""
    if [entry.name for entry in out.iterdir()] == [_LOCK]:
        (out / _LOCK).unlink()
        out.rmdir()


def _how_to_continue(context: typer.Context) -> str:
    if "RANK" in os.environ:  # torchrun has its own part of the command
        return "the same command with --resume continues"
    return f"to continue: {command_again(context, resume=True)}"


def _request(where: dict[str, Any], size: str, wanted: dict[str, Any], given: dict[str, Any]) -> Request:
    """What is asked for: the size's recipe, the file over it, the options over that; exits with 2 for what is wrong."""
    from pydantic import ValidationError

    from vla_ros.checkpoints.manifest import load_manifest
    from vla_ros.training.config import RECIPES, Recipe, RunConfig
    from vla_ros.training.up_vla_material import Request, data_of
    from vla_ros.training.windows import DataConfig
    from vla_ros.values import problems_of

    settled = {} if where["start"] is None else data_of(load_manifest(where["start"]))
    if size not in RECIPES:
        refuse(f"--size: unknown size {size}; should be one of {', '.join(RECIPES)}")
    try:
        recipe = _over(RECIPES[size].model_dump(), given.get("recipe", {}), wanted.get("recipe", {}))
        return Request(
            size=size,
            recipe=Recipe.model_validate(recipe),
            data=DataConfig.model_validate({**settled, **given.get("data", {})}),
            run=RunConfig.model_validate(_over({}, given.get("run", {}), wanted.get("run", {}))),
            **where,
        )
    except ValidationError as error:
        refuse(*(f"{error.title}: {problem}" for problem in problems_of(error)))


def _over(base: dict[str, Any], *layers: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries laid over each other, section by section."""
    laid = dict(base)
    for layer in layers:
        for name, value in layer.items():
            below = laid.get(name)
            laid[name] = _over(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return laid


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were given: others are empty, 0 or False, but for the seed, which may be 0; no empty section."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            if inner := _given(value):
                found[name] = inner
        elif value or (name == "seed" and value is not None):
            found[name] = value
    return found


def _read(path: Path | None) -> dict[str, Any]:
    """The file of --config; exits with 2 for one that cannot be read, or has other sections."""
    if path is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        refuse(f"--config: {path} cannot be read: {error}")
    sections = ("data", "recipe", "run")
    if not isinstance(content, dict) or any(name not in sections for name in content):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        refuse(f"--config: {path} should have sections {', '.join(sections)} only, found {found}")
    if wrong := [name for name, section in content.items() if section is not None and not isinstance(section, dict)]:
        refuse(f"--config: {path}: {', '.join(wrong)} should be sections with names and values")
    return {name: section for name, section in content.items() if section is not None}


def is_training(out: Path) -> bool:
    """Whether a training has begun in a folder."""
    return any((out / name).exists() for name in ("frames", "text", "image_tokenizer", "see", "stage-1", "checkpoint"))


def _refuse_unless_fit(out: Path, resume: bool) -> None:
    """A new folder, or one with a training in it and --resume."""
    if os.environ.get("RANK", "0") != "0":
        return  # the first process has looked, and may have begun
    is_there = is_training(out)
    if is_there and not resume:
        refuse(f"--out: {out} already contains a training; --resume continues it")
    if resume and not is_there:
        refuse(f"--resume: {out} contains no training to continue")
    if not is_there and out.is_dir() and any(entry.name not in ("log", _LOCK) for entry in out.iterdir()):
        refuse(f"--out: {out} is not empty and contains no training; give a new folder")
    if not out.is_dir() and (why := obstacle(out)):
        refuse(f"--out: {out} cannot be created: {why}")
