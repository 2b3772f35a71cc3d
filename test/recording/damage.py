"""How the tests harm a dataset: files torn, deleted, copied; a value of a row or of a JSON file changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Damage = Callable[[Path], None]


def truncated(path: str) -> Damage:
    def damage(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) // 2])

    return damage


def deleted(path: str) -> Damage:
    return lambda root: (root / path).unlink()


def copied(path: str, to: str) -> Damage:
    def damage(root: Path) -> None:
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, root / to)

    return damage


def changed_json(path: str, change: Callable[[Any], object]) -> Damage:
    def damage(root: Path) -> None:
        content = json.loads((root / path).read_text())
        change(content)
        (root / path).write_text(json.dumps(content))

    return damage


def changed_rows(path: str, change: Callable[[list[dict[str, Any]]], object]) -> Damage:
    def damage(root: Path) -> None:
        table = pq.ParquetFile(root / path).read()
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / path)

    return damage


def changed_value(path: str, key: str, value: object, row: int = 2) -> Damage:
    return changed_rows(path, lambda rows: rows[row].update({key: value}))
