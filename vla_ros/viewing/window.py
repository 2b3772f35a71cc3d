"""A window that shows one small picture, as large as the screen allows; Tk, which comes with Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SHARE = 0.8  # of the screen's height


class Window:
    """Shows grey pictures (H, W), enlarged pixel by pixel; `with Window("title") as window: window.draw(picture)`.

    Raises RuntimeError where there is no display, or no Tk.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter as tk
        except ModuleNotFoundError as error:
            raise RuntimeError("a window needs Tk, which this Python lacks: apt install python3-tk") from error
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            raise RuntimeError(f"a window needs a display, and there is none ({error})") from error
        self._tk = tk
        self._root.title(title)
        self._root.configure(background="white")
        self._label = tk.Label(self._root, borderwidth=0)
        self._label.pack(expand=True)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.destroy()

    def draw(self, picture: NDArray[np.uint8]) -> None:
        """Show `picture` now; raises RuntimeError once somebody has closed the window."""
        height, width = picture.shape
        small = self._tk.PhotoImage(data=b"P5 %d %d 255 " % (width, height) + picture.tobytes(), format="PPM")
        self._shown = small.zoom(max(1, int(_SHARE * self._root.winfo_screenheight()) // height))  # Tk keeps no picture
        try:
            self._label.configure(image=self._shown)
            self._root.update()
        except self._tk.TclError as error:
            raise RuntimeError("the window was closed") from error
