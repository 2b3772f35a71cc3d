"""A rosbag2's messages in order of receipt, whichever its storage (sqlite3, MCAP), and whether it was closed or not.

Its files are read one by one, and what they say of topics counts: metadata.yaml, where there is one, lists them, and
may say otherwise of QoS, of times and of counts. Compressed files (`.zstd`) are unpacked for as long as they are read.
"""

from __future__ import annotations

import heapq
import io
import re
import shutil
import struct
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import yaml
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from vla_ros.messages import Message
from vla_ros.timing.stamps import s_to_ns

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_STORAGES = (".mcap", ".db3")
_COMPRESSED = (".zstd", ".zst")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no message begins so
_ROS1, _ROS1_MAGIC = ".bag", b"#ROSBAG"
#: What unpacking leaves free of the disk that temporary files are on.
_ROOM_BYTES = 1_000_000_000
_BLOCK_BYTES = 1 << 16  # what is lost at most of a file that was cut
#: Messages of a file without an index may be this much out of order: several threads received them.
_DISORDER_NS = s_to_ns(2.0)

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_MCAP_HEADER_BYTES = 9  # of a record: opcode, length
_MCAP_FOOTER, _MCAP_LAST_DATA = 0x02, 0x0E  # opcodes of records that stand between the magics
#: An end that says there is no index: footer of three fields that are 0, magic.
_MCAP_END = bytes([_MCAP_FOOTER]) + (20).to_bytes(8, "little") + bytes(20) + _MCAP_MAGIC

_ZEROS = 512  # no picture ends in so many, nor a disk's smallest block in less

#: What messages with a header begin with: encapsulation (the second byte says which byte comes first), stamp.
_CDR_BYTES = 4
_HEADER = struct.Struct("<4xiI")

Raw = tuple[Connection, int, bytes]


class BagError(ValueError):
    """A bag cannot be read, or has not what is asked of it; the text says what is there."""


