"""A ChArUco board as a value: its squares, its corners in metres, its picture."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from vla_ros.values import Array, Config

Gray = NDArray[np.uint8]  # (height, width)

#: Paper around the outermost squares, in squares: markers at the edge need a light rim to be found.
MARGIN_SQUARES = 0.5


class Board(Config):
    """A chessboard of `columns` x `rows` squares, with an ArUco marker in every light one; fits A4 as it is by default.

    Its frame has its origin in the outer corner of the first square: x along the columns, y along the rows (right and
    down as it is read), z into the board, away from who looks at it.
    """

    columns: int = Field(default=5, ge=3, le=40)
    rows: int = Field(default=7, ge=3, le=40)
    square_m: float = Field(default=0.036, gt=0.0, le=1.0)
    marker_m: float = Field(default=0.027, gt=0.0, le=1.0)
    dictionary: str = "DICT_4X4_50"

    @field_validator("dictionary")
    @classmethod
    def _dictionary_is_known(cls, name: str) -> str:
        if not name.startswith("DICT_") or not hasattr(cv2.aruco, name):
            known = ", ".join(sorted(word for word in dir(cv2.aruco) if word.startswith("DICT_")))
            raise ValueError(f"no dictionary of OpenCV (given {name!r}); should be one of {known}")
        return name

    @model_validator(mode="after")
    def _board_can_be_drawn(self) -> Board:
        if self.marker_m >= self.square_m:
            raise ValueError(
                f"a marker stands within its square (given markers of {1000 * self.marker_m:g} mm in squares of "
                f"{1000 * self.square_m:g} mm); should be smaller, about three quarters"
            )
        needed, there = self.columns * self.rows // 2, len(self._dictionary().bytesList)
        if needed > there:
            raise ValueError(
                f"{self.columns} x {self.rows} squares need {needed} markers (given {self.dictionary} with {there}); "
                "should be a larger dictionary or a smaller board"
            )
        return self

    def __str__(self) -> str:
        return (
            f"{self.columns} x {self.rows} squares of {1000 * self.square_m:g} mm, "
            f"markers of {1000 * self.marker_m:g} mm, {self.dictionary}"
        )

    @classmethod
    def parse(cls, text: str) -> Board:
        """A board from `5x7,36,27,DICT_4X4_50`; raises ValueError (of pydantic's, too) for what says none."""
        given = re.fullmatch(r"(\d+)x(\d+),([\d.]+),([\d.]+),(\w+)", text)
        if given is None:
            raise ValueError(
                f"no board (given {text!r}); should be squares across x down, a square and a marker in mm, and the "
                "dictionary, as 5x7,36,27,DICT_4X4_50"
            )
        columns, rows, square, marker, dictionary = given.groups()
        return cls(
            columns=int(columns),
            rows=int(rows),
            square_m=float(square) / 1000,
            marker_m=float(marker) / 1000,
            dictionary=dictionary,
        )

    @property
    def marker_ids(self) -> range:
        """The markers it has."""
        return range(self.columns * self.rows // 2)

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of the squares together, without a margin."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def corners_m(self) -> Array:
        """The inner corners (N, 3) in the board's frame; row i is the corner of id i."""
        columns, rows = np.meshgrid(np.arange(1, self.columns), np.arange(1, self.rows))
        corners = np.stack([columns.ravel(), rows.ravel(), np.zeros(columns.size)], axis=1)
        return np.asarray(corners * self.square_m, dtype=np.float64)

    def picture(self, square_px: int, margin_px: int) -> Gray:
        """The board (height, width), white paper of `margin_px` around it; squares are `square_px` wide, exactly."""
        size = (self.columns * square_px + 2 * margin_px, self.rows * square_px + 2 * margin_px)
        return np.asarray(self.charuco().generateImage(size, marginSize=margin_px), dtype=np.uint8)

    def charuco(self) -> Any:
        """The board as OpenCV has it (cv2.aruco.CharucoBoard)."""
        return cv2.aruco.CharucoBoard((self.columns, self.rows), self.square_m, self.marker_m, self._dictionary())

    def _dictionary(self) -> Any:
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
