"""Every frame, row, statistic, boundary, task and window of our datasets, as LeRobot reads them: runs where LeRobot is.

python load_ours.py FOLDER   (as write_ours.py has left it)
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import lerobot.datasets.video_utils as lerobot_video
import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from pictures import number_in

IMAGES = "observation.images."
KINDS = ("ours", "av1", "compacted", "there_and_back", "v21")
WINDOWS = {
    "observation.state": (-2, -1, 0),
    "action": (0, 1, 2, 3, 4),
    IMAGES + "front": (-3, 0),
    IMAGES + "wrist": (0, 2),
}


def backends() -> list[str]:
    """LeRobot's decoders that run here."""
    try:
        import torchcodec.decoders  # noqa: F401
    except Exception as error:
        print(f"  torchcodec does not load here ({str(error).splitlines()[0]}): PyAV only")
        return ["pyav"]
    return ["torchcodec", "pyav"]


def pixels(image: object) -> np.ndarray:
    """(..., H, W, 3) uint8 of LeRobot's (..., 3, H, W) in [0, 1]."""
    values = np.moveaxis(np.asarray(image), -3, -1)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1
    return np.round(values * 255).astype(np.uint8)


def same(item: object, value: object) -> bool:
    """Whether a tensor is this value; LeRobot's tensors of float64 columns are float32."""
    item, value = np.asarray(item), np.asarray(value)
    value = value.astype(np.float32) if value.dtype == np.float64 else value
    return item.dtype == value.dtype and np.array_equal(np.ravel(item), np.ravel(value))


def compare_rows(
    dataset: LeRobotDataset, truth: dict[str, np.ndarray], decoded: dict[str, np.ndarray]
) -> tuple[int, float]:
    """Every item; returns how far pixels are from those that we decode, and the least PSNR to what was recorded."""
    keys = [key for key in truth if key not in {"lengths", "tasks", "fps"} and not key.startswith("original.")]
    episodes = np.repeat(np.arange(len(truth["lengths"])), truth["lengths"])
    starts = np.cumsum(truth["lengths"]) - truth["lengths"]
    texts = sorted(set(truth["tasks"].tolist()), key=truth["tasks"].tolist().index)
    assert len(dataset) == dataset.num_frames == len(episodes), len(dataset)
    assert dataset.num_episodes == len(truth["lengths"]) and dataset.fps == truth["fps"]
    worst, least_psnr = 0, np.inf
    for index, episode in enumerate(episodes):
        item = dataset[index]
        frame = index - starts[episode]
        expected = {key: truth[key][index] for key in keys} | {
            "index": index,
            "episode_index": episode,
            "frame_index": frame,
            "task_index": texts.index(truth["tasks"][episode]),
            "timestamp": np.float32(frame / truth["fps"]),
        }
        for key, value in expected.items():
            assert same(item[key], value), (index, key, item[key], value)
        assert item["task"] == truth["tasks"][episode]
        for key in dataset.meta.camera_keys:
            image, camera = pixels(item[key]), key.removeprefix(IMAGES)
            assert number_in(image) == index, (key, index, number_in(image))
            worst = max(worst, int(np.abs(image.astype(int) - decoded[f"image.{camera}"][index]).max()))
            error = np.mean((image.astype(float) - truth[f"original.{camera}"][index]) ** 2)
            least_psnr = min(least_psnr, 10 * np.log10(255**2 / error))
    assert worst <= 2, worst
    assert least_psnr > 30, least_psnr
    return worst, least_psnr


def compare_windows(dataset: LeRobotDataset, truth: dict[str, np.ndarray]) -> None:
    """Every window of every row, with what is beyond an episode's ends."""
    ends = np.cumsum(truth["lengths"])
    for index in range(ends[-1]):
        item, episode = dataset[index], np.searchsorted(ends, index, side="right")
        start, end = ends[episode] - truth["lengths"][episode], ends[episode]
        for key, offsets in WINDOWS.items():
            wanted = index + np.array(offsets)
            rows = wanted.clip(start, end - 1)
            assert np.array_equal(item[f"{key}_is_pad"], rows != wanted), (index, key)
            if key.startswith(IMAGES):
                assert [number_in(image) for image in pixels(item[key])] == rows.tolist(), (index, key)
            else:
                assert same(item[key], truth[key][rows]), (index, key)


