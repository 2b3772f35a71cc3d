"""Policies by name: what is known without importing them, and what is refused."""

from __future__ import annotations

import sys

import pytest

from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA


def test_every_policy_is_known_by_name() -> None:
    assert "scripted" in registry.names()


def test_an_unknown_policy_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown policy 'skripted'; there are: .*scripted"):
        registry.load("skripted", robot=PANDA)


def test_the_expert_takes_no_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"policy scripted takes no checkpoint, got 'weights\.pt'; leave it out"):
        registry.load("scripted", robot=PANDA, checkpoint="weights.pt")


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vla_ros.policies.up_vla", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where there is none
    with pytest.raises(ValueError, match=r"policy up_vla needs torch, which is not installed: pip install 'vla_ros\["):
        registry.load("up_vla", robot=PANDA, checkpoint="weights")


@pytest.mark.parametrize("name", registry.names())
def test_what_is_loaded_is_a_policy(name: str) -> None:
    if registry.POLICIES[name].needs_checkpoint:
        pytest.skip("needs weights")
    policy = registry.load(name, robot=PANDA)
    assert policy.action_spec.horizon > 0
    assert policy.window_spec.length > 0
