"""Statistics against numpy on whole arrays, and against those that LeRobot wrote."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

pq = pytest.importorskip("pyarrow.parquet")

from vla_ros.recording.files import DatasetError
from vla_ros.recording.statistics import QUANTILES, ImageStatistics, merge, of_rows

REFERENCE = Path(__file__).parents[1] / "reference"
EXACT = ("min", "max", "mean", "std")
VERSIONS = pytest.mark.parametrize("version", ["0.4.4", "0.6.1"])

blocks = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.integers(1, 8).flatmap(
            lambda length: st_numpy.arrays(np.float64, (length, width), elements=st.floats(-1e6, 1e6, width=32))
        ),
        min_size=2,
        max_size=4,
    )
)


def close(one: Any, other: Any, tolerance: float = 1e-9) -> None:
    assert set(one) == set(other)
    for name in one:
        assert one[name].shape == other[name].shape and one[name].dtype == other[name].dtype
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance * 1e6, err_msg=name)


@given(blocks)
def test_rows_against_numpy(arrays: list[Any]) -> None:
    rows = np.concatenate(arrays)
    stats = of_rows(rows)
    np.testing.assert_array_equal(stats["min"], rows.min(0))
    np.testing.assert_array_equal(stats["max"], rows.max(0))
    np.testing.assert_allclose(stats["mean"], rows.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(stats["std"], rows.std(0), rtol=1e-12, atol=1e-9)
    assert stats["count"].tolist() == [len(rows)] and stats["count"].dtype == np.int64
    for name, share in QUANTILES.items():
        for column, quantile in zip(rows.T, stats[name], strict=True):
            assert quantile in column
            assert (column <= quantile).mean() >= share - 1e-12
            assert (column < quantile).mean() < share + 1e-12


@given(blocks)
def test_merging_is_as_if_all_had_been_there_at_once_in_any_grouping(arrays: list[Any]) -> None:
    parts = [of_rows(array) for array in arrays]
    from_left, from_right = reduce(merge, parts), reduce(lambda merged, part: merge(part, merged), reversed(parts))
    close(from_left, from_right)
    whole = of_rows(np.concatenate(arrays))
    for name in (*EXACT, "count"):
        np.testing.assert_allclose(from_left[name], whole[name], rtol=1e-9, atol=1e-3 if name == "std" else 1e-6)


def test_a_clock_keeps_its_deviation() -> None:
    seconds = 1.75e9 + np.arange(3000) / 50
    stats = reduce(merge, (of_rows(part) for part in np.split(seconds, 30)))
    assert stats["std"][0] == pytest.approx(np.std(np.arange(3000) / 50), rel=1e-6)


@pytest.mark.parametrize("rows", [np.zeros((0, 3)), np.array([[1.0, np.nan]]), np.array([np.inf])])
def test_what_has_no_statistics_is_refused(rows: Any) -> None:
    with pytest.raises(DatasetError, match="finite values"):
        of_rows(rows)
    with pytest.raises(DatasetError, match="one frame"):
        ImageStatistics().stats()


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_images_against_numpy(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(random.integers(0, 100), random.integers(101, 256), (count, 5, 7, 3), dtype=np.uint8)
    found = ImageStatistics()
    for image in images:
        found.add(image)
    stats = found.stats()
    values = images.transpose(3, 0, 1, 2).reshape(3, -1) / 255.0
    expected = {"min": values.min(1), "max": values.max(1), "mean": values.mean(1), "std": values.std(1)}
    for name, share in QUANTILES.items():
        expected[name] = np.quantile(values, share, axis=1, method="inverted_cdf")
    assert stats["count"].tolist() == [count]
    for name, value in expected.items():
        assert stats[name].shape == (3, 1, 1)
        np.testing.assert_allclose(stats[name].ravel(), value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 200, 201, 1000, 5000, 12_345])
def test_as_many_frames_are_looked_at_as_lerobot_looks_at(length: int) -> None:
    found = ImageStatistics()
    for k in range(length):
        found.add(np.full((1, 1, 3), 255 * k // length, np.uint8))
    stats = found.stats()
    enough = max(min(100, length), min(int(length**0.75), 10_000))
    assert enough <= stats["count"][0] <= max(2 * enough, 1)
    assert stats["mean"].ravel() == pytest.approx(0.5 * (length - 1) / length, abs=2.5 / enough + 1 / 255)


def test_a_large_image_is_looked_at_in_steps() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[::4, ::4] = 255  # 640 // 150 == 4
    found = ImageStatistics()
    found.add(image)
    assert found.stats()["min"].ravel().tolist() == [1, 1, 1]


@VERSIONS
def test_columns_of_lerobots_datasets(version: str) -> None:
    root = REFERENCE / f"lerobot-{version}"
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    written = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    merged = json.loads((root / "meta/stats.json").read_text())
    for key, values in rows.items():
        parts = []
        for line in written:
            ours = of_rows(np.array(values[line["dataset_from_index"] : line["dataset_to_index"]]))
            theirs = {name: np.array(line[f"stats/{key}/{name}"]) for name in ours}
            agree(key, ours, theirs)
            parts.append(ours)
        agree(key, reduce(merge, parts), {name: np.array(value) for name, value in merged[key].items()})


@VERSIONS
def test_images_of_lerobots_datasets(version: str) -> None:
    theirs = json.loads((REFERENCE / f"lerobot-{version}/meta/stats.json").read_text())["observation.images.wrist"]
    if version == "0.4.4":
        assert np.all(np.array(theirs["std"]) == 0), "squared in uint8"
        del theirs["std"]
    found = ImageStatistics()
    for k in range(40):
        found.add(np.full((240, 320, 3), 5 * k, np.uint8))
    merged = merge(found.stats(), found.stats())
    assert merged["mean"].ravel() == pytest.approx(97.5 / 255, rel=1e-12)  # theirs is summed in float32: 0.38222
    theirs = {name: np.array(value) for name, value in theirs.items()}
    agree("wrist", {name: merged[name] for name in theirs}, theirs, tolerance=3e-4)


def agree(key: str, ours: Any, theirs: Any, tolerance: float = 1e-6) -> None:
    """LeRobot computes in float32 in places, and takes quantiles from 5000 bins."""
    bin_width = (theirs["max"] - theirs["min"]) / 5000
    assert ours["count"].tolist() == theirs["count"].tolist()
    for name in theirs:
        assert ours[name].shape == theirs[name].shape
        slack = 1.01 * bin_width + tolerance if name in QUANTILES else tolerance
        assert np.all(np.abs(ours[name] - theirs[name]) <= slack), (key, name, ours[name], theirs[name])
