"""vla-ros calibrate hand-eye, calibrate board: where a camera is fixed, and the board that it takes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import EXIT_FAILED, Simulate, System, clear_errors, obstacle, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vla_ros.calibration.board import Board
    from vla_ros.calibration.hand_eye import Mounting
    from vla_ros.calibration.views import Solved, ViewSet
    from vla_ros.config import SystemConfig
    from vla_ros.ros.calibrating_hand_eye import Plan

_SIMULATED_SIZE = {"width": 640, "height": 480}

BoardOption = Annotated[
    str,
    typer.Option(
        "--board",
        metavar="5x7,36,27,DICT_4X4_50",
        help="Squares across and down, a square's edge and a marker's [mm], dictionary; what is printed on the board.",
        show_default=False,
    ),
]


def board(
    file: Annotated[Path, typer.Argument(metavar="FILE.pdf|.png", help="Where it goes.")],
    board: BoardOption = "",
) -> None:
    """Write a ChArUco board to print at true scale; the default fits A4."""
    with clear_errors():
        from vla_ros.calibration import sheet

        if why := obstacle(file):
            refuse(f"{file}: cannot be written: {why}")
        chosen = _board(board)
        try:
            width_m, height_m = sheet.write(chosen, file)
        except ValueError as error:
            refuse(str(error))
        typer.echo(f"{file}: {chosen}; {1000 * width_m:.0f} x {1000 * height_m:.0f} mm")
        typer.echo("print at 100 %, not fitted to the page; check the ruler; mount it on something flat and stiff")


def hand_eye(
    system: System,
    camera: Annotated[str, typer.Option(metavar="NAME", help="Which camera of the system.")],
    mounting: Annotated[
        str,
        typer.Option(
            metavar="in-hand|to-hand",
            help="The camera is on the arm and the board lies still, or the other way round; otherwise as the system "
            "says.",
        ),
    ] = "",
    link: Annotated[str, typer.Option(help="The link that carries the camera or the board; otherwise the hand.")] = "",
    board: BoardOption = "",
    views: Annotated[int, typer.Option(min=5, help="Number of views; with --auto at most 15.")] = 15,
    auto: Annotated[
        bool, typer.Option("--auto", help="The arm moves itself, by some centimetres and degrees.")
    ] = False,
    intrinsics: Annotated[
        bool, typer.Option("--intrinsics", help="Estimate them from the same views, instead of camera_info's.")
    ] = False,
    sim: Simulate = None,
    folder: Annotated[Path | None, typer.Option(metavar="DIR", help="For the views; default: runs/<time>/.")] = None,
    recompute: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take no views; use those of an earlier calibration.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the camera's pose into the system's file.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a real arm moves.")] = False,
) -> None:
    """Find where a camera is fixed, by views of a ChArUco board (vla-ros calibrate board).

    A person moves the arm (by hand, by teleoperation) and lets it stand where the board is seen, or the arm moves
    itself (--auto; always in simulation). Views are kept, so that they can be computed again.
    """
    with clear_errors():
        from vla_ros import config
        from vla_ros.calibration import pictures
        from vla_ros.calibration import views as kept

        chosen = config.load(system)
        if camera not in chosen.cameras:
            refuse(f"--camera: {system} has none of that name (given {camera}); there are {', '.join(chosen.cameras)}")
        where = recompute or folder or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        try:
            if recompute:
                taken = kept.load(recompute)
                taken = taken.model_copy(update={"board": _board(board) if board else taken.board})
                taken = taken.model_copy(update={"matrix": ()}) if intrinsics else taken
            else:
                if (where / kept.FILE).exists() or obstacle(where / kept.FILE):
                    refuse(f"--folder: {where} already contains views, or cannot be created; give a new one")
                simulates = (chosen.simulation is not None) if sim is None else sim
                plan = _plan(chosen, camera, mounting, link, _board(board), views, auto or simulates, intrinsics)
                taken = _take(chosen, plan, where, simulates, yes)
            solved = kept.solve(where, taken)
        except config.ConfigError:
            raise
        except ValueError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from None
        _show(solved)
        typer.echo(f"views      {where}; to compute again: --from {where}")
        typer.echo(f"picture    {pictures.draw(solved, where / 'hand_eye.png')}")
        if write:
            _write(system, camera, solved)


def _board(text: str) -> Board:
    """The board that is printed; refuses what is none."""
    from pydantic import ValidationError

    from vla_ros.calibration.board import Board
    from vla_ros.values import problems_of

    try:
        return Board.parse(text) if text else Board()
    except ValidationError as error:
        refuse(*(f"--board: {problem}" for problem in problems_of(error)))
    except ValueError as error:
        refuse(f"--board: {error}")


def _plan(
    system: SystemConfig,
    camera: str,
    mounting: str,
    link: str,
    board: Board,
    count: int,
    auto: bool,
    intrinsics: bool,
) -> Plan:
    from vla_ros.calibration.hand_eye_motion import MOST_POSES
    from vla_ros.robots import catalogue
    from vla_ros.ros.calibrating_hand_eye import Plan

    robot = catalogue.find(system.robot)
    if link and link not in robot.links:
        refuse(f"--link: the {robot.title} has none of that name (given {link}); there are {', '.join(robot.links)}")
    if auto and count > MOST_POSES:
        refuse(f"--views: with --auto at most {MOST_POSES} (given {count})")
    carrier = link or robot.gripper.frame
    return Plan(camera, _mounting(system, camera, mounting), carrier, board, count, auto, None, intrinsics)


def _mounting(system: SystemConfig, camera: str, given: str) -> Mounting:
    """As asked for, or as the system or its simulation says of the camera."""
    from vla_ros.calibration.hand_eye import Mounting
    from vla_ros.robots import catalogue

    known = [each.value for each in Mounting]
    if given:
        if given not in known:
            refuse(f"--mounting: given {given}; should be {' or '.join(known)}")
        return Mounting(given)
    model = system.simulation.cameras.get(camera) if system.simulation else None
    base = catalogue.find(system.robot).base_frame
    if not system.cameras[camera].frame and model is None:
        refuse(f"--mounting: nothing says what camera {camera} is fixed to; give {' or '.join(known)}")
    frame = system.cameras[camera].frame or (model.frame if model else "")
    return Mounting.TO_HAND if frame in ("", base) else Mounting.IN_HAND


def _take(system: SystemConfig, plan: Plan, folder: Path, simulates: bool, yes: bool) -> ViewSet:
    """Take the views, with what has to run for that; refuses where a person does not want the arm to move."""
    from contextlib import nullcontext
    from dataclasses import replace

    from vla_ros.graph import build_without_policy
    from vla_ros.ros import transport
    from vla_ros.ros.calibrating_hand_eye import take_views
    from vla_ros.ros.supervising import Supervisor
    from vla_ros.simulation.board import VIEWPOINTS

    if simulates:
        system, plan = _with_board(system, plan), replace(plan, viewpoint=VIEWPOINTS[plan.mounting])
    # A person who moves the arm has what moves it running.
    graph = build_without_policy(system, simulate=simulates) if plan.auto else None

    def confirm(intention: str) -> bool:
        typer.echo(intention)
        return simulates or yes or typer.confirm("Is there room for that, with the board or the camera on the arm?")

    def run(environment: Mapping[str, str]) -> ViewSet | None:
        os.environ.update(environment)
        with Supervisor(graph, environment, lambda name, line: None) if graph else nullcontext():  # who dies is quoted
            return take_views(system, plan, folder, simulate=simulates, confirm=confirm, on_progress=typer.echo)

    transport.remove_dead_segments()
    if simulates:
        with transport.locked_domain_id() as domain_id:
            taken = run(transport.local_environment(os.environ, domain_id))
    else:
        taken = run(transport.environment(os.environ))
    if taken is None:
        typer.echo("nothing was moved", err=True)
        raise typer.Exit(EXIT_FAILED)
    return taken


def _with_board(system: SystemConfig, plan: Plan) -> SystemConfig:
    """The simulated system with the board in its world, and no other camera than the one to be calibrated."""
    from vla_ros.calibration.hand_eye import Mounting
    from vla_ros.simulation import board as simulated

    if system.simulation is None:
        refuse("simulation: asked for, but the system has no such section; add it, or run without")
    in_hand = plan.mounting is Mounting.IN_HAND
    model = simulated.on_table(plan.board) if in_hand else simulated.in_hand(plan.board, plan.link)
    camera = system.cameras[plan.camera].model_copy(update=_SIMULATED_SIZE)
    world = system.simulation.model_copy(update={"board": model, "faults": {}})
    return system.model_copy(update={"cameras": {plan.camera: camera}, "simulation": world})


def _show(solved: Solved) -> None:
    """What was found, how well it is known, and what tells TF."""
    found, about = solved.hand_eye, solved.set
    for name, text in _measured(solved).items():
        typer.echo(f"{name:<16} {text}")
    names = ("x", "y", "z", "qx", "qy", "qz", "qw")
    flags = " ".join(f"--{name} {value:.6f}" for name, value in zip(names, found.pose, strict=True))
    frames = f"--frame-id {about.parent} --child-frame-id {about.frame_id or about.camera}"
    typer.echo(f"ros2 run tf2_ros static_transform_publisher {flags} {frames}")


def _measured(solved: Solved) -> dict[str, str]:
    from math import degrees

    import numpy as np

    from vla_ros.geometry import RotationForm, rotation_angle, rotation_matrix, rotation_values

    found, about = solved.hand_eye, solved.set
    matrix = rotation_matrix(found.pose[3:], RotationForm.QUATERNION)
    angles = np.degrees(rotation_values(matrix, RotationForm.EULER_XYZ))
    rejected = [f"{solved.kept[number] + 1} ({found.view_rms_px[number]:.1f} px)" for number in found.rejected]
    lines = {
        f"camera {about.camera}": f"in {about.parent}, its optical frame",
        "x y z": f"{_numbers(found.pose[:3], 5)} m",
        "roll pitch yaw": f"{_numbers(angles, 3)} deg",
        "qx qy qz qw": _numbers(found.pose[3:], 6),
        "known to": f"{1000 * found.spread_m:.2f} mm, {degrees(found.spread_rad):.3f} deg (leaving out each view)",
        "corners": f"{found.rms_px:.2f} px from where they should be",
        "board": f"{1000 * found.error_m:.2f} mm, {degrees(found.error_rad):.2f} deg from where it should be; "
        f"by the arm's measure {100 * found.scale:.2f} % of its size",
        "views used": f"{len(solved.kept) - len(rejected)} of {len(about.views)}",
    }
    if rejected:
        lines["views rejected"] = ", ".join(rejected)
    if about.pose_in_tf is not None:
        apart_mm = 1000 * float(np.linalg.norm(found.pose[:3] - about.pose_in_tf[:3]))
        apart_deg = degrees(rotation_angle(found.pose[3:], np.array(about.pose_in_tf[3:])))
        lines["TF said"] = f"{apart_mm:.2f} mm, {apart_deg:.3f} deg from this"
    if not about.matrix:
        (focal_x, _, center_x), (_, focal_y, center_y) = solved.intrinsics.matrix[:2]
        lines["intrinsics"] = (
            f"estimated: fx {focal_x:.1f} fy {focal_y:.1f} cx {center_x:.1f} cy {center_y:.1f}, distortion "
            f"{_numbers(solved.intrinsics.distortion[:2], 4)}; what they are off comes on top"
        )
    return lines


def _numbers(values: Iterable[float], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


def _write(name: str, camera: str, solved: Solved) -> None:
    from vla_ros import config
    from vla_ros.calibration.views import as_seven
    from vla_ros.config.editing import set_values

    file = config.find(name)
    keys = {f"cameras.{camera}.frame": solved.set.parent, f"cameras.{camera}.pose": [*as_seven(solved.hand_eye.pose)]}
    set_values(file, keys)
    typer.echo(f"written    {', '.join(keys)} in {file}")
