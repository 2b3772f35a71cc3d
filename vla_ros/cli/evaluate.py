"""vla-ros evaluate: how often a policy succeeds, in closed loop; or how near it is to what was recorded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_ros.cli.common import (
    EXIT_FAILED,
    check_policy,
    checkpoint_errors,
    clear_errors,
    command_again,
    complete_policy,
    complete_system,
    console,
    dataset_errors,
    episode_line,
    interrupted,
    load_system,
    obstacle,
    progress,
    refuse,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vla_ros.config import SystemConfig
    from vla_ros.policies.policy import Policy
    from vla_ros.rollout.evaluating import Evaluation, EvaluationConfig, Evaluator, Outcome
    from vla_ros.viewing.evaluation import Film

#: For help alone, which loads nothing: a test holds them to what `EvaluationConfig` and `compare` have.
_EPISODES, _SEED, _FILMS, _SAMPLES = 50, 1000, 3, 500
_MOMENTS = 6  # of an episode that are drawn


def evaluate(
    context: typer.Context,
    system: Annotated[
        str,
        typer.Argument(help="A system's name, or its .yaml file.", autocompletion=complete_system),
    ] = "franka_upvla",
    checkpoint: Annotated[str, typer.Option(metavar="DIR", help="The policy's weights.")] = "",
    policy: Annotated[
        str, typer.Option(help="Use this policy, not the system's.", autocompletion=complete_policy)
    ] = "",
    episodes: Annotated[
        int | None, typer.Option(min=1, help=f"Simulated episodes; default: {_EPISODES}.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help=f"Of the first episode; default: {_SEED}.", show_default=False)
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="lift, push left, push right, stack, or an instruction; may be given more than once."),
    ] = None,
    control: Annotated[str, typer.Option(help="A negative control: wrong-instruction or blank-image.")] = "",
    delay_ms: Annotated[
        float | None,
        typer.Option(min=0.0, help="Inference delay to inject; default: measured here."),
    ] = None,
    films: Annotated[
        int | None,
        typer.Option(min=0, help=f"Successes and failures to film, of each; default: {_FILMS}.", show_default=False),
    ] = None,
    require_successes: Annotated[int, typer.Option(min=0, help="Exit with 1 if fewer episodes succeed.")] = 0,
    card: Annotated[
        bool, typer.Option("--card", help="Write the success rate into the checkpoint's model card as well.")
    ] = False,
    dataset: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Compare with this recorded dataset; nothing moves.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help=f"Rows of the dataset, evenly spaced; default: {_SAMPLES}.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="For a third-party dataset: section data, as for training."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For report, pictures and films; default: runs/<time>/.")
    ] = None,
) -> None:
    """Evaluate a policy: its success rate in simulation, or with --dataset its errors against recorded data."""
    with clear_errors(), dataset_errors():
        closed_loop = {
            "--episodes": episodes, "--seed": seed, "--tasks": tasks, "--control": control or None,
            "--delay-ms": delay_ms, "--films": films, "--require-successes": require_successes or None,
            "--card": card or None,
        }  # fmt: skip
        given = [name for name, value in closed_loop.items() if value is not None]
        if dataset is not None and given:
            refuse(f"{', '.join(given)}: cannot be combined with --dataset, which runs no episodes")
        if dataset is None and (samples is not None or config is not None):
            refuse("--samples, --config: need --dataset")
        if card and (control or not checkpoint):
            refuse("--card: needs --checkpoint, and cannot be combined with --control")
        folder = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        if why := obstacle(folder / "report.json"):
            refuse(f"--out: {folder} cannot be written to: {why}")
        if (folder / "report.json").exists():
            refuse(f"--out: {folder} already has a report, which is not overwritten; give a new folder")
        chosen = _chosen(system, policy, checkpoint)
        if dataset is not None:
            from vla_ros.cli.evaluate_dataset import evaluate_dataset, read_mapping

            mapping = read_mapping(config)
            evaluate_dataset(context, chosen, load_policy(chosen), dataset, samples, mapping, folder)
            return
        check_policy(chosen)  # of a dataset the cameras are the dataset's, not the system's
        wanted = _config(
            {
                "episodes": episodes, "seed": seed, "tasks": tuple(tasks) if tasks else None,
                "control": control or None, "inference_delay_ms": delay_ms,
                "films": films,
            }
        )  # fmt: skip
        evaluation = _run(context, chosen, load_policy(chosen), wanted, folder)
        if card:
            _record(chosen, evaluation)
        if evaluation.report.successes < require_successes:
            raise typer.Exit(EXIT_FAILED)


def _chosen(name: str, policy: str, checkpoint: str) -> SystemConfig:
    """The system; where weights are given to one whose policy has none, with the policy that has some."""
    from vla_ros import config
    from vla_ros.policies import registry

    if checkpoint and not policy:
        own = config.load(name, registry.names()).policy.name
        with_weights = [other for other, entry in registry.POLICIES.items() if entry.needs_checkpoint]
        if not registry.POLICIES[own].needs_checkpoint:
            if len(with_weights) != 1:
                refuse(f"--checkpoint: give --policy as well, one of {', '.join(with_weights)}")
            policy = with_weights[0]
    return load_system(name, policy=policy, checkpoint=checkpoint)


def load_policy(system: SystemConfig) -> Policy:
    """The system's policy with its weights; what is wrong with them is said."""
    from vla_ros.policies import registry
    from vla_ros.robots import catalogue

    # Read when torch is loaded. Threads that spin while they wait for each other slow down what draws the pictures.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    chosen = system.policy
    try:
        return registry.load(
            chosen.name,
            robot=catalogue.find(system.robot),
            action=system.action,
            **chosen.model_dump(exclude={"name"}),
        )
    except ValueError as error:
        refuse(f"policy {chosen.name}: {error}")


