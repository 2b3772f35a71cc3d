"""The machine as facts, and what of it slows or stops a robot: processor, memory, kernel, clock, GPU, cameras, disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vla_ros.doctor.findings import Finding, fail, is_slow, joined, ok, slow, warn

GIGABYTE = 10**9

_OLDEST_PYTHON = (3, 10)
_BUSY_LOAD_PER_CPU = 1.5  # runnable threads per processor, over the last minute
_FREE_MEMORY_BYTES, _SCARCE_MEMORY_BYTES = 2 * GIGABYTE, GIGABYTE // 2
_USED_SWAP_BYTES = GIGABYTE // 2
_FREE_DISK_BYTES, _SCARCE_DISK_BYTES = 10 * GIGABYTE, GIGABYTE

#: What images from another machine need of the kernel: a socket buffer that holds several, and room for fragments of
#: many at once (a 640x480 image is 640 of them). ROS 2 documentation, "DDS tuning information".
BUFFERS = {
    "net.core.rmem_max": 4 * 2**20,
    "net.core.wmem_max": 4 * 2**20,
    "net.ipv4.ipfrag_high_thresh": 4 * 2**20,
}


@dataclass(frozen=True)
class Gpu:
    """One GPU. Bytes are of its own memory; None: not told."""

    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None
    driver: str = ""


@dataclass(frozen=True)
class Torch:
    """PyTorch as installed: `problem` says why it cannot be asked."""

    version: str = ""
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Camera:
    """One RealSense: `usb` is the version of the connection, as 3.2."""

    name: str
    serial: str
    usb: str


@dataclass(frozen=True)
class Video:
    """One /dev/video*."""

    path: str
    name: str
    readable: bool


@dataclass(frozen=True)
class Machine:
    """What was read; None or empty where the machine does not tell."""

    python: tuple[int, int, int]
    cpus: int
    load_1min: float
    memory_bytes: int
    available_bytes: int
    swap_used_bytes: int
    disk_path: str
    disk_free_bytes: int
    governors: tuple[str, ...] = ()
    isolated_cpus: str = ""
    real_time_kernel: bool = False
    rtprio_limit: int = 0
    memlock_bytes: int | None = None  # None: no limit
    buffers: Mapping[str, int] = field(default_factory=dict)  # sysctl -> bytes
    clock_synchronized: bool | None = None
    gpus: tuple[Gpu, ...] = ()  # as the driver tells them
    torch: Torch | None = None  # None: not installed
    cameras: tuple[Camera, ...] = ()
    videos: tuple[Video, ...] = ()


def judge(machine: Machine) -> list[Finding]:
    """Processor, memory, kernel, clock and disk."""
    return [
        _python(machine.python),
        _load(machine.load_1min, machine.cpus),
        _governor(machine.governors),
        *_memory(machine),
        _real_time(machine),
        *_buffers(machine.buffers),
        *_clock(machine.clock_synchronized),
        _disk(machine.disk_path, machine.disk_free_bytes),
    ]


def judge_devices(machine: Machine) -> list[Finding]:
    """GPU and cameras."""
    return [_gpu(machine.gpus, machine.torch), *_cameras(machine.cameras), *_videos(machine.videos)]


def _python(version: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, version))
    if version[:2] < _OLDEST_PYTHON:
        return fail("Python", text, "3.10 or newer", "make setup PYTHON=python3.11")
    return ok("Python", text)


def _load(load: float, cpus: int) -> Finding:
    found = f"load {load:.1f} on {cpus} processor{'s' if cpus != 1 else ''}"
    if load > _BUSY_LOAD_PER_CPU * cpus:
        right = f"less than {_BUSY_LOAD_PER_CPU * cpus:.1f}, or control deadlines are missed"
        return warn("processor", found, right, "top, to see what else is running")
    return ok("processor", found)


def _governor(governors: tuple[str, ...]) -> Finding:
    slow = [name for name in governors if name != "performance"]
    if slow:
        remedy = "sudo cpupower frequency-set -g performance"
        return warn("CPU governor", joined(slow), "performance: cores that must first speed up cause delays", remedy)
    return ok("CPU governor", joined(governors) if governors else "unknown (a container or a virtual machine)")


def _memory(machine: Machine) -> Iterator[Finding]:
    free = machine.available_bytes
    found = f"{_size(free)} free of {_size(machine.memory_bytes)}"
    if free < _FREE_MEMORY_BYTES:
        say = fail if free < _SCARCE_MEMORY_BYTES else warn
        yield say("memory", found, f"at least {_size(_FREE_MEMORY_BYTES)}", "close what needs most: top -o %MEM")
    else:
        yield ok("memory", found)
    if machine.swap_used_bytes > _USED_SWAP_BYTES:
        found = f"{_size(machine.swap_used_bytes)} in use"
        yield warn("swap", found, "none: swapping causes delays", "sudo swapoff -a")


def _real_time(machine: Machine) -> Finding:
    kernel = "a real-time kernel" if machine.real_time_kernel else "no real-time kernel"
    memlock = machine.memlock_bytes
    locked = "unlimited" if memlock is None else _size(memlock)
    found = f"{kernel}; limits rtprio {machine.rtprio_limit}, memlock {locked}"
    if machine.isolated_cpus:
        found += f"; isolated cores {machine.isolated_cpus}"
    if machine.real_time_kernel and machine.rtprio_limit == 0:
        right = "rtprio 99 and memlock unlimited, or your processes cannot use the real-time kernel"
        return warn("real time", found, right, "add your user's limits to /etc/security/limits.conf, log in again")
    return ok("real time", found if machine.real_time_kernel else f"{found}; needed where a 1 kHz driver runs")


def _buffers(buffers: Mapping[str, int]) -> Iterator[Finding]:
    short = {name: BUFFERS[name] for name, size in buffers.items() if size < BUFFERS[name]}
    found = ", ".join(f"{name.rpartition('.')[2]} {_size(size, binary=True)}" for name, size in buffers.items())
    if short:
        enough = _size(max(short.values()), binary=True)
        right = f"{enough}, or images from other machines are lost (those of this machine are not)"
        remedy = "sudo sysctl -w " + " ".join(f"{name}={size}" for name, size in short.items())
        yield warn("kernel buffers", found, right, remedy)
    elif buffers:
        yield ok("kernel buffers", found)


def _clock(synchronized: bool | None) -> Iterator[Finding]:
    if synchronized is False:
        right = "synchronised, or stamps of several machines do not match (one machine alone is fine)"
        yield warn("clock", "not synchronised", right, "sudo apt install chrony; then: chronyc tracking")
    elif synchronized:
        yield ok("clock", "synchronised")


def _disk(path: str, free: int) -> Finding:
    found = f"{_size(free)} free for recordings in {path}"
    if free < _FREE_DISK_BYTES:
        say = fail if free < _SCARCE_DISK_BYTES else warn
        return say("disk", found, f"at least {_size(_FREE_DISK_BYTES)}", "record to another disk, or free space: du -h")
    return ok("disk", found)


def _gpu(gpus: tuple[Gpu, ...], torch: Torch | None) -> Finding:
    usable = torch.gpus if torch else ()
    shown = joined(_gpu_text(gpu) for gpu in usable or gpus) if usable or gpus else "none"
    if torch is None:
        return ok("GPU", f"{shown}; PyTorch is not installed")
    if is_slow(torch.problem):
        return slow("PyTorch", f"{shown}; importing PyTorch: {torch.problem}")
    if torch.problem:
        remedy = "reinstall it: pip install --force-reinstall torch"
        return fail("PyTorch", f"does not work: {torch.problem}", "importable", remedy)
    if gpus and not usable:
        remedy = "install the CUDA build of PyTorch that fits the driver: https://pytorch.org/get-started/locally"
        return warn("GPU", f"{shown}, but PyTorch {torch.version} cannot use it", "a PyTorch that can", remedy)
    return ok("GPU", f"{shown}; PyTorch {torch.version}" + ("" if usable else ", on the processor"))


def _gpu_text(gpu: Gpu) -> str:
    memory = _size(gpu.memory_bytes) if gpu.memory_bytes is not None else "memory unknown"
    free = f", {_size(gpu.free_bytes)} free" if gpu.free_bytes is not None else ""
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    return f"{gpu.name} ({memory}{free}{driver})"


def _cameras(cameras: tuple[Camera, ...]) -> Iterator[Finding]:
    if not cameras:
        yield ok("RealSense", "none")
    for camera in cameras:
        found = f"{camera.name} on USB {camera.usb or '?'}"
        if camera.usb.startswith(("1", "2")):
            right = "USB 3: USB 2 carries 640x480 at 15 Hz or less"
            remedy = "another cable or port; then lsusb -t shows 5000M"
            yield warn(f"RealSense {camera.serial}", found, right, remedy)
        else:
            yield ok(f"RealSense {camera.serial}", found)


def _videos(videos: tuple[Video, ...]) -> Iterator[Finding]:
    locked = [video.path for video in videos if not video.readable]
    if locked:
        remedy = "sudo usermod -aG video $USER, then log in again"
        yield warn("video devices", f"{joined(locked)} cannot be opened by you", "readable by you", remedy)
    elif videos:
        yield ok("video devices", ", ".join(f"{video.path} ({video.name})" for video in videos))


def _size(number: int, binary: bool = False) -> str:
    """Bytes for people: in powers of 1000, or of 1024 as the kernel counts buffers."""
    base, units = (1024, ("B", "KiB", "MiB", "GiB")) if binary else (1000, ("B", "kB", "MB", "GB"))
    value, unit = float(number), 0
    while value >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{value:.3g} {units[unit]}"
