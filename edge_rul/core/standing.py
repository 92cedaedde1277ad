"""How an asset stands: warming up, predicting, or stale, as nothing has come from it for too long.

Owns the published state, the entry that notes a silence, and who was heard when. A clock decides that an asset is
silent, so the decision is an entry: a restart and a look back find it again in its place among the readings. Knows no
clock, and no window but how full it is.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timezone
from typing import Annotated, Literal

import msgspec

from edge_rul.core.topic import Asset

Count = Annotated[int, msgspec.Meta(ge=0)]


class Stale(msgspec.Struct, frozen=True):
    """An entry: nothing has come from the asset since `heard`, as was noted at `at`.

    Both in epoch seconds; heard: 0 where it is not known.
    """

    asset: Asset
    heard: int
    at: int


class Standing(msgspec.Struct, frozen=True):
    """cycle, time: of the newest reading, but see `Lives.standing`; None where the life has none. readings: rows of its
    window that are filled.

    silence: why the asset is stale, or None.
    """

    life: int
    cycle: int | None
    time: int | None
    readings: int
    silence: Stale | None = None


class AssetState(msgspec.Struct, frozen=True):
    """How an asset stands. `warming_up` until `readings` reaches `window`: till then nothing is predicted.

    cycle, ts: of its newest reading, or where only older ones are answered since, of the newest of those; None where
    its life has none yet. last_reading: when the last one came, by our clock, and age: how many seconds before this was
    said; both only where the state is `stale`.
    """

    schema: Literal["edge-rul/state/1"]
    asset: str
    levels: dict[str, str]
    state: Literal["warming_up", "predicting", "stale"]
    life: Count
    cycle: int | None
    ts: str | None
    readings: Count
    window: Count
    last_reading: str | None
    age: Annotated[float, msgspec.Meta(ge=0)] | None


def published(asset: Asset, standing: Standing, window: int, ts: str | None) -> AssetState:
    """ts: of `standing.time`. window: T."""
    silence = standing.silence
    known = silence is not None and silence.heard > 0
    return AssetState(
        schema="edge-rul/state/1",
        asset=asset.name,
        levels=dict(asset.levels),
        state="stale" if silence else "warming_up" if standing.readings < window else "predicting",
        life=standing.life,
        cycle=standing.cycle,
        ts=ts,
        readings=standing.readings,
        window=window,
        last_reading=_iso(silence.heard) if silence and known else None,
        age=float(max(0, silence.at - silence.heard)) if silence and known else None,
    )


class Silences:
    """Who was heard when, in order: the one that has been silent for longest is looked at first, and mostly alone."""

    def __init__(self, stale_after: float | None) -> None:
        """stale_after: seconds; None notes no silence."""
        self._after = stale_after
        self._heard: OrderedDict[Asset, float] = OrderedDict()

    def heard(self, asset: Asset, now: float) -> None:
        """A reading of the asset has found its place. now: monotonic seconds."""
        if self._after is not None:
            self._heard[asset] = now
            self._heard.move_to_end(asset)

    def forget(self, asset: Asset) -> None:
        self._heard.pop(asset, None)

    def over(self, now: float, listening: float) -> list[Asset]:
        """Assets that have been silent for too long by now, each once. listening: since when they could be heard."""
        found = []
        while self._heard and self._after is not None:
            asset, heard = next(iter(self._heard.items()))
            if now - max(heard, listening) <= self._after:
                break
            del self._heard[asset]
            found.append(asset)
        return found


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
