"""The rings that a configuration and a bundle ask for together: for the daemon, and for who looks back at what it did.

Owns which of the two goes before the other, and how long a gap is held where neither says it. Knows no transport.
"""

from __future__ import annotations

from edge_rul.bundle import Manifest
from edge_rul.config import WindowSettings
from edge_rul.core.window import Rings

# A publisher at QoS 0 loses a message now and then, or the few of a broken connection: these should not cost a whole
# window of answers. Three rows in thirty that show no reading of their own are marked as such; with more the model
# would guess at a machine that it has not seen.
MAX_GAP = 3


def make_rings(windows: WindowSettings, manifest: Manifest) -> Rings:
    """Empty ones. What the configuration leaves open is as it was in the bundle's training."""
    max_gap = next((gap for gap in (windows.max_gap, manifest.max_gap) if gap is not None), MAX_GAP)
    return Rings(
        manifest.window,
        len(manifest.inputs),
        max_late=manifest.window if windows.max_late is None else windows.max_late,
        max_gap=max_gap,
        max_hold=[i.max_hold for i in manifest.inputs],
        changes=manifest.transform.changes,
        seconds_per_cycle=windows.seconds_per_cycle or manifest.seconds_per_cycle,
        restart=windows.beyond_gap == "restart",
    )
