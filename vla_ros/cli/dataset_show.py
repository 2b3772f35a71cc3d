"""vla-ros dataset show: a dataset's episodes as a table, and each as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import clear_errors, dataset_errors, obstacle, progress, refuse

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vla_ros.recording.reader import DatasetReader
    from vla_ros.recording.summary import EpisodeSummary, Range, Summary
    from vla_ros.viewing.dataset import RecordedEpisode, Signals
    from vla_ros.viewing.page import Section

#: Of more episodes only the first and last are listed.
_MOST_LISTED, _FIRST, _LAST = 60, 40, 10
_EPISODE_COLUMNS = ("#", "length", "rows", "task", "success", "repeated", "skew", "source", "seed", "notes")
_RANGE_COLUMNS = ("feature", "dimension", "from", "to", "mean", "deviation")
_LONGEST_TEXT = 300  # characters in a cell
_RIGHT = ("#", "length", "rows", "repeated", "skew", "seed", "from", "to", "mean", "deviation")
_STYLES = {"success": "green", "failure": "red"}
_UNKNOWN = "-"


def show(
    path: Annotated[Path, typer.Argument(help="Folder of a LeRobot dataset.", metavar="PATH", show_default=False)],
    episode: Annotated[list[int] | None, typer.Option(help="Draw this episode; may be given more than once.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the pictures; without --episode, of all episodes.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Draw this camera; may be given more than once.")] = None,
    without_camera: Annotated[
        list[str] | None, typer.Option(help="Leave this camera out (depth, damaged); may be given more than once.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Also write everything into index.html.")] = False,
    moments: Annotated[int, typer.Option(min=1, max=40, help="Number of pictures per camera.")] = 8,
) -> None:
    """Show what a dataset (v3.0 or v2.1) contains: a table, and with --episode, --out or --html pictures."""
    with clear_errors(), dataset_errors():
        from rich.console import Console

        from vla_ros.recording.reader import DatasetReader
        from vla_ros.recording.summary import summarize

        reader = DatasetReader(path, camera, without=without_camera or ())
        chosen = list(range(len(reader.meta.episodes))) if episode is None else list(dict.fromkeys(episode))
        wrong = [number for number in chosen if not 0 <= number < len(reader.meta.episodes)]
        if wrong:
            refuse(f"{path} has no episode {', '.join(map(str, wrong))}; it has {len(reader.meta.episodes)}, from 0")
        draws = episode is not None or out is not None or html
        folder = out or Path(f"{path.resolve().name}_pictures")
        if draws and (problem := obstacle(folder / "index.html")):
            refuse(f"no pictures can be written to {folder}: {problem}")
        with progress() as say:
            for number in chosen[:1]:
                reader.columns(number, [])  # refuses a rate that its timestamps contradict
            summary = summarize(reader.meta, say, None if episode is None else chosen)
        _print(Console(highlight=False), summary, None if episode is None else chosen)
        if draws:
            with progress() as say:
                written = _draw(reader, summary, chosen, folder, moments, html, say)
            typer.echo(f"pictures: {', '.join(map(str, written))}")


# --- the tables


def _print(console: Console, summary: Summary, chosen: Sequence[int] | None) -> None:
    from rich.markup import escape

    console.print(f"[bold]{escape(str(summary.root))}[/]")
    console.print(escape(_facts(summary)))
    listed, left_out = _listed(summary, chosen)
    console.print(_table(_EPISODE_COLUMNS, [_episode_cells(one) for one in listed]))
    if left_out:
        console.print(f"[dim]and {left_out} more in between[/]")
    if summary.ranges:
        console.print()
        console.print(_table(_RANGE_COLUMNS, [_range_cells(found) for found in summary.ranges]))


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """The columns in which there is anything to say."""
    from rich.table import Table

    told = [place for place in range(len(columns)) if any(cells[place] not in ("", _UNKNOWN) for cells in lines)]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for place in told:
        name = columns[place]
        is_text = name in ("task", "notes")
        table.add_column(
            name, justify="right" if name in _RIGHT else "left", overflow="fold", no_wrap=not is_text,
            min_width=16 if is_text else None,
        )  # fmt: skip
    for cells in lines:
        table.add_row(*(_styled(cells[place]) for place in told))
    return table


def _styled(cell: str) -> str:
    from rich.markup import escape

    return f"[{_STYLES[cell]}]{cell}[/]" if cell in _STYLES else escape(cell)


def _listed(summary: Summary, chosen: Sequence[int] | None) -> tuple[list[EpisodeSummary], int]:
    """The episodes to list, and how many are left out."""
    if chosen is not None:
        return [summary.episodes[number] for number in chosen], 0
    episodes = list(summary.episodes)
    if len(episodes) <= _MOST_LISTED:
        return episodes, 0
    return episodes[:_FIRST] + episodes[len(episodes) - _LAST :], len(episodes) - _FIRST - _LAST


def _facts(summary: Summary) -> str:
    """The dataset in one line."""
    sizes = ", ".join(f"{name} {_megabytes(size)}" for name, size in summary.sizes_bytes.items())
    cameras = ", ".join(f"{name} {width}x{height}" for name, (height, width) in summary.cameras.items()) or "no cameras"
    successes = sum(episode.success is True for episode in summary.episodes)
    judged = sum(episode.success is not None for episode in summary.episodes)
    return "; ".join(
        [
            f"{summary.version}, {summary.robot or 'unknown robot'} with {cameras}",
            f"{len(summary.episodes)} episodes, {summary.frames} rows, {summary.length_s:.1f} s",
            f"{summary.fps} rows a second",
            f"{successes} of {judged} judged are successes" if judged else "success is not said",
            f"{_megabytes(summary.size_bytes)} on the disk ({sizes})",
        ]
    )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


def _episode_cells(episode: EpisodeSummary) -> list[str]:
    from vla_ros.recording.files import in_a_line

    repeated, skew_ms = episode.repeated_rows, episode.max_skew_ms
    return [
        str(episode.index),
        f"{episode.length_s:.1f} s",
        str(episode.frames),
        in_a_line(" ".join(episode.task.split()), _LONGEST_TEXT),
        _judgement(episode.success),
        _UNKNOWN if repeated is None else f"{repeated} ({repeated / episode.frames:.1%})" if repeated else "0",
        _UNKNOWN if skew_ms is None else f"{skew_ms:.1f} ms",
        in_a_line(episode.source or _UNKNOWN, _LONGEST_TEXT),
        _UNKNOWN if episode.seed is None else in_a_line(str(episode.seed), _LONGEST_TEXT),
        in_a_line(" ".join(episode.notes.split()), _LONGEST_TEXT),
    ]


def _judgement(success: bool | None) -> str:
    return _UNKNOWN if success is None else ("success" if success else "failure")


def _range_cells(found: Range) -> list[str]:
    numbers = (found.low, found.high, found.mean, found.deviation)
    return [found.key, found.name, *(_UNKNOWN if number is None else f"{number:.4g}" for number in numbers)]


# --- the pictures


def _draw(
    reader: DatasetReader,
    summary: Summary,
    chosen: Sequence[int],
    folder: Path,
    moments: int,
    html: bool,
    say: Callable[[str, int, int], None],
) -> list[Path]:
    """Draw the episodes `chosen`, and the page with `html`; what was written."""
    from vla_ros.viewing import dataset, page

    written: list[Path] = []
    sections: list[Section] = []
    for done, number in enumerate(chosen):
        drawn = _recorded(reader, summary.episodes[number], moments)
        pictures = []
        if drawn.shown and drawn.shown_rows:
            pictures.append(dataset.render_sheet(drawn, folder / f"episode-{number:06d}-cameras.png"))
        if drawn.state is not None or drawn.action is not None:
            pictures.append(dataset.render_signals(drawn, folder / f"episode-{number:06d}-joints.png"))
        written += pictures
        sections.append(page.Section(f"Episode {number}: {drawn.task}", drawn.note, pictures=pictures))
        say("episodes drawn", done + 1, len(chosen))
    if html:
        tables = [
            page.Section("Episodes", _facts(summary), _EPISODE_COLUMNS, [_episode_cells(e) for e in summary.episodes]),
            page.Section("Ranges", "", _RANGE_COLUMNS, [_range_cells(found) for found in summary.ranges]),
        ]
        written.append(page.write(summary.root.resolve().name, [*tables, *sections], folder / "index.html"))
    return written


def _recorded(reader: DatasetReader, episode: EpisodeSummary, moments: int) -> RecordedEpisode:
    """One episode as it is drawn."""
    from vla_ros.recording import features as keys
    from vla_ros.viewing.dataset import RecordedEpisode, spread

    number, there = episode.index, set(reader.keys)
    columns = reader.columns(number, [key for key in (*_MARKS, keys.STATE, keys.ACTION) if key in there])
    repeated, acted, modes = {}, {}, []
    if keys.REPEATED in columns:
        marks = (columns[keys.REPEATED] != 0).T
        names = reader.meta.features.find(keys.REPEATED).names or ()
        repeated = dict(zip(names if len(names) == len(marks) else map(str, range(len(marks))), marks, strict=True))
    if keys.INTERVENED in columns:
        acted["a person leads"] = columns[keys.INTERVENED][:, 0] != 0
    if keys.INTERVENTIONS in columns:
        counts = columns[keys.INTERVENTIONS][:, 0]
        acted["a limit acts"] = counts > [0, *counts[:-1]]
    if keys.MODE in columns:
        known = dict(enumerate(keys.MODES))
        modes = [known.get(mode, f"mode {mode:g}") for mode in columns[keys.MODE][:, 0]]
    rows = spread(episode.frames, moments)
    return RecordedEpisode(
        number=number,
        task=episode.task,
        fps=reader.meta.fps,
        success=episode.success,
        shown_rows=rows,
        shown={camera: reader.images(number, camera, rows) for camera in reader.cameras} if rows else {},
        state=_signals(reader, number, keys.STATE) if keys.STATE in there else None,
        action=_signals(reader, number, keys.ACTION) if keys.ACTION in there else None,
        repeated=repeated,
        acted=acted,
        modes=modes,
        note=" · ".join(part for part in (episode.source, " ".join(episode.notes.split())) if part),
    )


_MARKS = ("timing.repeated", "control.intervened", "control.interventions", "control.mode")


def _signals(reader: DatasetReader, episode: int, key: str) -> Signals:
    import numpy as np

    from vla_ros.viewing.dataset import Signals

    values = np.asarray(reader.columns(episode, [key])[key], dtype=np.float64)
    values = values.reshape(len(values), -1)
    names = reader.meta.features.find(key).names
    if names is None or len(names) != values.shape[1]:
        names = tuple(str(index) for index in range(values.shape[1]))
    return Signals(names, values)