class Bag:
    """An open rosbag2: a folder, or one of its files. `types`, `counts`: of each topic; `notices`: what is amiss.

    A bag that nobody closed has no metadata.yaml, and its last file no end: what is whole in its files is read.

    Raises:
        BagError: there is no bag, or nothing in it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self.undecoded: Counter[str] = Counter()  # topic -> messages whose bytes are not what their type says
        with ExitStack() as stack:
            self._files: list[Path | _Ended] = []
            self._readers = self._open(stack)
            self._at_end = stack.pop_all()
        connections = [connection for reader in self._readers for connection in reader.connections]
        self.types: dict[str, str] = {connection.topic: connection.msgtype for connection in connections}
        self.counts: Counter[str] = Counter()
        for connection in connections:
            self.counts[connection.topic] += connection.msgcount

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its files."""
        self._at_end.close()

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were received; both 0 in an empty bag."""
        spans = [(reader.start_time, reader.end_time - 1) for reader in self._readers if reader.message_count]
        return (min(start for start, _ in spans), max(end for _, end in spans)) if spans else (0, 0)

    def messages(
        self, wanted: Mapping[str, str], from_ns: int = 0, apart: bool = False
    ) -> Iterator[tuple[str, int, Message]]:
        """Topic, time of receipt [ns] and message, in order of receipt, of `wanted`: topic -> type.

        Topics of another type are left out. Where a file cannot be read any further, its messages end, and a notice
        says so. `apart`: while other messages are being read.
        """
        with ExitStack() as stack:
            readers = (
                [stack.enter_context(Reader(cast(Path, file))) for file in self._files] if apart else self._readers
            )
            chosen = _chosen(readers, wanted)
            types = self._types([item for _, connections in chosen for item in connections])
            for connection, received_ns, data in self._merged(chosen, from_ns):
                try:
                    message = types.deserialize_cdr(data, connection.msgtype)
                except Exception:  # rosbags' generated code asserts, unpacks and indexes
                    self.undecoded[connection.topic] += 1
                    continue
                yield connection.topic, received_ns, message

    def stamps(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, int, int]]:
        """Topic, time of receipt [ns] and header stamp [ns] of messages that begin with a header; as `messages`."""
        for connection, received_ns, data in self._merged(_chosen(self._readers, wanted), 0):
            if len(data) >= _HEADER.size:
                order = "<" if data[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, _CDR_BYTES)
                yield connection.topic, received_ns, s_to_ns(seconds) + nanoseconds

    def _merged(self, chosen: Sequence[tuple[Reader, list[Connection]]], from_ns: int) -> Iterator[Raw]:
        """Messages of all files in order of receipt: files may overlap, and be named in another order."""
        waiting = deque(sorted(chosen, key=lambda pair: pair[0].start_time))
        reading: list[tuple[int, int, Raw, Iterator[Raw]]] = []
        while waiting or reading:
            while waiting and (not reading or waiting[0][0].start_time <= reading[0][0]):
                place = len(chosen) - len(waiting)
                raws = self._raw(*waiting.popleft(), from_ns)
                if (first := next(raws, None)) is not None:
                    heapq.heappush(reading, (first[1], place, first, raws))
            if not reading:
                continue
            _, place, raw, raws = reading[0]
            yield raw
            following = next(raws, None)
            if following is None:
                heapq.heappop(reading)
            else:
                heapq.heapreplace(reading, (following[1], place, following, raws))

    def _open(self, stack: ExitStack) -> list[Reader]:
        path = self.path
        if not path.exists():
            raise BagError(
                f"{path} does not exist; should be a bag: a folder with metadata.yaml, or an .mcap or .db3 file"
            )
        files = self._listed() if path.is_dir() else [path]
        stored = [file for file in files if _storage(file) in _STORAGES]
        if not stored:
            if old := next((file for file in files if is_ros1(file)), None):
                raise BagError(
                    f"{old} is a bag of ROS 1; `rosbags-convert --src {old} --dst {old.with_suffix('')}` converts it "
                    "to ROS 2 (it is installed with this package)"
                )
            there = ", ".join(file.name for file in files) or "nothing"
            raise BagError(f"{path} is not a bag: it should have an .mcap or .db3 file, and has {there}")
        unpacked = [self._unpacked(stack, file) for file in stored]
        readers = [reader for file in unpacked if file and (reader := self._open_file(stack, file)) is not None]
        if not readers:
            raise BagError("; ".join(self.notices))
        self._files = [cast("Path | _Ended", reader.path) for reader in readers]
        return readers

    def _listed(self) -> list[Path]:
        """The files of a folder: those that metadata.yaml lists, or all where it does not."""
        there = sorted(self.path.iterdir(), key=_in_number_order)
        file = self.path / "metadata.yaml"
        if not file.exists():
            self._notice(f"{self.path} has no metadata.yaml: the bag was not closed; its files are read one by one")
            return there
        try:
            about = yaml.safe_load(file.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
            listed = [self.path / Path(str(name)).name for name in about["relative_file_paths"]]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            self._notice(f"{file} cannot be read ({type(error).__name__}: {error}); all files next to it are read")
            return there
        missing = [one.name for one in listed if not one.exists()]
        if missing:
            self._notice(
                f"{self.path} does not match its metadata.yaml ({', '.join(missing)} missing); its files are read one "
                "by one"
            )
            return there
        return listed

    def _unpacked(self, stack: ExitStack, file: Path) -> Path | None:
        """A file that can be read in any order: of a compressed one a copy, for as long as the bag is open."""
        if file.suffix not in _COMPRESSED:
            return file
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vla-ros-bag-")))
        unpacked = folder / file.stem
        try:
            with zstd.open(file, "rb") as packed, unpacked.open("wb") as into:
                while block := packed.read(_BLOCK_BYTES):
                    if shutil.disk_usage(folder).free < _ROOM_BYTES:
                        raise BagError(
                            f"{file} does not fit on the disk of {folder.parent} when it is unpacked; unpack it "
                            f"elsewhere with `zstd -d {file}`, or name a larger disk by TMPDIR"
                        )
                    into.write(block)
        except (OSError, EOFError, zstd.ZstdError) as error:
            self._notice(f"{file} cannot be unpacked beyond {unpacked.stat().st_size} bytes: {error}")
            return unpacked if unpacked.stat().st_size else None
        return unpacked

    def _open_file(self, stack: ExitStack, file: Path) -> Reader | None:
        log = file.with_name(f"{file.name}-wal")
        if log.exists() and log.stat().st_size:
            self._notice(
                f"{log} has messages that are not in {file.name} yet, and they are left out; bring them in with "
                f"`sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
            )
        try:
            return stack.enter_context(Reader(file))
        except Exception as error:
            why = error
        if file.suffix == ".mcap":
            try:
                reader = stack.enter_context(Reader(cast(Path, _Ended(file))))
            except Exception as error:
                why = error
            else:
                self._notice(f"{file} was not closed; what is whole in it is read")
                return reader
        self._notice(f"{file} cannot be read: {why}")
        return None

    def _raw(self, reader: Reader, connections: Sequence[Connection], from_ns: int) -> Iterator[Raw]:
        if not connections:
            return
        last_ns = 0
        is_indexed = not isinstance(reader.path, _Ended) and getattr(reader.storage, "chunks", True)
        try:
            for connection, last_ns, data in (
                reader.messages(connections, from_ns)
                if is_indexed
                else _in_order(cast(Any, reader.storage).messages_scan(connections, from_ns))
            ):
                whole = zstd.decompress(data) if data[:4] == _ZSTD_MAGIC else data
                yield connection, last_ns, whole
        except Exception as error:
            self._notice(f"{reader.path} cannot be read beyond {last_ns} ns: {error}")

    def _types(self, connections: Iterable[Connection]) -> Any:
        """The types as the bag defines them, where it does (sqlite3 bags of Humble do not), else as of today."""
        known: dict[str, Any] = {}
        unknown = False
        for connection in {connection.msgtype: connection for connection in connections}.values():
            try:
                definition = _definition(connection)
            except TypesysError as error:
                self._notice(f"the bag's own definition of {connection.msgtype} is not used: {error}")
                definition = {}
            known.update(definition)
            unknown = unknown or not definition
        types = get_typestore(Stores.EMPTY)
        if unknown:
            known = {**get_typestore(Stores.ROS2_KILTED).fielddefs, **known}
        types.register(known)
        return types

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)


def is_bag(path: Path) -> bool:
    """Whether it looks like a bag, of ROS 2 or of ROS 1: a folder with its files, or one of these."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or any(is_bag(file) for file in path.iterdir() if file.is_file())
    return _storage(path) in _STORAGES or is_ros1(path)


