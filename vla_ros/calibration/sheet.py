"""A ChArUco board to be printed true to scale, as PNG or PDF, with a ruler that tells whether it was."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vla_ros.calibration.board import Board, Gray

_MILLIMETRES_PER_INCH = 25.4
_LEAST_PX_PER_M = 600 * 1000 / _MILLIMETRES_PER_INCH  # 600 dots per inch
_MARGIN_M, _FOOT_M = 0.010, 0.016
_RULER_M = 0.1
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def write(board: Board, file: Path) -> tuple[float, float]:
    """Write the board with its name and a ruler of 100 mm; the size of the page in metres.

    A square is a whole number of pixels, so that every edge is where it should be. Raises ValueError for a file that is
    neither .png nor .pdf.
    """
    if file.suffix not in (".png", ".pdf"):
        raise ValueError(f"a board is written as .png or .pdf (given {file})")
    # A marker's cells are whole too where it is three quarters of its square, and eight of them fill the square.
    square_px = 24 * int(np.ceil(board.square_m * _LEAST_PX_PER_M / 24))
    px_per_m = square_px / board.square_m
    page = _page(board, square_px, px_per_m)
    dots_per_inch = px_per_m * _MILLIMETRES_PER_INCH / 1000
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(page).convert("1")
    if file.suffix == ".pdf":
        picture.save(file, resolution=dots_per_inch)
    else:
        picture.save(file, dpi=(dots_per_inch, dots_per_inch))
    return page.shape[1] / px_per_m, page.shape[0] / px_per_m


def _page(board: Board, square_px: int, px_per_m: float) -> Gray:
    margin_px, foot_px = round(_MARGIN_M * px_per_m), round(_FOOT_M * px_per_m)
    picture = board.picture(square_px, margin_px)
    page = np.concatenate([picture, np.full((foot_px, picture.shape[1]), 255, dtype=np.uint8)])
    line_px = max(1, round(0.0003 * px_per_m))
    base_px = page.shape[0] - round(0.010 * px_per_m)
    # Ticks are filled boxes and not lines, whose ends OpenCV rounds: the ruler is as exact as the squares.
    for millimetre in range(int(1000 * _RULER_M) + 1):
        x = margin_px + round(millimetre / 1000 * px_per_m)
        long = 0.004 if millimetre % 10 == 0 else 0.0025 if millimetre % 5 == 0 else 0.0015
        page[base_px - round(long * px_per_m) : base_px, x : x + line_px] = 0
    page[base_px : base_px + line_px, margin_px : margin_px + round(_RULER_M * px_per_m) + line_px] = 0
    words = f"ChArUco {board}. Print at 100 %: the ruler is {1000 * _RULER_M:g} mm long."
    height_px = 0.0028 * px_per_m
    scale = cv2.getFontScaleFromHeight(_FONT, round(height_px), line_px)
    (width_px, _), _ = cv2.getTextSize(words, _FONT, scale, line_px)
    scale *= min(1.0, (page.shape[1] - 2 * margin_px) / width_px)
    cv2.putText(
        page, words, (margin_px, page.shape[0] - round(0.004 * px_per_m)), _FONT, scale, 0, line_px, cv2.LINE_AA
    )
    return page
