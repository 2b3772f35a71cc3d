"""Requested against offered, compared with what the middleware itself says of every pair."""

from __future__ import annotations

from itertools import product

import pytest

from vla_ros.doctor.quality import Quality, differences

SECOND_NS = 10**9
QUALITIES = [
    Quality(*values)
    for values in product(
        ("RELIABLE", "BEST_EFFORT"),
        ("VOLATILE", "TRANSIENT_LOCAL"),
        (None, SECOND_NS, 2 * SECOND_NS),
        ("AUTOMATIC", "MANUAL_BY_TOPIC"),
        (None, SECOND_NS, 2 * SECOND_NS),
    )
]


def test_it_agrees_with_the_middleware_on_every_pair() -> None:
    pytest.importorskip("rclpy")
    from rclpy.duration import Duration, Infinite
    from rclpy.qos import (
        DurabilityPolicy,
        LivelinessPolicy,
        QoSCompatibility,
        QoSProfile,
        ReliabilityPolicy,
        qos_check_compatible,
    )

    def duration(nanoseconds: int | None) -> object:
        return Infinite if nanoseconds is None else Duration(nanoseconds=nanoseconds)

    profiles = {
        quality: QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy[quality.reliability],
            durability=DurabilityPolicy[quality.durability],
            deadline=duration(quality.deadline_ns),
            liveliness=LivelinessPolicy[quality.liveliness],
            liveliness_lease_duration=duration(quality.lease_ns),
        )
        for quality in QUALITIES
    }
    assert len(profiles) == 72
    for offered, asked in product(QUALITIES, QUALITIES):
        compatible, why = qos_check_compatible(profiles[offered], profiles[asked])
        assert bool(differences(offered, asked)) == (compatible == QoSCompatibility.ERROR), (offered, asked, why)


def test_each_difference_is_named() -> None:
    camera = Quality("BEST_EFFORT", "VOLATILE", None, "AUTOMATIC", None)
    asked = Quality("RELIABLE", "TRANSIENT_LOCAL", SECOND_NS // 10, "MANUAL_BY_TOPIC", SECOND_NS)
    assert differences(camera, asked) == [
        ("BEST_EFFORT", "RELIABLE"),
        ("VOLATILE", "TRANSIENT_LOCAL"),
        ("deadline none", "deadline 100 ms"),
        ("liveliness AUTOMATIC", "liveliness MANUAL_BY_TOPIC"),
        ("liveliness lease none", "liveliness lease 1000 ms"),
    ]
    assert differences(asked, camera) == []
    assert differences(Quality("UNKNOWN", "SYSTEM_DEFAULT"), asked)[0][0].startswith("deadline")
