"""Every frame, row, statistic, boundary, task and window of a dataset that LeRobot wrote, as vla_ros reads them.

python read_theirs.py FOLDER   (as write_theirs.py has left it)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pictures import number_in

from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.statistics import of_rows
from vla_ros.recording.upkeep.checking import check


def main(folder: Path) -> None:
    truth = dict(np.load(folder / "theirs.npz"))
    lengths, tasks = truth.pop("lengths"), truth.pop("tasks")
    reader = DatasetReader(folder / "theirs")
    ends = np.cumsum(lengths)
    starts = ends - lengths
    assert len(reader) == ends[-1] and [episode.length for episode in reader.meta.episodes] == lengths.tolist()
    assert reader.meta.fps == 30 and reader.meta.features.robot_type == "panda"
    offsets = {"action": (-1, 0, 1, 2), "front": (-4, 0, 3), "wrist": (0,)}
    for episode, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for index in range(start, end):
            frame = reader.row(int(index))
            assert (frame.episode, frame.frame, frame.task) == (episode, index - start, tasks[episode])
            assert {name: number_in(image) for name, image in frame.images.items()} == {"front": index, "wrist": index}
            for key, values in truth.items():
                assert frame.values[key].dtype == values.dtype and np.array_equal(frame.values[key], values[index]), key
            window = reader.window(int(index), offsets)
            for key, steps in offsets.items():
                wanted = index + np.array(steps)
                rows = wanted.clip(start, end - 1)
                assert np.array_equal(window.is_padded[key], rows != wanted)
                if key in window.images:
                    assert [number_in(image) for image in window.images[key]] == rows.tolist()
                else:
                    assert np.array_equal(window.values[key], truth[key][rows])
        stats = reader.meta.episode_stats(reader.meta.episodes[episode])
        for key, values in truth.items():
            for name, value in of_rows(values[start:end]).items():
                scale = np.ptp(values[start:end], axis=0) + 1e-12
                # LeRobot's quantiles are of 5000 bins, its squares of float32.
                slack = 1 / 4000 if name.startswith("q") else 1e-3
                assert np.all(np.abs(stats[key][name] - value) <= slack * scale), (key, name, stats[key][name], value)
    reader.close()
    print(f"  vla_ros reads LeRobot's {ends[-1]} rows with {len(truth)} columns, 2 images and windows; it finds")
    for finding in check(folder / "theirs", decode=True):
        print(f"    {finding}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
