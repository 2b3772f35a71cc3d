"""What is said of a machine, by tables; and that this one can be read."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_ros.doctor import machine, probing
from vla_ros.doctor.findings import Level
from vla_ros.doctor.machine import GIGABYTE, Camera, Gpu, Machine, Torch, Video

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL

FINE = Machine(
    python=(3, 11, 7),
    cpus=8,
    load_1min=2.0,
    memory_bytes=32 * GIGABYTE,
    available_bytes=20 * GIGABYTE,
    swap_used_bytes=0,
    disk_path="/data",
    disk_free_bytes=500 * GIGABYTE,
    governors=("performance",),
    real_time_kernel=True,
    rtprio_limit=99,
    memlock_bytes=None,
    buffers=dict.fromkeys(machine.BUFFERS, 16 * 2**20),
    clock_synchronized=True,
    gpus=(Gpu("RTX 4090", 24 * GIGABYTE, 23 * GIGABYTE, "550.54"),),
    torch=Torch("2.9.0", (Gpu("RTX 4090", 24 * GIGABYTE, 23 * GIGABYTE),)),
    cameras=(Camera("Intel RealSense D405", "1234", "3.2"),),
    videos=(Video("/dev/video0", "D405", True),),
)


def test_a_fine_machine_has_no_problem() -> None:
    findings = [*machine.judge(FINE), *machine.judge_devices(FINE)]
    assert {finding.level for finding in findings} == {OK}
    assert all(finding.found and not finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("change", "level", "subject", "told"),
    [
        ({"python": (3, 9, 2)}, FAIL, "Python", "3.9.2"),
        ({"load_1min": 12.5}, WARN, "processor", "load 12.5 on 8 processors"),
        ({"governors": ("powersave",)}, WARN, "CPU governor", "cpupower frequency-set -g performance"),
        ({"available_bytes": GIGABYTE}, WARN, "memory", "1 GB free of 32 GB"),
        ({"available_bytes": GIGABYTE // 10}, FAIL, "memory", "100 MB free"),
        ({"swap_used_bytes": 2 * GIGABYTE}, WARN, "swap", "2 GB in use"),
        ({"rtprio_limit": 0}, WARN, "real time", "/etc/security/limits.conf"),
        ({"clock_synchronized": False}, WARN, "clock", "chrony"),
        ({"disk_free_bytes": 5 * GIGABYTE}, WARN, "disk", "5 GB free for recordings in /data"),
        ({"disk_free_bytes": GIGABYTE // 2}, FAIL, "disk", "500 MB free"),
        (
            {"buffers": {"net.core.rmem_max": 212992, "net.core.wmem_max": 2**24}},
            WARN,
            "kernel buffers",
            "sudo sysctl -w net.core.rmem_max=4194304",
        ),
        (
            {"torch": Torch("2.9.0+cpu")},
            WARN,
            "GPU",
            "RTX 4090 (24 GB, 23 GB free, driver 550.54), but PyTorch 2.9.0+cpu",
        ),
        ({"torch": Torch(problem="no answer within 30 s")}, WARN, "PyTorch", "no answer within 30 s"),
        ({"torch": Torch(problem="libcudart.so.12 is missing")}, FAIL, "PyTorch", "does not work: libcudart.so.12"),
        ({"cameras": (Camera("D405", "77", "2.1"),)}, WARN, "RealSense 77", "USB 2.1"),
        ({"videos": (Video("/dev/video2", "x", False),)}, WARN, "video devices", "usermod -aG video"),
    ],
)
def test_one_thing_wrong_is_one_finding(change: dict[str, Any], level: Level, subject: str, told: str) -> None:
    wrong = replace(FINE, **change)
    problems = [f for f in [*machine.judge(wrong), *machine.judge_devices(wrong)] if f.level is not OK]
    assert [(finding.level, finding.subject) for finding in problems] == [(level, subject)]
    assert told in f"{problems[0].found}; {problems[0].remedy}"
    assert problems[0].right and problems[0].remedy


@pytest.mark.parametrize(
    "change",
    [
        {"governors": ()},
        {"buffers": {}},
        {"clock_synchronized": None},
        {"gpus": (), "torch": None},
        {"gpus": (), "torch": Torch("2.9.0+cpu")},
        {"cameras": (), "videos": ()},
        {"real_time_kernel": False, "rtprio_limit": 0},
        {"cameras": (Camera("D435", "1", ""),)},
    ],
)
def test_what_a_machine_does_not_have_or_tell_is_no_problem(change: dict[str, Any]) -> None:
    other = replace(FINE, **change)
    assert {finding.level for finding in [*machine.judge(other), *machine.judge_devices(other)]} == {OK}


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    found = probing.machine(tmp_path / "not" / "there" / "yet")
    assert found.python == sys.version_info[:3]
    assert found.cpus >= 1
    assert 0 < found.available_bytes <= found.memory_bytes
    assert found.disk_path == str(tmp_path) and found.disk_free_bytes > 0
    assert machine.judge(found)


def test_cameras_and_kernel_are_read_from_sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "sys/bus/usb/devices/2-1/idVendor": "8086\n",
        "sys/bus/usb/devices/2-1/product": "Intel(R) RealSense(TM) Depth Camera 405\n",
        "sys/bus/usb/devices/2-1/speed": "480\n",
        "sys/bus/usb/devices/1-2/idVendor": "046d\n",
        "sys/bus/usb/devices/1-2/product": "Webcam\n",
        "sys/class/video4linux/video0/name": "Webcam\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/isolated": "2-3\n",
        "sys/kernel/realtime": "1\n",
        "dev/video0": "",
        "proc/meminfo": "MemTotal: 2048 kB\nMemAvailable: 1024 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n",
        "proc/sys/net/core/rmem_max": "212992\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("proc", "sys", "dev"):
        monkeypatch.setattr(probing, f"_{name.upper()}", tmp_path / name)
    found = probing.machine(tmp_path)
    assert found.cameras == (Camera("Intel(R) RealSense(TM) Depth Camera 405", "at 2-1", "2.0"),)
    assert found.videos == (Video("/dev/video0", "Webcam", True),)
    assert (found.governors, found.isolated_cpus, found.real_time_kernel) == (("powersave",), "2-3", True)
    assert (found.memory_bytes, found.available_bytes, found.swap_used_bytes) == (2048 * 1024, 1024 * 1024, 4 * 1024)
    assert found.buffers == {"net.core.rmem_max": 212992}


def test_gpus_are_asked_of_their_driver_and_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 143156, 570.86'\necho 'NVIDIA X, [N/A], [N/A], 570.86'\n")
    fake.chmod(0o755)
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    found = probing.machine(tmp_path)
    assert found.gpus == (
        Gpu("NVIDIA H200", 143771 * 2**20, 143156 * 2**20, "570.86"),
        Gpu("NVIDIA X", None, None, "570.86"),
    )
    assert found.torch == Torch("2.9.0+cu128", (Gpu("NVIDIA H200", 150, 149),))
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    found = probing.machine(tmp_path)
    assert found.torch == Torch(problem="OSError: libcudart.so.12: cannot open shared object file")


FAKE_TORCH = """
__version__ = "2.9.0+cu128"
class cuda:
    device_count = staticmethod(lambda: 1)
    mem_get_info = staticmethod(lambda i: (149, 150))
    get_device_name = staticmethod(lambda i: "NVIDIA H200")
"""


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("print('yes')", ""),
        ("raise SystemExit('cannot')", "cannot"),
        ("import os; os.abort()", "exit code -6"),
        ("while True: pass", "no answer within 1 s"),
    ],
)
def test_what_is_asked_may_fail_crash_or_hang(code: str, problem: str) -> None:
    said, why = probing.ask_python(code, 1.0 if "while" in code else 30.0)
    assert (said, why) == (("yes\n" if not problem else ""), problem)


def test_a_program_that_is_not_there_is_told() -> None:
    assert "No such file" in probing.ask(["no_such_program_here"])[1]


def test_a_probe_that_hangs_is_left() -> None:
    assert probing.limited(lambda: 3, 30.0) == 3
    with pytest.raises(TimeoutError, match="no answer within 0.05 s"):
        probing.limited(lambda: time.sleep(3.0), 0.05)
    with pytest.raises(ZeroDivisionError):
        probing.limited(lambda: 1 // 0, 30.0)