def _config(given: dict[str, Any]) -> EvaluationConfig:
    """Which episodes; without what is left open."""
    from pydantic import ValidationError

    from vla_ros.rollout.evaluating import EvaluationConfig
    from vla_ros.values import problems_of

    try:
        return EvaluationConfig.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        refuse(*problems_of(error))


# --- closed loop


def _run(
    context: typer.Context, system: SystemConfig, policy: Policy, config: EvaluationConfig, folder: Path
) -> Evaluation:
    """Run the episodes with progress; the report is written after each, so that an interrupt loses none."""
    from vla_ros.policies.policy import PolicyError

    out = console()
    deprived = f", {config.control.value}" if config.control else ""
    out.print(f"{system.title}; {system.policy.name}{deprived}; episodes: {config.episodes}")
    if config.inference_delay_ms is None:
        out.print("measuring the inference delay on this machine")
    shown: list[Film] = []
    about = {"system": system.title, "checkpoint": system.policy.checkpoint}
    problem, is_interrupted = "", False
    with _evaluator(system, policy, config) as evaluator:
        how = "measured here" if config.inference_delay_ms is None else "as given"
        out.print(f"inference delay {evaluator.delay_ms:.0f} ms, {how}")
        for line in _slowness(evaluator, system):
            typer.echo(line, err=True)
        try:
            _run_all(evaluator, shown, folder, about)
        except PolicyError as error:
            problem = f"policy {system.policy.name}: {error}"
        except KeyboardInterrupt:
            is_interrupted = True
        evaluation = evaluator.evaluation
    done = len(evaluation.outcomes)
    if evaluation.outcomes:
        evaluation.write(folder / "report.json", **about)  # Ctrl-C may have come just before
        out.print(_table(evaluation))
        out.print(f"report     {folder / 'report.json'}", soft_wrap=True)
        _draw(evaluation, shown, folder / "episodes.png", out)
        took_ms = evaluation.inference_ms.p50
        if took_ms is not None and took_ms > evaluation.delay_ms:
            out.print(f"note: inference took {took_ms:.0f} ms here, longer than the injected delay")
    if is_interrupted:
        rest = command_again(
            context, episodes=config.episodes - done, seed=config.seed + done, out=None,
            delay_ms=f"{evaluation.delay_ms:g}",
        )  # fmt: skip
        interrupted(
            f"the report has {done} of {config.episodes} episodes" if done else "no episode was finished",
            *([f"to continue, with the same delay: {rest}"] if done < config.episodes else []),
        )
    if problem:
        typer.echo(f"error: {problem}, after {done} of {config.episodes} episodes", err=True)
        raise typer.Exit(EXIT_FAILED)
    return evaluation


def _slowness(evaluator: Evaluator, system: SystemConfig) -> list[str]:
    """What to know where the delay that was measured is this machine's, and not the policy's."""
    config = evaluator.config
    if config.inference_delay_ms is not None:
        return []
    action = evaluator.action
    chunk_ms, period_ms = 1e3 * action.horizon / action.rate_hz, 1e3 / system.inference.max_rate_hz
    load, cpus = os.getloadavg()[0], len(os.sched_getaffinity(0))
    busy = f"; other programs use this machine (load {load:.1f} on {cpus} processors)" if load > 1.5 * cpus else ""
    if evaluator.delay_ms <= period_ms and not (busy and evaluator.delay_ms > 0.5 * period_ms):
        return []
    why = (
        f"warning: an inference takes {evaluator.delay_ms:.0f} ms on this machine, and a chunk lasts {chunk_ms:.0f} ms"
        f"{busy}: the results depend on this machine as well as on the policy"
    )
    return [why, "to evaluate the policy alone, give the delay that it will have on the robot, such as --delay-ms 50"]


