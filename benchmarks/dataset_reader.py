"""What many small episodes cost a reader: a file per episode against the same episodes compacted into few files."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.features import Row, of_robot
from vla_ros.recording.files import load_json
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.upkeep.compacting import compact
from vla_ros.robots.panda import PANDA

LIMIT_OPEN_S, LIMIT_RATIO = 0.5, 1.5
LENGTHS = (5, 8, 6, 7, 3, 13)
CAMERAS = {"front": (48, 64), "wrist": (48, 64)}
FPS = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=300, help="of both datasets")
    parser.add_argument("--many", type=int, default=3000, help="episodes of one that is only opened and read")
    parser.add_argument("--rows", type=int, default=4000, help="random ones")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, compacted, large = (Path(folder) / name for name in ("small", "compacted", "large"))
        record(small)
        multiply(small, arguments.episodes)
        compact(small, compacted)
        shutil.copytree(small, large)
        multiply(large, arguments.many)
        print("CPU time             episodes  open first [s]  open again [s]  rows/s, first  rows/s, then")
        rates, opened_s = {}, 0.0
        for name, root in (("file per episode", small), ("compacted", compacted), ("file per episode", large)):
            (root / ".recording" / "episodes.json").unlink(missing_ok=True)
            opens_s = [cost_s(lambda root=root: DatasetReader(root)) for _ in range(2)]
            reader = DatasetReader(root)
            order = np.random.default_rng(0).integers(0, len(reader), arguments.rows).tolist()
            first, then = (arguments.rows / cost_s(lambda r=reader, o=order: [r.row(n) for n in o]) for _ in range(2))
            rates[root], opened_s = then, opens_s[1]
            print(
                f"{name:21}{len(reader.meta.episodes):8}{opens_s[0]:16.2f}{opens_s[1]:16.3f}{first:15.0f}{then:14.0f}"
            )
    ratio = rates[compacted] / rates[small]
    print(
        f"opened again in {opened_s:.3f} s (limit {LIMIT_OPEN_S:g}); "
        f"compacted {ratio:.2f} x as fast (limit {LIMIT_RATIO:g})"
    )
    return 0 if opened_s <= LIMIT_OPEN_S and ratio <= LIMIT_RATIO else 1


def cost_s(call) -> float:  # type: ignore[no-untyped-def]
    """CPU time of a call: this machine has other work too."""
    start_s = time.process_time()
    call()
    return time.process_time() - start_s


def record(root: Path) -> None:
    """A few episodes, as the recorder writes them."""
    features = of_robot(PANDA, CAMERAS, FPS)
    random = np.random.default_rng(0)
    with DatasetWriter(root, features, RecordingConfig(fps=FPS)) as writer:
        for length in LENGTHS:
            writer.begin("stack the blocks")
            for frame in range(length):
                images = {name: random.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in CAMERAS.items()}
                values = {f.key: np.zeros(f.shape, f.numpy) for f in features.columns}
                writer.add(Row(frame * 1_000_000_000 // FPS, images, values))
            writer.save(EpisodeDetails(task="stack the blocks", success=True, notes=""))


def multiply(root: Path, episodes: int) -> None:
    """Add copies of its episodes, each in files of its own, until there are so many, a multiple of `LENGTHS`."""
    meta = DatasetMeta.load(root)
    of_few, row = len(LENGTHS), meta.frames
    for number in range(len(meta.episodes), episodes):
        old = meta.episodes[number % of_few]
        row_before, row = row, row + old.length
        place = meta.layout.place(number)
        table = pq.read_table(meta.data_path(old))
        changed = {"episode_index": np.full(old.length, number), "index": np.arange(row_before, row)}
        write(table, changed, meta.layout.data_file(*place))
        line = pq.read_table(meta.layout.episodes_file(old.metadata_chunk, old.metadata_file))
        changed = {"episode_index": [number], "dataset_from_index": [row_before], "dataset_to_index": [row]}
        kinds = ("data", "meta/episodes", *(f"videos/{key}" for key in old.clips))
        changed |= {f"{kind}/{name}_index": [place[name == "file"]] for kind in kinds for name in ("chunk", "file")}
        write(
            line,
            {key: value for key, value in changed.items() if key in line.column_names},
            meta.layout.episodes_file(*place),
        )
        for key in old.clips:
            path = meta.layout.video_file(key, *place)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(meta.video_path(old, key), path)
    info = load_json(meta.layout.info)
    info |= {"total_episodes": episodes, "total_frames": row, "splits": {"train": f"0:{episodes}"}}
    meta.layout.info.write_text(json.dumps(info))
    stats = load_json(meta.layout.stats)  # of so many times the same values all but the count stays
    for of_feature in stats.values():
        of_feature["count"] = [of_feature["count"][0] * row // meta.frames]
    meta.layout.stats.write_text(json.dumps(stats))


def write(table: pa.Table, columns: dict, path: Path) -> None:  # type: ignore[type-arg]
    """The table with other values in some columns."""
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


if __name__ == "__main__":
    sys.exit(main())
