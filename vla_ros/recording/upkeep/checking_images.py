"""Are cameras images: in the rows of a table, or in files that they name; depth is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyarrow import compute

from vla_ros.recording.columns import stored_image
from vla_ros.recording.features import IMAGES
from vla_ros.recording.files import DatasetError
from vla_ros.recording.upkeep.findings import Finding, Kind, error, warning
from vla_ros.recording.upkeep.scanning import INFO, Episode, Scan


def check_depth(found: Scan) -> Iterator[Finding]:
    """Cameras that info.json says hold distances: readers refuse them."""
    for key in depth_keys(found):
        remedy = f"vla-ros convert PATH PATH-new --without-camera {key.removeprefix(IMAGES)}"
        yield warning(Kind.CAMERA, INFO, f"{key} holds depth, not colour images", remedy=remedy)


def depth_keys(found: Scan) -> list[str]:
    """The cameras that info.json says hold distances."""
    made = {key: entry.get("info") for key, entry in found.features.items()}
    return [
        key
        for key, said in made.items()
        if isinstance(said, dict) and (said.get("is_depth_map") or said.get("video.is_depth_map"))
    ]


def check_images(found: Scan, episode: Episode, rows: pa.Table, decode: bool) -> Iterator[Finding]:
    """One episode's images in a table: the first, those that are in files, and with `decode` all."""
    for key in (key for key, entry in found.features.items() if entry.get("dtype") == "image"):
        if key in depth_keys(found) or key not in rows.column_names or not rows.num_rows:
            continue
        column = rows.column(key)
        try:
            sizes = compute.binary_length(compute.struct_field(column, "bytes")).fill_null(0).to_numpy()
            for row in range(rows.num_rows) if decode else sorted({0, *np.flatnonzero(sizes == 0).tolist()}):
                stored_image(found.root, column[row].as_py(), f"row {row}")
        except (pa.ArrowException, DatasetError) as failure:
            yield error(Kind.CAMERA, episode.data, f"{key} cannot be read: {failure}", episode.index)