def _record(system: SystemConfig, evaluation: Evaluation) -> None:
    """Put the rate into the model card."""
    from vla_ros.training.card import record_success

    first, last = evaluation.config.seed, evaluation.config.seed + evaluation.config.episodes - 1
    with checkpoint_errors():
        record_success(
            Path(system.policy.checkpoint),
            f"{evaluation.rate}; seeds {first} to {last}, {system.title}, inference delay {evaluation.delay_ms:.0f} ms",
        )


def _evaluator(system: SystemConfig, policy: Policy, config: EvaluationConfig) -> Evaluator:
    from vla_ros.robots import catalogue
    from vla_ros.rollout.evaluating import Evaluator, Setup
    from vla_ros.rollout.loop import RolloutConfig

    if system.world is None:
        refuse("evaluate needs a simulated world, but the system has no section simulation; or give --dataset")
    rollout = RolloutConfig(
        inference_hz=system.inference.max_rate_hz,
        camera_hz=max(camera.rate_hz for camera in system.cameras.values()),
        episode_s=system.world.episode_s,
        history_s=system.inference.history_s,
    )
    setup = Setup(catalogue.find(system.robot), system.world, system.controller, rollout)
    try:
        return Evaluator(setup, system.policy.name, policy, config)
    except ValueError as error:
        refuse(f"policy {system.policy.name}: {error}")


def _run_all(evaluator: Evaluator, shown: list[Film], folder: Path, about: dict[str, str]) -> None:
    from vla_ros.rollout.filming import write_video

    with progress() as show:
        count = evaluator.config.episodes
        show("evaluated", 0, count)
        for outcome, film in evaluator.episodes(lambda done, note: show("evaluated", done, count, note)):
            show.print(_line(outcome))
            evaluator.evaluation.write(folder / "report.json", **about)
            if film is not None:
                verdict = "success" if film.success else "failure"
                write_video(film, evaluator.config.film_hz, folder / f"{verdict}-seed-{film.seed}.mp4")
                shown.append(film.thinned(_MOMENTS))


def _line(outcome: Outcome) -> Text:
    row = outcome.row
    why = "" if row.success else f"  ({row.ended})"
    told = f", told to {outcome.asked}: {'done' if outcome.asked_success else 'not done'}" if outcome.asked else ""
    return episode_line(row.seed, row.success, f"{row.duration_s:5.1f} s  {row.instruction}{told}{why}")


def _table(evaluation: Evaluation) -> Table:
    from rich.table import Table

    table = Table(title=f"{evaluation.report.policy}: {evaluation.rate}", title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    if evaluation.asked_rate is not None:
        table.add_row("the task that counts", str(evaluation.rate))
        table.add_row("the task it was told instead", str(evaluation.asked_rate))
    for instruction, rate in evaluation.rates_by_task.items():
        table.add_row(instruction, str(rate))
    if evaluation.success_s.p50 is not None:
        table.add_row(
            "time of a success: p50, p99", f"{evaluation.success_s.p50:.1f}, {evaluation.success_s.p99:.1f} s"
        )
    took = evaluation.inference_ms
    if took.p50 is not None:
        table.add_row("inference on this machine: p50, p99", f"{took.p50:.0f}, {took.p99:.0f} ms")
    table.add_row("injected inference delay", f"{evaluation.delay_ms:.0f} ms")
    for name, times in evaluation.report.interventions.items():
        table.add_row(f"intervention: {name}", str(times))
    return table


def _draw(evaluation: Evaluation, films: list[Film], file: Path, out: Console) -> None:
    from vla_ros.viewing.evaluation import render

    if not films:
        return
    films = sorted(films, key=lambda film: not film.success)
    control = evaluation.config.control
    title = f"{evaluation.report.policy}{f', {control.value}' if control else ''}: {evaluation.rate}"
    if evaluation.asked_rate is not None:
        title += f"; what it was told: {evaluation.asked_rate}"
    try:
        out.print(f"pictures   {render(title, films, file, _MOMENTS)}", soft_wrap=True)
        out.print(f"films      {file.parent}/*.mp4", soft_wrap=True)
    except ModuleNotFoundError as error:
        out.print(f"pictures   none: {error}", soft_wrap=True)
