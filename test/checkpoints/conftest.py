"""A release of a tiny UP-VLA, with the folders it is published in; and where the golden numbers lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import tiny_up_vla
from safetensors.torch import save_file

from vla_ros.checkpoints.converting import Deployment, release_manifest
from vla_ros.checkpoints.loading import blank, fill
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest
from vla_ros.checkpoints.up_vla import parts_of_ours, to_released
from vla_ros.models.up_vla import SIZES, UpVla, UpVlaConfig
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2


@pytest.fixture(scope="session")
def golden() -> Path:
    return Path(os.environ.get("VLA_ROS_GOLDEN", Path(__file__).parent.parent / "golden"))


@pytest.fixture(scope="session")
def tiny() -> Bundle:
    return tiny_up_vla.bundle()


@pytest.fixture
def config(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> UpVlaConfig:
    """A size called tiny with three layers, conditioned as the release."""
    released = {"conditioning": "released", "state_dims": 0, "layers": 3}
    monkeypatch.setitem(SIZES, "tiny", tiny.manifest.model.model_copy(update=released))
    monkeypatch.setitem(MAGVIT2_SIZES, "tiny", tiny.manifest.image_tokenizer)
    return SIZES["tiny"]


@pytest.fixture
def released(config: UpVlaConfig) -> dict[str, torch.Tensor]:
    """Weights of that size under the released names."""
    torch.manual_seed(7)
    return {name: tensor.clone() for name, tensor in to_released(UpVla(config).state_dict()).items()}


@pytest.fixture
def renamed(config: UpVlaConfig, released: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as they are in a network of ours."""
    network = fill(Path("released"), blank(UpVla, config), parts_of_ours(released), torch.float32, "cpu")
    return network.state_dict()


@pytest.fixture
def manifest(config: UpVlaConfig) -> UpVlaManifest:
    return release_manifest(Deployment(), "tiny")


@pytest.fixture
def show_o(released: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that training starts from: a release without an action head."""
    return {name: each for name, each in released.items() if name.startswith(("showo.", "mm_projector."))}


@pytest.fixture
def sources(tiny: Bundle, released: dict[str, torch.Tensor], show_o: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """Folders as they are published: release, show_o, magvitv2 and phi in one folder."""
    (tmp_path / "release" / "unwrapped_model").mkdir(parents=True)
    torch.save(released, tmp_path / "release" / "unwrapped_model" / "pytorch_model.bin")
    torch.manual_seed(8)
    for name, tensors in (
        ("magvitv2/pytorch_model.safetensors", Magvit2(tiny.manifest.image_tokenizer).state_dict()),
        ("show_o/model.safetensors", show_o),
    ):
        (tmp_path / name).parent.mkdir()
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
    tiny.text.save(tmp_path / "phi")
    return tmp_path
