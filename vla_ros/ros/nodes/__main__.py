"""A node's process: `python -m vla_ros.ros.nodes controller --ros-args ...`; it heeds signals from its beginning."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from vla_ros.ros import ending


def main(executable: str) -> NoReturn:
    """Run one node, and end the process with its exit code."""
    ending.heed()
    try:
        with ending.interrupting():
            node = importlib.import_module(f"vla_ros.ros.nodes.{executable}")
        code = node.main()
    except ending.Asked:
        code = 0
    except BaseException:
        code = 0 if ending.asked() else 1  # an import that was interrupted may say so in its own words
        if code:
            sys.excepthook(*sys.exc_info())
    ending.leave(code)


if __name__ == "__main__":
    main(sys.argv.pop(1))
