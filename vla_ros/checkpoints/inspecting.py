"""What lies in a file or folder of weights: which model, how large, of what types, and how far from a known one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from vla_ros.checkpoints.comparison import Difference, Shapes, beginnings, compare, shapes_of
from vla_ros.checkpoints.converting import RELEASED_IMAGE_TOKENIZER, changes, image_tokenizer_shapes
from vla_ros.checkpoints.files import CheckpointError, read_metadata, read_tensors
from vla_ros.checkpoints.loading import blank
from vla_ros.checkpoints.manifest import (
    IMAGE_TOKENIZER,
    MODEL,
    VISION,
    UpVlaManifest,
    load_manifest,
)
from vla_ros.checkpoints.manifest import problems as beside_weights
from vla_ros.checkpoints.requirements import MANIFEST
from vla_ros.checkpoints.starting import show_o_shapes
from vla_ros.checkpoints.up_vla import find_weights, released_shapes
from vla_ros.models.up_vla import SIZES, UpVla
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES
from vla_ros.tokenizers.vision import SmallVision, SmallVisionConfig

UNKNOWN = "unknown weights"


@dataclass(frozen=True)
class Weights:
    """One file of weights. `what`: the known model that it is, or is nearest to, with what lies between them.

    `dtypes`: type -> how many parameters have it.
    """

    path: Path
    what: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    size_bytes: int
    difference: Difference = field(default_factory=Difference)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether it is exactly what it is called."""
        return not self.what.startswith(UNKNOWN) and not self.difference


@dataclass(frozen=True)
class Inspection:
    """What lies at a path; `manifest` where it is a checkpoint of ours; `problems` keep it from being loaded."""

    path: Path
    what: str
    weights: tuple[Weights, ...]
    manifest: UpVlaManifest | None = None
    other_files: Mapping[str, int] = field(default_factory=dict)  # name -> bytes
    changed: tuple[str, ...] = ()  # sizes that are not those of the named size
    problems: tuple[str, ...] = ()


def inspect(path: Path) -> Inspection:
    """Look at a checkpoint of ours, at a release's folder, or at one file; no weight is read but those of CLIP.

    Raises CheckpointError where nothing can be said of it; what is wrong with a checkpoint of ours is told.
    """
    if (path / MANIFEST).is_file():
        return _ours(path)
    file = find_weights(path)
    weights = [weigh(file)]
    beside = path / RELEASED_IMAGE_TOKENIZER
    if beside.is_file():
        weights.append(weigh(beside))
    return Inspection(path, weights[0].what, tuple(weights), other_files=_others(path, weights))


def weigh(file: Path, expected: tuple[str, Shapes] | None = None) -> Weights:
    """Look at one file; compare it with what is `expected` (name, shapes), or with the known model that is nearest."""
    tensors = read_tensors(file)
    shapes = shapes_of(tensors)
    what, difference = (expected[0], compare(expected[1], shapes)) if expected else nearest(shapes)
    dtypes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtypes[_name(tensor)] += tensor.numel()
    return Weights(
        file,
        what,
        len(tensors),
        sum(dtypes.values()),
        dict(dtypes.most_common()),
        file.stat().st_size,
        difference,
        {key: value for key, value in read_metadata(file).items() if key != "format"},
    )


def nearest(shapes: Shapes) -> tuple[str, Difference]:
    """The known model that weights of these shapes are, or are nearest to, and what lies between."""
    if not shapes:
        return f"{UNKNOWN} (no tensor at all)", Difference()
    name, difference = max(_differences(shapes), key=lambda known: (-len(known[1].unexpected), -known[1].count))
    shares_most = 2 * len(difference.unexpected) < len(shapes)
    if shares_most:
        return name, difference
    return f"{UNKNOWN} ({beginnings(shapes)})", Difference()


def _differences(shapes: Shapes) -> Iterator[tuple[str, Difference]]:
    """Every known model, and what lies between it and these shapes."""
    for size, config in SIZES.items():
        yield f"{size}, released names", compare(released_shapes(config), shapes)
        yield f"{size}, names of vla_ros", compare(shapes_of(blank(UpVla, config).state_dict()), shapes)
    for size, tokenizer in MAGVIT2_SIZES.items():
        yield f"image tokenizer {size}", compare(image_tokenizer_shapes(tokenizer), shapes)
    show_o = show_o_shapes(SIZES["up-vla-release"])
    yield "Show-o 512 with CLIP (to start training from)", compare(show_o, shapes)


def _ours(folder: Path) -> Inspection:
    manifest = load_manifest(folder)
    known = SIZES.get(manifest.size)
    changed = changes(manifest.model, known) if known else []
    expected: list[tuple[str, str, Callable[[], Shapes]]] = [
        (MODEL, manifest.size, lambda: shapes_of(blank(UpVla, manifest.model).state_dict())),
        (IMAGE_TOKENIZER, "image tokenizer", lambda: image_tokenizer_shapes(manifest.image_tokenizer)),
    ]
    if isinstance(vision := manifest.vision, SmallVisionConfig):
        expected.append((VISION, "vision encoder", lambda: shapes_of(blank(SmallVision, vision).state_dict())))
    weights, problems = [], []
    for name, what, shapes in expected:
        try:
            weights.append(found := weigh(folder / name, (what, shapes())))
            problems += [f"{name}: {line}" for line in found.difference.lines()]
        except CheckpointError as error:
            problems.append(str(error))
    problems += beside_weights(folder, manifest)
    what = f"UP-VLA, {manifest.size}, a checkpoint of vla_ros"
    return Inspection(folder, what, tuple(weights), manifest, _others(folder, weights), tuple(changed), tuple(problems))


def _others(path: Path, weights: list[Weights]) -> dict[str, int]:
    """The other files in a folder."""
    if not path.is_dir():
        return {}
    known = {each.path for each in weights}
    return {
        str(file.relative_to(path)): file.stat().st_size
        for file in sorted(path.rglob("*"))
        if file.is_file() and file not in known
    }


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
