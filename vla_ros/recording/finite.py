"""Values that are not finite, found and located: dataset, episode, row, column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader


def check_finite(reader: DatasetReader, episodes: Iterable[int], columns: Mapping[str, Sequence[int] | None]) -> None:
    """Raise DatasetError for a value of these episodes that is NaN or infinite, and say where it is.

    `columns`: key -> which of its dimensions, or None for all.
    """
    for episode in episodes:
        for key, values in reader.columns(episode, list(columns)).items():
            dimensions = columns[key]
            chosen = values if dimensions is None else values[:, list(dimensions)]
            if np.isfinite(chosen).all():
                continue
            row, place = (int(index) for index in np.argwhere(~np.isfinite(chosen))[0])
            dimension = place if dimensions is None else dimensions[place]
            names = reader.meta.features.find(key).names
            name = f"{names[dimension]} " if names else f"value {dimension} " if chosen.shape[1] > 1 else ""
            raise DatasetError(
                f"{reader.meta.root}: episode {episode}, row {row}: {name}of {key} is {chosen[row, place]}, where "
                "numbers should be finite; leave the episode out (`vla-ros convert SOURCE DEST --episodes ...`) or "
                "record it again; `vla-ros dataset check` lists every such value"
            )
