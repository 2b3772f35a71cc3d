"""Where there is no display a window says so."""

from __future__ import annotations

import pytest

from vla_ros.viewing.window import Window


def test_without_a_display_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(RuntimeError, match=r"a window needs (a display, and there is none|Tk)"):
        Window("time")
