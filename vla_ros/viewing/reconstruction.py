"""What an image tokenizer keeps: frames above what its codes give back, with how near that is."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

_INK, _QUIET = "#1f2430", "#8a90a0"
_LABEL, _HEAD, _NOTE, _GAP = 104, 34, 20, 4  # pixels
_TILE = 128  # at least


def reconstructions(
    title: str, originals: NDArray[np.uint8], rebuilt: NDArray[np.uint8], notes: Sequence[str]
) -> bytes:
    """A PNG of frames (N, S, S, 3), what was made of them below, and below that a note on each."""
    times = -(-_TILE // originals.shape[2])
    height, width = (times * side for side in originals.shape[1:3])
    size = (_LABEL + len(originals) * (width + _GAP), _HEAD + 2 * (height + _GAP) + _NOTE)
    canvas = PillowImage.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    draw.text((6, _HEAD / 2), title, fill=_INK, font=font, anchor="lm")
    for row, (label, frames) in enumerate((("original", originals), ("from its codes", rebuilt))):
        top = _HEAD + row * (height + _GAP)
        draw.text((6, top + height / 2), label, fill=_INK, font=small, anchor="lm")
        for column, frame in enumerate(frames):
            enlarged = PillowImage.fromarray(frame).resize((width, height), PillowImage.Resampling.NEAREST)
            canvas.paste(enlarged, (_LABEL + column * (width + _GAP), top))
    for column, note in enumerate(notes):
        left = _LABEL + column * (width + _GAP)
        draw.text((left + width / 2, size[1] - _NOTE / 2), note, fill=_QUIET, font=small, anchor="mm")
    file = BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()
