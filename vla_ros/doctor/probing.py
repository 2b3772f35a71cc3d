"""Reads the machine: /proc, /sys, and short questions to programs that may be missing or hang; changes nothing."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from vla_ros.doctor.findings import no_answer
from vla_ros.doctor.machine import BUFFERS, Camera, Gpu, Machine, Torch, Video

Answer = TypeVar("Answer")

_PROC, _SYS, _DEV = Path("/proc"), Path("/sys"), Path("/dev")
_MEBIBYTE = 2**20

_ANSWER_TIMEOUT_S = 5.0
_TORCH_TIMEOUT_S = 30.0  # importing it from a cold disk takes this long

_INTEL = "8086"
#: Mbit/s as sysfs says it -> the version of USB.
_USB_OF_SPEED = {"1.5": "1.0", "12": "1.1", "480": "2.0", "5000": "3.0", "10000": "3.1", "20000": "3.2"}

# Asked in a process of their own: they take long to import, may hang in a driver, or crash.
_ASK_TORCH = """
import json, torch
gpus = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    gpus.append({"name": torch.cuda.get_device_name(i), "memory_bytes": total, "free_bytes": free})
print(json.dumps({"version": torch.__version__, "gpus": gpus}))
"""
_ASK_REALSENSE = """
import json, pyrealsense2 as rs
def told(device, key):
    return device.get_info(key) if device.supports(key) else ""
info = rs.camera_info
print(json.dumps([
    {"name": told(device, info.name), "serial": told(device, info.serial_number),
     "usb": told(device, info.usb_type_descriptor)}
    for device in rs.context().query_devices()
]))
"""


def machine(disk_path: Path) -> Machine:
    """The machine as it is now; `disk_path`: where recordings would go."""
    memory = _memory()
    folder = next(place for place in (disk_path.absolute(), *disk_path.absolute().parents) if place.exists())
    _, memlock = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    _, rtprio = resource.getrlimit(resource.RLIMIT_RTPRIO)
    return Machine(
        python=sys.version_info[:3],
        cpus=len(os.sched_getaffinity(0)),
        load_1min=os.getloadavg()[0],
        memory_bytes=memory.get("MemTotal", 0),
        available_bytes=memory.get("MemAvailable", 0),
        swap_used_bytes=memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        disk_path=str(folder),
        disk_free_bytes=shutil.disk_usage(folder).free,
        governors=_governors(),
        isolated_cpus=_text(_SYS / "devices/system/cpu/isolated"),
        real_time_kernel=_text(_SYS / "kernel/realtime") == "1" or "PREEMPT_RT" in platform.version(),
        rtprio_limit=99 if rtprio == resource.RLIM_INFINITY else rtprio,
        memlock_bytes=None if memlock == resource.RLIM_INFINITY else memlock,
        buffers=_buffers(),
        clock_synchronized=_clock_synchronized(),
        gpus=_nvidia_gpus(),
        torch=_torch(),
        cameras=_realsense_cameras(),
        videos=_videos(),
    )


def ask(command: Sequence[str], timeout_s: float = _ANSWER_TIMEOUT_S) -> tuple[str, str]:
    """What a program prints, and why it does not ("" when it does): not there, too slow, its last line of error."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except OSError as error:
        return "", str(error)
    except subprocess.TimeoutExpired:
        return "", no_answer(timeout_s)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return "", said[-1] if said else f"exit code {done.returncode}"
    return done.stdout, ""


def ask_python(code: str, timeout_s: float = _ANSWER_TIMEOUT_S) -> tuple[str, str]:
    """As `ask`, of this Python."""
    return ask([sys.executable, "-c", code], timeout_s)


def limited(function: Callable[[], Answer], timeout_s: float) -> Answer:
    """The answer of `function`, or TimeoutError; what hangs is left to its thread, which dies with the process."""
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            answers.append(function())
        except BaseException as error:  # raised to the caller, below
            errors.append(error)

    thread = threading.Thread(target=call, name="probe", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(no_answer(timeout_s))
    return answers[0]


def _text(path: Path) -> str:
    """The file in a line; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _memory() -> dict[str, int]:
    """name -> bytes."""
    lines = (line.split() for line in _text(_PROC / "meminfo").splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) > 2}


def _governors() -> tuple[str, ...]:
    files = (_SYS / "devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    return tuple(sorted({_text(file) for file in files} - {""}))


def _buffers() -> dict[str, int]:
    texts = {name: _text(_PROC / "sys" / name.replace(".", "/")) for name in BUFFERS}
    return {name: int(text) for name, text in texts.items() if text.isdigit()}


def _clock_synchronized() -> bool | None:
    said, problem = ask(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    return None if problem else {"yes": True, "no": False}.get(said.strip())


def _nvidia_gpus() -> tuple[Gpu, ...]:
    fields = "name,memory.total,memory.free,driver_version"
    said, problem = ask(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    if problem:
        return ()
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(said)) if len(row) == 4]
    return tuple(Gpu(name, _mebibytes(total), _mebibytes(free), driver) for name, total, free, driver in rows)


def _mebibytes(text: str) -> int | None:
    return int(text) * _MEBIBYTE if text.isdigit() else None


def _torch() -> Torch | None:
    if importlib.util.find_spec("torch") is None:
        return None
    said, problem = ask_python(_ASK_TORCH, _TORCH_TIMEOUT_S)
    if problem:
        return Torch(problem=problem)
    told = json.loads(said.splitlines()[-1])
    return Torch(told["version"], tuple(Gpu(**gpu) for gpu in told["gpus"]))


def _realsense_cameras() -> tuple[Camera, ...]:
    """As librealsense tells them, else as the kernel does (no serial number of the camera then, but the port)."""
    if importlib.util.find_spec("pyrealsense2") is not None:
        said, problem = ask_python(_ASK_REALSENSE, 2 * _ANSWER_TIMEOUT_S)
        if not problem:
            return tuple(Camera(**camera) for camera in json.loads(said.splitlines()[-1]))
    found = []
    for device in sorted((_SYS / "bus/usb/devices").glob("*")):
        name = _text(device / "product")
        if _text(device / "idVendor") == _INTEL and "RealSense" in name:
            usb = _USB_OF_SPEED.get(_text(device / "speed"), "")
            found.append(Camera(name, _text(device / "serial") or f"at {device.name}", usb))
    return tuple(found)


def _videos() -> tuple[Video, ...]:
    return tuple(
        Video(f"/dev/{entry.name}", _text(entry / "name"), os.access(_DEV / entry.name, os.R_OK))
        for entry in sorted((_SYS / "class/video4linux").glob("video*"))
        if (_DEV / entry.name).exists()
    )
