"""vla-ros evaluate --dataset: how near a policy's actions and future frames are to what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vla_ros.cli.common import command_again, console, interrupted, progress, refuse

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vla_ros.config import SystemConfig
    from vla_ros.policies.policy import Policy
    from vla_ros.training.open_loop import OpenLoop
    from vla_ros.viewing.open_loop import Errors


def read_mapping(file: Path | None) -> dict[str, Any]:
    """The section `data` of a file as `vla-ros train --config` reads it; what is wrong with it is refused."""
    import yaml
    from pydantic import ValidationError

    from vla_ros.training.windows import DataConfig
    from vla_ros.values import problems_of

    if file is None:
        return {}
    try:
        whole = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        refuse(f"--config: {file} cannot be read: {error}")
    found = whole.get("data") if isinstance(whole, dict) else whole
    if found is None:  # as `vla-ros train` takes it
        return {}
    if not isinstance(found, dict):
        refuse(f"--config: {file} should have a section data, with fields {', '.join(DataConfig.model_fields)}")
    try:
        DataConfig.model_validate(found)
    except ValidationError as error:
        refuse(*(f"--config: {problem}" for problem in problems_of(error, "data")))
    return found


def evaluate_dataset(
    context: typer.Context,
    system: SystemConfig,
    policy: Policy,
    dataset: Path,
    samples: int | None,
    mapping: dict[str, Any],
    folder: Path,
) -> None:
    """Compare with progress, write and show what came out; what cannot be compared is refused."""
    from vla_ros.robots import catalogue
    from vla_ros.training.open_loop import compare

    out, wanted = console(), 0
    out.print(f"{system.policy.name} against {dataset}", soft_wrap=True)
    try:
        with progress() as show:

            def on_progress(done: int, total: int) -> None:
                nonlocal wanted
                wanted = total
                show("compared", done, total)

            found = compare(
                system.policy.name,
                policy,
                catalogue.find(system.robot),
                dataset,
                mapping=mapping,
                on_progress=on_progress,
                **({} if samples is None else {"samples": samples}),
            )
        found.write(folder / "report.json", checkpoint=system.policy.checkpoint)
    except ValueError as error:  # also a DatasetError
        refuse(str(error))
    for notice in found.notices:
        typer.echo(f"warning: {notice}", err=True)
    out.print(_table(found))
    out.print(f"report     {folder / 'report.json'}", soft_wrap=True)
    _draw(found, folder, out)
    if found.samples < wanted:
        interrupted(
            f"the report has the first {found.samples} of {wanted} rows",
            f"to compare all of them: {command_again(context, out=None)}",
        )


def _table(found: OpenLoop) -> Table:
    from rich.table import Table

    table = Table(title=f"{found.policy}, {found.samples} rows of {found.dataset}", title_justify="left")
    for name in ("mean error", "first row", "last row", "all rows", "standing still"):
        table.add_column(name, justify="left" if name == "mean error" else "right")
    for errors in filter(None, (found.actions, found.path)):
        for line in _lines(errors):
            table.add_row(*line)
        table.add_section()
    for camera, predicted in found.predicted.items():
        copied = found.copied[camera]
        table.add_row(f"{camera}: PSNR of {predicted.frames} future frames, dB", "", "",
                      f"{predicted.psnr_db:.1f}", f"{copied.psnr_db:.1f}")  # fmt: skip
        table.add_row(f"{camera}: SSIM", "", "", f"{predicted.ssim:.3f}", f"{copied.ssim:.3f}")
    return table


def _lines(errors: Errors) -> list[tuple[str, ...]]:
    from vla_ros.viewing.open_loop import mean_of

    def said(value: Any) -> str:
        return "" if value is None else f"{value:.3g}"

    return [
        (
            f"{name}, {unit}" if unit else name,
            said(mean_of(errors.policy[:1, column])),
            said(mean_of(errors.policy[-1:, column])),
            said(mean_of(errors.policy[:, column])),
            "" if errors.still is None else said(mean_of(errors.still[:, column])),
        )
        for column, (name, unit) in enumerate(zip(errors.names, errors.units, strict=True))
    ]


def _draw(found: OpenLoop, folder: Path, out: Console) -> None:
    from vla_ros.viewing.open_loop import render_errors, render_frames

    title = f"{found.policy} against {Path(found.dataset).name}: mean error over {found.samples} rows"
    groups = [("each row's values, as the policy writes them", found.actions)]
    if found.path is not None:
        groups.append(("where the arm would be at that row, if it followed exactly", found.path))
    notes = [
        f"{camera}, {score.frames} frames: predicted PSNR {score.psnr_db:.1f} dB, SSIM {score.ssim:.3f}; "
        f"copying the current frame {found.copied[camera].psnr_db:.1f} dB, {found.copied[camera].ssim:.3f}"
        for camera, score in found.predicted.items()
    ]
    try:
        errors = render_errors(title, found.step_s, groups, folder / "errors.png")
        out.print(f"pictures   {errors}", soft_wrap=True)
        if found.examples:
            title = f"{found.policy} against {Path(found.dataset).name}: future frames"
            frames = render_frames(title, notes, found.examples, folder / "frames.png")
            out.print(f"           {frames}", soft_wrap=True)
    except ModuleNotFoundError as error:
        out.print(f"pictures   none: {error}", soft_wrap=True)
