"""vla-ros calibrate hand-eye and board as a user types them: what they print, write and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vla_ros.cli import app


def vla_ros(*arguments: str) -> Result:
    return CliRunner().invoke(app, ("calibrate", *arguments))


def test_a_board_is_written(tmp_path: Path) -> None:
    result = vla_ros("board", str(tmp_path / "new" / "board.pdf"), "--board", "4x5,30,22,DICT_5X5_50")
    assert result.exit_code == 0, result.output
    assert "4 x 5 squares of 30 mm, markers of 22 mm, DICT_5X5_50; 140 x 186 mm" in result.stdout
    assert "print at 100 %" in result.stdout
    assert (tmp_path / "new" / "board.pdf").read_bytes().startswith(b"%PDF")


def test_a_file_that_cannot_be_written_is_said_in_a_line() -> None:
    result = vla_ros("board", "/proc/board.pdf")  # where not even root makes files
    assert result.exit_code == 1
    assert result.output.startswith("error: ") and "/proc/board.pdf" in result.output and result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("board", "b.gif"), "error: a board is written as .png or .pdf (given b.gif)"),
        (("board", "b.png", "--board", "5x7"), "error: --board: no board (given '5x7'); should be squares across x"),
        (("board", "b.png", "--board", "5x7,36,40,DICT_4X4_50"), "error: --board: a marker stands within its square"),
        (("hand-eye", "franka_upvla", "--camera", "side"), "error: --camera: franka_upvla has none of that name"),
        (
            ("hand-eye", "franka_upvla", "--camera", "front", "--mounting", "wall"),
            "error: --mounting: given wall; should be in-hand or to-hand",
        ),
        (
            ("hand-eye", "franka_upvla", "--camera", "front", "--link", "panda_link99"),
            "error: --link: the Franka Emika Panda has none of that name (given panda_link99)",
        ),
        (
            ("hand-eye", "franka_upvla", "--camera", "front", "--views", "16"),
            "error: --views: with --auto at most 15",
        ),
        (("hand-eye", "frank", "--camera", "front"), "error: frank: no such system"),
    ],
)
def test_what_is_wrong_is_refused_with_2(arguments: tuple[str, ...], told: str) -> None:
    result = vla_ros(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(told)


def test_views_that_are_not_there_are_refused_with_1(tmp_path: Path) -> None:
    result = vla_ros("hand-eye", "franka_upvla", "--camera", "front", "--from", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path} holds no views: views.json: No such file or directory\n"
    (tmp_path / "views.json").write_text('{"robot": 3}')
    result = vla_ros("hand-eye", "franka_upvla", "--camera", "front", "--from", str(tmp_path))
    assert result.stderr.startswith(f"error: {tmp_path}/views.json: robot: Input should be a valid string")
