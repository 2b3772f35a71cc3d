"""Files of weights: written as the libraries read them, read as they write them, refused where they are others."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from vla_ros.checkpoints.files import CheckpointError, read_metadata, read_tensors, write_tensors, write_torch

TENSORS = {
    "matrix": torch.arange(12.0).reshape(3, 4) / 7,
    "half": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "transposed": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).t(),
    "count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
}


def are_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_safetensors_are_what_the_library_reads(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.safetensors"
    told: list[tuple[str, int, int]] = []
    write_tensors(file, TENSORS, {"made by": "us"}, on_progress=lambda *each: told.append(each))
    assert are_same(load_file(file), TENSORS)
    assert are_same(read_tensors(file), TENSORS)
    assert read_metadata(file)["made by"] == "us"
    assert told[-1][1] == told[-1][2] == sum(tensor.nbytes for tensor in TENSORS.values())
    assert [path.name for path in file.parent.iterdir()] == ["a.safetensors"]


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert are_same(read_tensors(tmp_path / "a.safetensors"), tensors)


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_saved_is_read(tmp_path: Path, is_zip: bool) -> None:
    torch.save(TENSORS, tmp_path / "a.bin", _use_new_zipfile_serialization=is_zip)
    assert are_same(read_tensors(tmp_path / "a.bin"), TENSORS)


def test_torch_reads_what_is_written_for_it(tmp_path: Path) -> None:
    """Of a mapped file, too, of which every tensor is a view: each is written once."""
    write_tensors(tmp_path / "a.safetensors", {str(n): torch.full((1000,), float(n)) for n in range(20)})
    tensors = read_tensors(tmp_path / "a.safetensors")
    write_torch(tmp_path / "a.bin", tensors)
    assert are_same(torch.load(tmp_path / "a.bin", weights_only=True), tensors)
    assert (tmp_path / "a.bin").stat().st_size < 2 * sum(tensor.nbytes for tensor in tensors.values())


def test_parts_are_written_below_each_other(tmp_path: Path) -> None:
    upper, lower = torch.randn(2, 3), torch.randn(1, 3)
    write_tensors(tmp_path / "a.safetensors", {"whole": (upper, lower)})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["whole"], torch.cat([upper, lower]))


def test_only_floating_point_is_rounded(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", TENSORS, dtype=torch.bfloat16)
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["matrix"], TENSORS["matrix"].bfloat16())
    assert found["count"].dtype == torch.int64 and found["flags"].dtype == torch.bool


def test_a_large_file_is_not_read_at_once(tmp_path: Path) -> None:
    """A sparse file of 400 MB: nothing of it comes into the memory of this process."""
    file = tmp_path / "a.safetensors"
    write_tensors(file, {"a": torch.zeros(1)})
    header = b'{"a":{"dtype":"F32","shape":[100000000],"data_offsets":[0,400000000]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(file, 8 + len(header) + 400_000_000)
    before = anonymous_bytes()
    tensors = read_tensors(file)
    assert tensors["a"][-1] == 0
    assert anonymous_bytes() - before < 40e6


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    (write_tensors if name.endswith("safetensors") else write_torch)(file, {"a": torch.randn(100, 100)})
    content = file.read_bytes()
    for length in (0, 1, 7, 8, 60, len(content) // 2, len(content) - 100, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated") as raised:
            read_tensors(file)
        assert str(file) in str(raised.value)


class Harmful:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_is_not_run(tmp_path: Path, how: str) -> None:
    file, mark = tmp_path / "a.bin", tmp_path / "it ran"
    content = {"a": torch.zeros(3), "b": Harmful(mark)}
    if how == "pickle":
        file.write_bytes(pickle.dumps({"b": Harmful(mark)}, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError) as raised:
        read_tensors(file)
    assert "mkdir" in str(raised.value) and "nothing in it was run" in str(raised.value)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_torch_does_not_understand_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"b": Harmful(mark)}, protocol=5))
    with pytest.raises(CheckpointError, match="would run code when loaded, which is refused"):
        read_tensors(tmp_path / "a.pth")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(2)], "holds a list, not tensors by name"),
        ({"module": {"a": torch.zeros(2)}, "step": 3}, "other things than tensors by name: module (dict), step (int)"),
    ],
)
def test_only_tensors_by_name_are_taken(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as raised:
        read_tensors(tmp_path / "a.pt")
    assert said in str(raised.value)


def test_what_is_no_file_of_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html><body>Please sign in</body></html>")
    for name, said in (
        ("notes.txt", "is not a weights file; those end in .safetensors, .bin, .pt, .pth"),
        ("pointer.safetensors", "only points to weights in Git LFS"),
        ("page.safetensors", "is not a safetensors file"),
        ("missing.bin", "cannot be read: No such file or directory"),
        (".", "is a folder, not a file of weights"),
    ):
        with pytest.raises(CheckpointError) as raised:
            read_tensors(tmp_path / name)
        assert said in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, {"a": torch.zeros(3)})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
            write_tensors(file, {"a": torch.ones(3)})
    usage = namedtuple("usage", "total used free")(10, 10, 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"needs .* GB, and 0.0 GB are free"):
        write_tensors(file, {"a": torch.ones(3)})
    assert torch.equal(load_file(file)["a"], torch.zeros(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
