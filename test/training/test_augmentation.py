"""Frames of a window are changed alike, as far as was said, in ways that can be written down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vla_ros.training.augmentation import DRAWS, AugmentationConfig, augment, draw

NONE = AugmentationConfig(shift=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


def frames(windows: int = 3, views: int = 2, side: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(30, 220, (windows, views, side, side, 3), generator=generator).to(torch.uint8)


def draws(*values: float) -> Tensor:
    return torch.tensor([[*values, *[0.0] * (DRAWS - len(values))]])


def test_nothing_asked_for_changes_nothing() -> None:
    images = frames()
    assert torch.equal(augment(images, NONE, draw(3, torch.Generator().manual_seed(0))), images)


def test_a_shift_moves_every_frame_by_the_same_pixels_and_repeats_the_edge() -> None:
    images = frames(1)
    moved = augment(images, NONE.model_copy(update={"shift": 0.1}), draws(1.0, -0.5))  # 2 pixels right, 1 up
    assert torch.equal(moved[:, :, :-1, 2:], images[:, :, 1:, :-2])
    assert torch.equal(moved[:, :, :-1, 0], images[:, :, 1:, 0])
    assert torch.equal(moved[:, :, -1, 2:], images[:, :, -1, :-2])


def test_brightness_and_contrast_are_a_factor_and_a_stretch_about_medium_grey() -> None:
    images = frames(1)
    brighter = augment(images, NONE.model_copy(update={"brightness": 0.1}), draws(0, 0, -1.0))
    assert (brighter.float() - 0.9 * images.float()).abs().max() <= 0.51
    flatter = augment(images, NONE.model_copy(update={"contrast": 0.5}), draws(0, 0, 0, -1.0))
    assert (flatter.float() - (127.5 + 0.5 * (images.float() - 127.5))).abs().max() <= 0.51


def test_saturation_and_hue_leave_grey_grey_and_light_as_light() -> None:
    grey = frames(1)[..., :1].expand(-1, -1, -1, -1, 3).contiguous()
    config = NONE.model_copy(update={"saturation": 0.5, "hue": 0.1})
    assert (augment(grey, config, draws(0, 0, 0, 0, 1.0, 1.0)).int() - grey.int()).abs().max() <= 1
    colored = torch.tensor([120, 100, 90], dtype=torch.uint8).expand(1, 1, 4, 4, 3).contiguous()
    changed = augment(colored, config, draws(0, 0, 0, 0, 0.5, -1.0))
    assert not torch.equal(changed, colored)
    light = torch.tensor([0.299, 0.587, 0.114])
    assert (changed.float() @ light - colored.float() @ light).abs().max() < 1.0


def test_a_third_of_a_turn_of_hue_goes_from_red_towards_green_or_blue() -> None:
    red = torch.tensor([160, 60, 60], dtype=torch.uint8).expand(1, 1, 2, 2, 3).contiguous()
    config = NONE.model_copy(update={"hue": 1.0 / 3.0})
    strongest = {augment(red, config, draws(0, 0, 0, 0, 0, sign))[0, 0, 0, 0].argmax().item() for sign in (-1.0, 1.0)}
    assert strongest == {1, 2}


def test_a_window_is_changed_as_a_whole_and_apart_from_the_others() -> None:
    one = frames(1, 1)
    same = one.expand(4, 3, -1, -1, -1).contiguous()
    changed = augment(same, AugmentationConfig(), draw(4, torch.Generator().manual_seed(0)))
    for window in changed:
        assert torch.equal(window[0], window[1])
        assert torch.equal(window[0], window[2])
    assert len({window[0].numpy().tobytes() for window in changed}) == 4
    again = augment(same[1:2], AugmentationConfig(), draw(4, torch.Generator().manual_seed(0))[1:2])
    assert torch.equal(again, changed[1:2]), "what happens to a window does not depend on the others"


@pytest.mark.parametrize("wrong", [{"shift": 0.5}, {"brightness": -0.1}, {"hue": 0.6}])
def test_what_would_leave_no_picture_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentationConfig(**wrong)
