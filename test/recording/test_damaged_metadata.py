"""Whatever any field of any metadata file says, every command ends soon: with success, or with a line that says why."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vla_ros.cli import app
from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.replaying import load

EPISODES = "meta/episodes/chunk-000/file-{:03d}.parquet"
FILES = {
    "v3.0": (
        "meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES.format(0), EPISODES.format(1),
        "meta/vla_ros/system.json", "meta/vla_ros/episodes/episode-000001.json",
    ),
    "v2.1": ("meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", "meta/episodes_stats.jsonl"),
}  # fmt: skip
COMMANDS = ("show", "check", "repair", "compact", "convert", "convert --to v2.1", "read")

EXAMPLES = settings().max_examples // 5

VALUES = st.sampled_from([
    None, True, 0, -1, 1, 7, 10**9, 2**62, 10**400, -0.5, 0.02, 29.97, 1e300, float("nan"), float("inf"), "", "7", "x",
    "../x", "a\0b", "\ud800", "x" * 100_000, "data/{chunk_index:0999999999d}", "v2.1", "video", "float64", [], [[]],
    [0], [10**9], [float("nan")], ["x"], [[1.0, 2.0], [3.0]], {}, {"x": 1}, {"x": {"dtype": "int64", "shape": [1]}},
])  # fmt: skip
CELLS = {
    pa.int64(): st.sampled_from([None, -1, 0, 1, 7, 10**9, 2**62]),
    pa.float64(): st.sampled_from([None, -1.0, 0.02, 1e-300, 1e300, float("nan"), float("inf")]),
}
KINDS = {"as text": pa.string(), "as real numbers": pa.float64(), "as whole numbers": pa.int64()}


@pytest.fixture(scope="module")
def datasets(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each version."""
    v21 = tmp_path_factory.mktemp("v21") / "dataset"
    convert(recorded, v21, Conversion(to="v2.1", episodes=(0, 1)))
    return {"v3.0": recorded, "v2.1": v21}


def damage_json(content: Any, data: st.DataObject) -> Any:
    """Another value for one part, anywhere; or one part less."""
    parts = [(content, key) for key in _keys(content)]
    while parts:
        holder, key = data.draw(st.sampled_from(parts))
        inner = [(holder[key], name) for name in _keys(holder[key])]
        if not inner or data.draw(st.integers(0, 2)) == 0:
            break
        parts = inner
    else:
        return data.draw(VALUES)
    if isinstance(holder, dict) and data.draw(st.integers(0, 5)) == 0:
        holder[str(data.draw(st.sampled_from(["", "../x", "x/y", "action", "timestamp"])))] = holder.pop(key)
    elif isinstance(holder, dict) and data.draw(st.integers(0, 5)) == 0:
        del holder[key]
    else:
        holder[key] = data.draw(VALUES)
    return content if data.draw(st.integers(0, 20)) else data.draw(VALUES)


def _keys(part: Any) -> list[Any]:
    return sorted(part) if isinstance(part, dict) else list(range(len(part))) if isinstance(part, list) else []


def damage_table(table: pa.Table, data: st.DataObject) -> pa.Table:
    """Another value in one cell; or a column that is not there, is of another type, or has another name."""
    place = data.draw(st.integers(0, table.num_columns - 1))
    name, column = table.column_names[place], table.column(place)
    what = data.draw(st.sampled_from(["cell", "cell", "cell", "no column", "another name", "no rows", *KINDS]))
    if what == "no column":
        return table.remove_column(place)
    if what == "no rows":
        return table.slice(0, 0)
    if what == "another name":
        other = data.draw(st.sampled_from(["x", "episode_index", "stats/x"]))
        return table.rename_columns([other if one == name else one for one in table.column_names])
    if what in KINDS:
        return table.set_column(
            place, name, pa.array([None if data.draw(st.booleans()) else 0] * len(column)).cast(KINDS[what])
        )
    values = column.to_pylist()
    values[0] = _cell(column.type, data)
    return table.set_column(place, table.schema.field(place), pa.array(values, column.type))


def _cell(kind: pa.DataType, data: st.DataObject) -> Any:
    if pa.types.is_list(kind):
        length = data.draw(st.sampled_from([None, 0, 1, 2, 9]))
        return None if length is None else [_cell(kind.value_type, data)] * length
    return data.draw(CELLS.get(kind, st.sampled_from([None, "", "x", "../x", "x" * 100_000])))


def damage(path: Path, data: st.DataObject) -> None:
    if path.suffix == ".parquet":
        pq.write_table(damage_table(pq.ParquetFile(path).read(), data), path)
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = damage_json(lines[at], data)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        path.write_text(json.dumps(damage_json(json.loads(path.read_text()), data)))


def run(command: str, root: Path) -> None:
    """Run a command; nothing but an exit code and lines of text may come out of it."""
    if command == "read":  # as `replay` and training do
        with suppress(DatasetError):
            reader = DatasetReader(root, cameras=())
            for number in range(len(reader.meta.episodes)):
                reader.columns(number), reader.stats(number), reader.window(number, {"action": (0, 1)})
                load(reader, number, PANDA)
        return
    words = command.split() if command.startswith("convert") else ["dataset", command]
    places = [str(root), str(root.with_name("out"))] if command not in ("show", "check", "repair") else [str(root)]
    found = CliRunner().invoke(app, [*words, *places])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code in (0, 1, 2), found.output
    assert found.exit_code == 0 or found.output.strip()
    errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert command == "check" or len(errors) == (found.exit_code != 0), found.output
    assert max(map(len, found.output.splitlines()), default=0) < 2000


@pytest.mark.parametrize("version", FILES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES)
@given(data=st.data())
def test_damage_to_any_field_is_told(
    datasets: dict[str, Path], version: str, tmp_path: Path, data: st.DataObject
) -> None:
    root = tmp_path / "dataset"
    for path in (root, tmp_path / "out"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(datasets[version], root)
    damage(root / data.draw(st.sampled_from(FILES[version])), data)
    command = data.draw(st.sampled_from(COMMANDS))
    started_s = time.process_time()
    run(command, root)
    assert time.process_time() - started_s < 10.0
