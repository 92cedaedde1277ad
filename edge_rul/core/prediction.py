"""Engine outputs and their keys to predictions.

Owns the prediction's fields, the softmax, and the refusal of NaN. Knows no engine, only what it is called.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edge_rul.core.batch import Due
from edge_rul.core.interval import IntervalTable
from edge_rul.core.normalise import Array
from edge_rul.core.transform import Marks

_DECIMALS = 5  # of what is published: below the 1e-4 to which one machine repeats itself


class BundleId(msgspec.Struct, frozen=True):
    """Which model answered. sha256: of the bundle's manifest."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class EngineId(msgspec.Struct, frozen=True):
    """What it ran on."""

    name: str
    precision: str


class Model(msgspec.Struct, frozen=True):
    """What the core has to know of a bundle and its engine to name an answer. classes: in the order of the logits.

    journal: the id of the journal whose entries are answered. max_rul: cap of the labels in training. interval: None
    where the bundle has none.
    """

    bundle: BundleId
    engine: EngineId
    journal: str
    rul_unit: str
    classes: tuple[str, ...]
    max_rul: float = float("inf")
    interval: IntervalTable | None = None


class Health(msgspec.Struct, frozen=True, rename={"name": "class"}):
    """The most probable health class, and the probability of each."""

    name: str
    probabilities: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]]


class Interval(msgspec.Struct, frozen=True):
    """What `rul_low` and `rul_high` are worth. level: the share of windows whose RUL lay between them where the bundle
    was calibrated. reliable: false where inputs or an operating condition lie outside what training saw: the
    level then says nothing.
    """

    level: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    reliable: bool


class Quality(msgspec.Struct, frozen=True):
    """How far the window can be trusted. Uncertain: any of the others but `skipped` is not empty.

    held: values of the window that were missing and taken from the reading before. missing_cycles: cycles that never
    came between the window's first and last. outside: inputs of the last reading beyond what training saw. skipped: due
    windows of the asset that were not answered before this one, since the daemon lagged; no fault of the window.
    unknown_condition: readings of the window far from every operating condition of training, in whose place the one
    before stands. unknown_change: readings with a change that is not known and taken as 0: a life's first, mostly.
    """

    state: Literal["good", "uncertain"]
    held: Annotated[int, msgspec.Meta(ge=0)]
    missing_cycles: Annotated[int, msgspec.Meta(ge=0)]
    outside: list[str]
    skipped: Annotated[int, msgspec.Meta(ge=0)]
    unknown_condition: Annotated[int, msgspec.Meta(ge=0)] = 0
    unknown_change: Annotated[int, msgspec.Meta(ge=0)] = 0


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What is published for one window. RUL is the life left after `cycle`, in `rul_unit`, never negative.

    rul_low, rul_high, interval: absent where the bundle is not calibrated. rul_high: null where the interval reaches
    the cap of the bundle's training, so that RUL is only known to be at least `rul_low`.
    levels: the named levels of the asset's topic but its name. cycle: of the window's last reading; where readings have
    no numbers, its event time in epoch milliseconds. ts: that reading's event time, ISO 8601 UTC. revision: 0 for a
    key's first answer, higher where late readings changed it. journal: a new id means that windows and lives began
    anew.
    """

    schema: Literal["edge-rul/prediction/1"]
    asset: str
    levels: dict[str, str]
    life: Annotated[int, msgspec.Meta(ge=0)]
    cycle: Annotated[int, msgspec.Meta(ge=0)]
    revision: Annotated[int, msgspec.Meta(ge=0)]
    ts: str | None
    rul: Annotated[float, msgspec.Meta(ge=0)]
    rul_low: Annotated[float, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    rul_high: Annotated[float, msgspec.Meta(ge=0)] | msgspec.UnsetType | None = msgspec.UNSET
    rul_unit: str
    interval: Interval | msgspec.UnsetType = msgspec.UNSET
    health: Health
    quality: Quality
    bundle: BundleId
    engine: EngineId
    journal: str

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The interval's low and high; None for an end, or for both, where there is none."""
        low, high = self.rul_low, self.rul_high
        return None if low is msgspec.UNSET else low, None if high is msgspec.UNSET else high


def softmax(logits: Array) -> Array:
    """(..., C) raw logits -> (..., C) probabilities, float64 inside; shifted by the maximum against overflow."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def predict(due: Due, rul: float, logits: Array, marks: Marks, ts: str | None, model: Model) -> Prediction | None:
    """The prediction of one window, or None where the engine's answer is not finite.

    rul: in the model's unit. logits: (C,). ts: of `due.time`.
    """
    if not (np.isfinite(rul) and np.isfinite(logits).all()):
        return None
    probabilities = softmax(logits)  # (C,)
    uncertain = due.held or due.missing or marks != Marks()
    return Prediction(
        schema="edge-rul/prediction/1",
        asset=due.asset.name,
        levels=dict(due.asset.levels),
        life=due.life,
        cycle=due.cycle,
        revision=due.revision,
        ts=ts,
        rul=max(0.0, round(float(rul), _DECIMALS)),
        rul_unit=model.rul_unit,
        **_interval(rul, model, reliable=not (marks.outside or marks.unknown_condition)),
        health=Health(
            model.classes[int(probabilities.argmax())],
            {name: round(float(p), _DECIMALS) for name, p in zip(model.classes, probabilities, strict=True)},
        ),
        quality=Quality(
            state="uncertain" if uncertain else "good",
            held=due.held,
            missing_cycles=due.missing,
            outside=marks.outside,
            skipped=due.skipped,
            unknown_condition=marks.unknown_condition,
            unknown_change=marks.unknown_change,
        ),
        bundle=model.bundle,
        engine=model.engine,
        journal=model.journal,
    )


def _interval(rul: float, model: Model, *, reliable: bool) -> dict[str, Any]:
    """The fields of the interval around `rul`; none where the model has no table."""
    if model.interval is None:
        return {}
    low, high = (float(bound) for bound in model.interval.bounds(rul, model.max_rul))
    return {
        "rul_low": round(low, _DECIMALS),
        "rul_high": round(high, _DECIMALS) if high < model.max_rul else None,
        "interval": Interval(model.interval.level, reliable),
    }