def compare_statistics(root: Path, truth: dict[str, np.ndarray]) -> None:
    """Ours of each episode against LeRobot's of the same values, and ours of all against LeRobot's merging of ours."""
    lines = [
        line for path in sorted((root / "meta/episodes").rglob("*.parquet")) for line in pq.read_table(path).to_pylist()
    ]
    merged = json.loads((root / "meta/stats.json").read_text())
    ours = [
        {key: {name: np.array(line[f"stats/{key}/{name}"]) for name in entry} for key, entry in merged.items()}
        for line in lines
    ]
    assert [line["episode_index"] for line in lines] == list(range(len(truth["lengths"])))
    start = 0
    for length, stats in zip(truth["lengths"], ours, strict=True):
        for key, entry in stats.items():
            values = truth.get(key, truth.get("original." + key.removeprefix(IMAGES)))
            if values is None:
                continue
            # LeRobot takes squares in uint8 (0.4) and sums in float32; it wants the room.
            rows = values[start : start + length].astype(np.float64)
            if key.startswith(IMAGES):
                larger = max(rows.shape[1:3])
                step = larger // 150 if larger >= 300 else 1
                images = rows[:, ::step, ::step].transpose(0, 3, 1, 2)
                theirs = get_feature_stats(images, axis=(0, 2, 3), keepdims=True)
                theirs = {name: v if name == "count" else np.squeeze(v / 255.0, axis=0) for name, v in theirs.items()}
            else:
                theirs = get_feature_stats(rows, axis=0, keepdims=False)
            scale = theirs["max"] - theirs["min"] + 1e-12
            for name, value in theirs.items():
                assert value.shape == entry[name].shape, (key, name)
                slack = 1 / 4000 if name.startswith("q") else 1e-9  # a quantile is one of 5000 bins, or between two
                assert np.all(np.abs(value - entry[name]) <= slack * scale), (key, name, value, entry[name])
        start += length
    for key, entry in aggregate_stats(ours).items():
        for name, value in entry.items():
            assert np.allclose(value, merged[key][name], rtol=1e-9, atol=1e-12), (key, name, value, merged[key][name])


def converted_by_lerobot(root: Path) -> Path:
    """A copy of a dataset of v2.1 that LeRobot has made v3.0."""
    old = version("lerobot").startswith("0.4.")
    place = "lerobot.datasets.v30" if old else "lerobot.scripts"
    converter = import_module(f"{place}.convert_dataset_v21_to_v30")
    copies = root.parent / f"converted_by_{version('lerobot')}"
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(root, copies / root.name)
    converter.convert_dataset(root.name, root=copies if old else copies / root.name, push_to_hub=False)
    return copies / root.name


def main(folder: Path) -> None:
    truth = dict(np.load(folder / "truth.npz"))
    offsets = {key: [offset / int(truth["fps"]) for offset in values] for key, values in WINDOWS.items()}
    for backend in backends():
        for kind in KINDS if backend == "torchcodec" else KINDS[:2]:
            root = converted_by_lerobot(folder / kind) if kind == "v21" else folder / kind
            where = {"repo_id": f"local/{kind}", "root": root, "video_backend": backend}
            worst, psnr = compare_rows(LeRobotDataset(**where), truth, dict(np.load(folder / f"{kind}.npz")))
            compare_windows(LeRobotDataset(**where, delta_timestamps=offsets), truth)
            second = LeRobotDataset(**where, episodes=[1])
            assert len(second) == truth["lengths"][1] and second[0]["task"] == truth["tasks"][1]
            compare_statistics(root, truth)
            print(
                f"  lerobot {version('lerobot')}, {backend}: {kind}: {truth['lengths'].sum()} rows, each with "
                f"{len(truth) - 5} columns, 2 images and windows; pixels differ by {worst} levels from ours and by "
                f"{psnr:.1f} dB from what was recorded",
                flush=True,
            )
            lerobot_video._default_decoder_cache.clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
