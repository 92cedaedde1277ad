"""The alarms of the daemon's own, which the broker retains: none outlives its cause, whatever ended the run before."""

from __future__ import annotations

import json
from collections.abc import Callable

from conftest import Broker

from edge_rul.bundle import Bundle

from .test_reload import FIRST, Daemon, Peer, peer, start  # noqa: F401  # fixtures

TOPIC = "edge-rul/_daemon/alarm/"
ALL = {"disk_full", "gpu_given_up", "journal_corrupt", "reload_refused", "skipping"}


def test_each_is_said_at_each_start(
    start: Callable[..., Daemon],  # noqa: F811
    peer: Peer,  # noqa: F811
    mosquitto: Broker,
    tiny_bundle: Bundle,
) -> None:
    for name in ALL:
        peer.client.publish(TOPIC + name, json.dumps({"state": "active"}), qos=1, retain=True).wait_for_publish(60)
    peer.wait("what a run before left", lambda: {t for t, _ in peer.heard} >= {TOPIC + name for name in ALL})
    daemon = start(FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port))
    peer.wait("that it is over", lambda: all(peer.retained[TOPIC + name]["state"] == "normal" for name in ALL))
    daemon.end()
