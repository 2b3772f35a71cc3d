"""Tensors in files: safetensors and torch's own, read without unpickling, written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vla_ros.recording.files import DatasetError, fsync_folder, make_folder, ordinary, staged_path
from vla_ros.recording.upkeep import staging

#: Called with what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]

SAFETENSORS = ".safetensors"
TORCH = (".bin", ".pt", ".pth")

#: Types that weights are converted to, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
#: What torch.load raises for a file that is cut off, damaged or none of its own.
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile)
_LFS_POINTER = b"version https://git-lfs"


class CheckpointError(ValueError):
    """What was asked of a checkpoint cannot be: the text says what was given and what would be right."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU and mapped: a tensor is read from the disk when it is looked at.

    `.safetensors`, or `.bin`, `.pt`, `.pth` as torch.save writes them, read with weights_only: nothing is executed.
    Raises CheckpointError, naming the file, where it is missing, cut off, no such file, or holds more than tensors.
    """
    with _reading(path):
        if path.suffix == SAFETENSORS:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                return {name: _alone(file.get_tensor(name)) for name in names}
        if path.suffix not in TORCH:
            raise CheckpointError(f"{path} is not a weights file; those end in {', '.join((SAFETENSORS, *TORCH))}")
        return _only_tensors(path, _load(path))


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors; none for torch's. Raises CheckpointError."""
    if path.suffix != SAFETENSORS:
        return {}
    with _reading(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor | Sequence[Tensor]],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write a safetensors file, on the disk when this returns; what was at `path` stays until it is whole.

    One tensor after the other, so that no second copy is held (the library's own writer takes all at once, and says
    nothing meanwhile); several tensors under one name are written as one, below each other; floating point as `dtype`
    where that is given. Raises CheckpointError where the disk is full or may not be written; then nothing is left.
    """
    parts = {name: (each,) if isinstance(each, Tensor) else tuple(each) for name, each in tensors.items()}
    dtypes = {name: _dtype(path, each[0], dtype) for name, each in parts.items()}
    names = sorted(parts, key=lambda name: (-dtypes[name].itemsize, name))  # every value lies at a multiple of its size
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in names:
        start, end = end, end + sum(part.numel() for part in parts[name]) * dtypes[name].itemsize
        header[name] = {
            "dtype": _DTYPES[dtypes[name]],
            "shape": list(_shape(parts[name])),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, len(text) + 8 + end) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for part in parts[name]:
                file.write(_bytes(part.detach().to("cpu", dtypes[name])))
            if on_progress:
                on_progress(f"writes {path.name}", header[name]["data_offsets"][1], end)


def write_torch(path: Path, tensors: Mapping[str, Tensor], *, on_progress: Progress | None = None) -> None:
    """Write a file as torch.save does, as others' loaders expect it; else as `write_tensors`."""
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())

    def tell(done: int) -> None:
        if on_progress:
            on_progress(f"writes {path.name}", min(done, size), size)

    with replacing(path, size) as file:
        torch.save({name: _alone(tensor.detach().cpu()) for name, tensor in tensors.items()}, _Told(file, tell))


@contextmanager
def replacing(path: Path, size_bytes: int = 0) -> Iterator[IO[bytes]]:
    """A file that becomes `path` at the end, on the disk; after an error `path` is what it was.

    Raises CheckpointError where it cannot be written, at once where `size_bytes` do not fit on the disk.
    """
    staged = staged_path(path)
    with writing(path):
        make_folder(path.parent)
        free = shutil.disk_usage(path.parent).free
        if size_bytes > free:
            raise CheckpointError(
                f"{path} needs {size_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on that disk"
            )
        try:
            with staged.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
            fsync_folder(path.parent)
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, mark: str) -> Iterator[Path]:
    """A new folder that becomes `folder` at the end, in place of the one that is there.

    After an error `folder` is what it was; a crash at any time leaves the old one or the new one, whole. Only what has
    a file called `mark`, as the new one will, is replaced. Raises CheckpointError where it cannot be written.
    """
    try:
        with writing(folder):
            folder = folder.resolve()
            if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
                raise CheckpointError(f"{folder} exists, is not a checkpoint (it has no {mark}), and is not replaced")
            new = staging.stage_new(folder)
        try:
            yield new
            staging.replace(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except DatasetError as error:
        raise CheckpointError(str(error)) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the disk into a CheckpointError that names `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder, not a file of weights")
        with ordinary(path).open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise CheckpointError(f"{path} only points to weights in Git LFS; fetch them: git lfs pull")
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is truncated: {error}") from error


def _load(path: Path) -> object:
    try:
        # what torch wrote before its files were zip archives cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise CheckpointError(
                f"{path} is not a weights file, is truncated, or would run code when loaded, which is refused"
            ) from error
        raise CheckpointError(
            f"{path} holds code or objects ({found[1]}), not only tensors: it is not loaded, and nothing in it was run"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is not a weights file, or is truncated: {_first_line(error)}") from error


def _only_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name")
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path} holds other things than tensors by name: {', '.join(others[:5])}{', ...' * (len(others) > 5)}; "
            "the state dict alone is needed"
        )
    return {str(name): value.detach() for name, value in content.items()}


def _alone(tensor: Tensor) -> Tensor:
    """The same memory as a storage of its own: those of a mapped file share one, which torch.save would write whole."""
    return torch.from_numpy(_bytes(tensor)).view(tensor.dtype).reshape(tensor.shape) if tensor.numel() else tensor


def _bytes(tensor: Tensor) -> Any:
    """The values of a tensor on the CPU as an array of bytes (N,), not copied where they lie together."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _dtype(path: Path, tensor: Tensor, wanted: torch.dtype | None) -> torch.dtype:
    dtype = wanted if wanted and tensor.is_floating_point() else tensor.dtype
    if dtype not in _DTYPES:
        raise CheckpointError(f"{path}: tensors of {dtype} cannot be written")
    return dtype


def _shape(parts: Sequence[Tensor]) -> tuple[int, ...]:
    if len(parts) == 1:
        return tuple(parts[0].shape)
    return (sum(len(part) for part in parts), *parts[0].shape[1:])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


class _Told:
    """A file that tells how many bytes were written to it."""

    def __init__(self, file: IO[bytes], tell: Callable[[int], None]) -> None:
        self._file, self._tell, self._done = file, tell, 0

    def write(self, data: bytes) -> int:
        count = self._file.write(data)
        self._done += count
        self._tell(self._done)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