def is_ros1(path: Path) -> bool:
    """Whether it is a bag of ROS 1, by its name and its beginning."""
    if path.suffix != _ROS1 or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_ROS1_MAGIC)) == _ROS1_MAGIC


def _storage(path: Path) -> str:
    """The suffix of a file's storage, also of a compressed one."""
    return Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def _chosen(readers: Iterable[Reader], wanted: Mapping[str, str]) -> list[tuple[Reader, list[Connection]]]:
    """Of every file the connections of `wanted`: topic -> type."""
    return [
        (reader, [item for item in reader.connections if wanted.get(item.topic) == item.msgtype]) for reader in readers
    ]


def _definition(connection: Connection) -> dict[str, Any]:
    """The type of a topic, and those nested in it, as they stand in the bag; empty where they do not."""
    text, language = connection.msgdef.data, connection.msgdef.format
    if language == MessageDefinitionFormat.MSG:
        return dict(get_types_from_msg(text, connection.msgtype))
    if language == MessageDefinitionFormat.IDL:
        parts = re.split(r"^=+\nIDL: .*\n", text, flags=re.MULTILINE)
        return {name: fields for part in parts if part.strip() for name, fields in get_types_from_idl(part).items()}
    return {}


def _in_number_order(file: Path) -> list[tuple[int, str]]:
    """bag_2 before bag_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _in_order(messages: Iterable[Raw]) -> Iterator[Raw]:
    """Messages that are nearly in order of time, in order."""
    waiting: list[tuple[int, int, Raw]] = []
    for number, raw in enumerate(messages):
        heapq.heappush(waiting, (raw[1], number, raw))
        while waiting[0][0] < raw[1] - _DISORDER_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


class _Ended:
    """The path of an MCAP file that has no end; opens as if it ended after its last whole record.

    Raises:
        BagError: it is not an MCAP file.
    """

    suffix = ".mcap"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._length = _whole_bytes(path)

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        return True

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_EndedFile(self._path, self._length))


class _EndedFile(io.RawIOBase):
    """The first `length` bytes of a file, and then `_MCAP_END`."""

    def __init__(self, path: Path, length: int) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._length + len(_MCAP_END))[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer)
        left = self._length - self._position
        if left > 0:
            self._file.seek(self._position)
            count = self._file.readinto(into[:left])
        else:
            end = _MCAP_END[-left:][: len(into)]
            into[: len(end)] = end
            count = len(end)
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _whole_bytes(path: Path) -> int:
    """Length of the magic and the data records of an MCAP file that are there to their last byte.

    A file that lost power may end in zeros that were never written: a record with such an end is not whole.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
            raise BagError(f"{path} is not an MCAP file")
        length = before = file.tell()
        while len(header := file.read(_MCAP_HEADER_BYTES)) == _MCAP_HEADER_BYTES:
            end = file.tell() + int.from_bytes(header[1:], "little")
            if header[0] == _MCAP_FOOTER or not 0 < header[0] <= _MCAP_LAST_DATA or end > size:
                break
            before, length = length, file.seek(end)
        file.seek(max(before, length - _ZEROS))
        ends_in_zeros = not any(file.read(length - file.tell()))
    return before if ends_in_zeros else length
