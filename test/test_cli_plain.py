"""What is printed stays as it is written: units in brackets, names, instructions; what Ctrl-C leaves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import vla_ros.cli
from vla_ros.cli.app import app
from vla_ros.cli.common import PlainHelp, clear_errors, command_again, console, interrupted

SOURCES = Path(vla_ros.cli.__file__).parent


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_help_keeps_every_bracket() -> None:
    seen = 0
    for path, command in commands(typer.main.get_command(app)):
        told = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "300"}).output
        for one in (command, *command.params):
            for bracketed in re.findall(r"\\(\[[^]]*\])", getattr(one, "help", "") or ""):
                seen += 1
                assert bracketed in told, (path, bracketed)
    assert seen >= 10, "units of convert and calibrate"


def test_tables_and_lines_keep_what_is_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("joints rms [mrad]", title="[mm]")
    table.add_row("[red]")
    console().print(table)
    console().print("lift [s] [/]")
    out = capsys.readouterr().out
    assert all(text in out for text in ("[mrad]", "[mm]", "[red]", "lift [s] [/]"))


def test_a_console_that_knows_markup_escapes_what_it_prints() -> None:
    """One that is made elsewhere than in `console()` stands in a file that escapes."""
    others = [path.name for path in SOURCES.glob("*.py") if re.search(r"\bConsole\(", path.read_text())]
    others.remove("common.py")
    assert [name for name in others if "markup import escape" not in (SOURCES / name).read_text()] == ["record_live.py"]


def an_app() -> typer.Typer:
    made = typer.Typer()

    @made.command("run", cls=PlainHelp)
    def run(
        context: typer.Context,
        system: str,
        episodes: Annotated[int, typer.Option("--episodes", "-n")] = 0,
        sim: Annotated[bool | None, typer.Option("--sim/--no-sim")] = None,
        tasks: Annotated[list[str] | None, typer.Option()] = None,
        report: str = "",
        seed: int = 0,
    ) -> None:
        with clear_errors():
            if episodes == 1:
                raise KeyboardInterrupt
            interrupted("kept", command_again(context, episodes=2, report=None, seed=7))

    @made.command("other")
    def other() -> None: ...

    return made


def test_the_rest_is_the_same_command_with_other_numbers() -> None:
    typed = ["run", "my system", "-n", "5", "--no-sim", "--tasks", "push left", "--tasks", "lift", "--report", "r.json"]
    result = CliRunner().invoke(an_app(), typed)
    assert result.exit_code == 130
    first, kept, rest = result.stderr.splitlines()
    assert (first, kept) == ("interrupted", "kept")
    assert shlex.split(rest)[-11:] == [
        "run", "my system", "--episodes", "2", "--no-sim", "--tasks", "push left", "--tasks", "lift", "--seed", "7",
    ]  # fmt: skip


def test_any_command_ends_with_130_and_no_traceback() -> None:
    result = CliRunner().invoke(an_app(), ["run", "x", "-n", "1"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
