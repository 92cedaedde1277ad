"""What training computes of a whole table, the daemon computes of its windows: the same bits, the same marks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rul.core.command import Command
from edge_rul.core.features import Feature
from edge_rul.core.normalise import Array, Conditions, ZScore
from edge_rul.core.outgoing import Outgoing
from edge_rul.core.payload import Decoder
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import BundleId, EngineId, Model
from edge_rul.core.smooth import Line, Smoothing
from edge_rul.core.tail import Numbered, Tail
from edge_rul.core.topic import Asset, Template
from edge_rul.core.transform import Transform
from edge_rul.core.valid import Ranges
from edge_rul.core.window import Rings
from edge_rul.training.clean import Rule, clean
from edge_rul.training.table import Table
from edge_rul.training.windows import Windows, full_windows

T = 4
START = 1_767_225_600_000
NAN = float("nan")
RULES = [
    Rule("s", missing="reject"),
    Rule("a", valid=(-50, 50), missing="hold", max_hold=2),
    Rule("b", valid=(-0.5, 100), missing="reject"),
]
FEATURES = [
    Feature("a", "a"),
    Feature("rise", "a", minus="b"),
    Feature("log_b", "b", log="log1p"),
    Feature("rate", "a", change="cycle"),
    Feature("rise_rate", "a", minus="b", change="second"),
    Feature("growth", "b", log="log1p", change="hour"),
    Feature("log_s", "s", log="log"),
    Feature("pace", "s", log="log", change="minute"),
    Feature("drift", "b", change="day"),
]


def make_transform(smoothing: Smoothing | None, *, conditions: bool, weighed: bool = False) -> Transform:
    """conditions: two, by s, about 0 and 10, where 5 is in neither; else normalised as a whole. weighed: by what each
    feature tells in each condition."""
    random = np.random.default_rng(0)
    s = np.concatenate([random.uniform(-1, 1, 50), random.uniform(9, 11, 50)]).astype(np.float32)[:, None]
    rows = random.normal(3, 2, (100, len(FEATURES))).astype(np.float32)
    loading = random.uniform(-0.9, 0.9, (2, len(FEATURES))).tolist() if weighed else None
    both = msgspec.structs.replace(Conditions.fit(rows, s, np.arange(100) // 50, ["s"], margin=0.2), loading=loading)
    return Transform(
        [rule.name for rule in RULES],
        low=[-1, -50, 0],
        high=[11, 50, 100],
        features=FEATURES,
        normaliser=both if conditions else ZScore.fit(rows),
        smoothing=smoothing,
        window=T,
    )


SMOOTHINGS = (None, Line(), Line(slope=4))
TRANSFORMS = [make_transform(smoothing, conditions=c) for smoothing in SMOOTHINGS for c in (False, True)]
TRANSFORMS += [make_transform(smoothing, conditions=True, weighed=True) for smoothing in SMOOTHINGS]


def make_pipeline(transform: Transform, max_batch: int) -> Pipeline:
    topic = Template("out/{asset}")
    return Pipeline(
        model=Model(BundleId("b", "0" * 64), EngineId("fake", "float32"), "j", "cycles", ("good", "bad")),
        rings=Rings(T, len(RULES), max_late=T, max_hold=[rule.max_hold for rule in RULES], changes=transform.changes),
        transform=transform,
        decoder=Decoder([rule.name for rule in RULES], [Template("in/{asset}")], hold=["a"]),
        outgoing=Outgoing(topic, topic, topic, statistics=topic, status=topic, daemon_alarm=topic, dead_letter=None),
        rules=[],
        max_batch=max_batch,
        ranges=Ranges([rule.valid for rule in RULES], [rule.missing == "hold" for rule in RULES]),
    )


Sent = tuple[int, int, list[float]]  # cycle, time, values
Key = tuple[str, int, int]

VALUES = st.tuples(
    st.sampled_from([0.3, 10.2, 5.0]),
    st.floats(-50, 50, width=32) | st.sampled_from([NAN, NAN, 77.0]),
    st.floats(0, 100, width=32) | st.sampled_from([1.0, NAN, -3.0]),
)


@st.composite
def one_life(draw: st.DrawFn, start: int) -> tuple[list[Sent], list[Sent]]:
    """Readings with gaps, times that sometimes stand, missing and impossible values; and the order in which they come:
    none is later than the daemon takes, and none comes before the first complete one."""
    cycle, life = 0, list[Sent]()
    for values in draw(st.lists(VALUES, min_size=1, max_size=16)):
        cycle += draw(st.sampled_from([1, 1, 1, 2, 4]))
        life.append((cycle, start + 1500 * (cycle // 2), [float(np.float32(v)) for v in values]))
    valid = [-50 <= a <= 50 and -0.5 <= b <= 100 for _, _, (_, a, b) in life]
    first = valid.index(True) if any(valid) else len(life)
    keys = [i if i <= first else i + draw(st.sampled_from([0.0, 0.0, 1.5, 2.5])) for i in range(len(life))]
    return life, [life[i] for i in sorted(range(len(life)), key=lambda i: (keys[i], i))]


def as_table(lives: dict[tuple[str, int], list[Sent]]) -> Table:
    keys = [key for key, life in lives.items() for _ in life]
    readings = [reading for life in lives.values() for reading in life]
    n = len(readings)
    return Table(
        asset=np.array([asset for asset, _ in keys], np.str_),
        life=np.array([life for _, life in keys], np.int64),
        cycle=np.array([cycle for cycle, _, _ in readings], np.int64),
        inputs=np.array([values for _, _, values in readings], np.float32),
        rul=np.zeros(n, np.float32),
        is_lower_bound=np.zeros(n, np.bool_),
        files={},
        time=np.array([time for _, time, _ in readings], np.int64),
    )


def by_training(transform: Transform, table: Table) -> dict[Key, tuple[Array, int, int]]:
    """x (T, C), readings in no condition and of unknown change, by key."""
    windows = full_windows(table, T)
    rows = transform.rows(table.readings(before=True))
    index = windows.rows()  # (n, T)
    x = transform.finish(rows.z[index], rows.condition[index], rows.known[index])
    condition, change = (~rows.known[index]).sum(axis=1), rows.unknown_change[index].sum(axis=1)
    return dict(zip(windows.keys(), zip(x, condition.tolist(), change.tolist(), strict=True), strict=True))


def by_daemon(
    transform: Transform, orders: dict[str, list[list[Sent]]], turns: list[str], max_batch: int, cuts: set[int]
) -> dict[Key, tuple[Array, int, int]]:
    """The same, of each key's last revision. turns: whose next reading comes. cuts: when the batches are taken."""
    pipeline, tail = make_pipeline(transform, max_batch), Tail(1000)
    found: dict[Key, tuple[Array, int, int]] = {}

    def drain() -> None:
        while (batch := pipeline.fill(tail, tail.last)) is not None:
            for due, x, marks in zip(batch.due, batch.x, batch.marks, strict=True):
                answer = x, marks.unknown_condition, marks.unknown_change
                found[due.asset.name, due.life, due.cycle] = answer

    left = {asset: [iter(life) for life in lives] for asset, lives in orders.items()}
    for turn, asset in enumerate(turns):
        entries: list[Any]
        if (reading := next(left[asset][0], None)) is None:
            left[asset].pop(0)
            entries = [Command("reset", Asset(asset, ()))]
        else:
            cycle, time, values = reading
            shown = dict(zip("sab", (None if np.isnan(v) else v for v in values), strict=True))
            payload = json.dumps({"cycle": cycle, "ts": time, "values": shown}).encode()
            entries = list(pipeline.decode(f"in/{asset}", payload, START * 2).entries)
        tail.append([Numbered(tail.last + 1 + i, entry) for i, entry in enumerate(entries)])
        if turn in cuts:
            drain()
    drain()
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_training_and_the_daemon_see_the_same(data: st.DataObject) -> None:
    lives: dict[tuple[str, int], list[Sent]] = {}
    orders: dict[str, list[list[Sent]]] = {}
    for asset in ("x", "y"):
        for number in range(2):
            readings, order = data.draw(one_life(START + number * 10**9))
            # A life whose readings all are refused is none.
            if any(-50 <= a <= 50 and -0.5 <= b <= 100 for _, _, (_, a, b) in readings):
                lives[asset, len(orders.get(asset, []))] = readings
                orders.setdefault(asset, []).append(order)
    if not lives:
        return
    turns = [asset for asset, of in orders.items() for life in of for _ in [*life, None]]
    turns = data.draw(st.permutations(turns))
    cuts = data.draw(st.sets(st.integers(0, len(turns))))
    table = clean(as_table(lives), RULES)
    transform = data.draw(st.sampled_from(TRANSFORMS))
    expected = by_training(transform, table)
    found = by_daemon(transform, orders, turns, data.draw(st.integers(1, 5)), cuts)
    for key, (x, condition, change) in expected.items():
        np.testing.assert_array_equal(found[key][0], x, strict=True, err_msg=str(key))
        assert found[key][1:] == (condition, change), key
    # What the daemon answered before a late reading made the window hold a value for too long is never taken back.
    unlimited = clean(as_table(lives), [Rule(r.name, r.valid, r.missing) for r in RULES])
    assert set(found) - set(expected) <= set(held_too_long(unlimited, table))


def held_too_long(unlimited: Table, table: Table) -> list[Key]:
    every: Windows = full_windows(unlimited, T)
    answered = set(full_windows(table, T).keys())
    return [key for key in every.keys() if key not in answered]  # noqa: SIM118
