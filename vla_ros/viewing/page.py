"""A page of tables and pictures as one HTML file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2430; margin: 2rem auto; max-width: 88rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { color: #5a6070; } img { max-width: 100%; display: block; margin: .4rem 0; border: 1px solid #e6e8ee; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e6e8ee; }
th { color: #8a90a0; font-weight: 600; } .success { color: #2a8a4a; } .failure { color: #c0392b; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, a table (`columns` and rows of cells), and PNG files: each only where there is one."""

    heading: str
    text: str = ""
    columns: Sequence[str] = ()
    cells: Sequence[Sequence[str]] = ()
    pictures: Sequence[Path] = ()


def write(title: str, sections: Sequence[Section], path: Path) -> Path:
    """Write the page to `path` and give it back; makes its folder. Cells "success" and "failure" have their colour."""
    body = "\n".join(_section(section) for section in sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}\n</html>\n",
        encoding="utf-8",
    )
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.columns:
        head = "".join(f"<th>{escape(column)}</th>" for column in section.columns)
        lines = "\n".join(f"<tr>{''.join(map(_cell, cells))}</tr>" for cells in section.cells)
        parts.append(f'<div class="wide"><table>\n<tr>{head}</tr>\n{lines}\n</table></div>')
    for picture in section.pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f'<img src="data:image/png;base64,{data}" alt="{escape(picture.stem)}">')
    return "\n".join(parts)


def _cell(text: str) -> str:
    kind = f' class="{text}"' if text in ("success", "failure") else ""
    return f"<td{kind}>{escape(text)}</td>"
