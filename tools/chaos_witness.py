"""What was acknowledged, as the proxy saw it, and whether it was answered rightly.

Owns the record of readings and predictions that passed, and the judgement: an offline run over the readings that the
daemon acknowledged. Judges by the data set's readings and the bundle's engine alone; must not use the daemon's own
lives, rings or windows, whose faults it is there to find. What alarms have to say is chaos_alarms's.

A reading counts as acknowledged when a PUBACK of the daemon for it was read; a prediction counts when the broker's was.
A window is the last T rows of a life's readings that were acknowledged, by cycle, where the reading before stands in
for at most HELD cycles that never came; behind more of them it begins anew.

No reason for which the daemon drops a reading is an excuse: one that it acknowledged and then counted as late, old or
a duplicate without an answer shows as missing. (The replayer never lets a reading fall so far behind that it would have
to be dropped, see chaos_field.)
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import chaos_alarms
import numpy as np
from chaos_alarms import Event, Step
from mqtt_proxy import Link, Publish

from edge_rul import bundle as bundles
from edge_rul.core.features import Readings
from edge_rul.core.normalise import Array
from edge_rul.training.evaluate import load_table, predict_windows

BUNDLE = Path(__file__).resolve().parent.parent / "bundles" / "cmapss_fd001"
DAEMON, REPLAYER = "chaos-daemon", "chaos-replayer"
CLOSE = 1e-4  # cycles; what the same window may differ by on one machine and engine
HELD = 3  # cycles in a row: windows.max_gap by default
_AT_ONCE = 8192  # windows


class Key(NamedTuple):
    asset: str
    life: int
    cycle: int


class Answer(NamedTuple):
    """whole: its window had no hole, so that no late reading could change it."""

    revision: int
    rul: float
    whole: bool


class Witness:
    """The proxy's listener. acknowledged: readings, by the daemon. accepted: readings, by the broker. delivered: to the
    daemon. answers: of each key what the broker acknowledged, in order. events: of each id what it said. names: each
    asset with its levels. published: of each topic when the broker acknowledged a retained message last, monotonic
    seconds. moved: called when readings moved."""

    def __init__(self) -> None:
        self.accepted: set[Key] = set()
        self.delivered: set[Key] = set()
        self.acknowledged: set[Key] = set()
        self.answers: dict[Key, list[Answer]] = defaultdict(list)
        self.answered = 0  # answers, revisions and repeated ones counted too
        self.events: dict[str, set[Event]] = defaultdict(set)
        self.names: dict[str, str] = {}
        self.published: dict[str, float] = {}
        self.sessions_lost = 0  # by the broker: it knew the daemon once, and does not any more
        self._seen = False
        self._listening: set[Link] = set()
        self.moved: Callable[[], None] = lambda: None

    @property
    def listening(self) -> bool:
        """Whether the daemon's subscription stands, on its present connection."""
        return bool(self._listening)

    def on_connected(self, link: Link, session_present: bool) -> None:
        if link.client == DAEMON:
            self.sessions_lost += self._seen and not session_present
            self._seen = True

    def on_subscribed(self, link: Link) -> None:
        if link.client == DAEMON:
            self._listening.add(link)
            self.moved()

    def on_closed(self, link: Link) -> None:
        self._listening.discard(link)

    def on_published(self, link: Link, message: Publish) -> None: ...

    def on_delivered(self, link: Link, message: Publish) -> None:
        if link.client == DAEMON and (key := reading_key(message)) is not None:
            self.delivered.add(key)
            self.moved()

    def on_acknowledged(self, link: Link, message: Publish, reason: int) -> None:
        if link.client == DAEMON and reason < 0x80 and (key := reading_key(message)) is not None:
            self.acknowledged.add(key)
            self.moved()

    def on_accepted(self, link: Link, message: Publish, reason: int) -> None:
        if reason >= 0x80:
            return
        if link.client == REPLAYER and (key := reading_key(message)) is not None:
            self.accepted.add(key)
        elif link.client == DAEMON and "/engine-" in message.topic:
            if message.retain:
                self.published[message.topic] = time.monotonic()
            self._heard(message)

    def _heard(self, message: Publish) -> None:
        if not message.payload:
            return  # clears what was retained of the life before
        said: dict[str, Any] = json.loads(message.payload)
        if message.topic.endswith("/prediction"):
            key = Key(said["asset"], said["life"], said["cycle"])
            whole = not (said["quality"]["held"] or said["quality"]["missing_cycles"])
            self.answers[key].append(Answer(said["revision"], said["rul"], whole))
            self.answered += 1
            self.names[key.asset] = "/".join(message.topic.split("/")[1:3])
        elif message.topic.endswith("/event"):
            self.events[said["id"]].add(Event(said["life"], said["cycle"], said["event"], said["value"]))


def reading_key(message: Publish) -> Key | None:
    """The reading's key, whose life the replayer writes into `source`; the daemon has to find it out by itself."""
    parts = message.topic.split("/")
    if parts[0] != "plant":
        return None
    said = json.loads(message.payload)
    return Key(parts[2], int(said["source"].partition("/")[2]), said["cycle"])


class Verdict(NamedTuple):
    """predicted: keys answered, of those that had to be. missing: keys without an answer. wrong: (key, answer, offline
    one or None where there was nothing to answer). unstable: keys of which one revision was answered in two ways.
    events: how many had to be published. stale: topics whose retained state at the end is not the offline run's, and
    that state."""

    predicted: int
    missing: list[Key]
    wrong: list[tuple[Key, float, float | None]]
    unstable: list[Key]
    events: int
    events_missing: list[str]
    events_wrong: list[str]
    stale: dict[str, Any]


def judge(witness: Witness, never_taken: Iterable[Key], data: Path, retained: Mapping[str, bytes]) -> Verdict:
    """Compare what was answered to the offline run. never_taken: readings that the broker still owes the daemon.
    retained: what the broker holds at the end."""
    bundle = bundles.load(BUNDLE)
    table = load_table(bundle, data, "test")
    rows = {(f"engine-{int(a):03d}", int(c)): i for i, (a, c) in enumerate(zip(table.asset, table.cycle, strict=True))}
    right = offline(
        sorted(witness.acknowledged),
        lambda key: table.inputs[rows[key.asset, key.cycle]],
        bundle.manifest.window,
        lambda windows: predict_windows(bundle, Readings(windows))[0],
    )
    unanswered = [key for key in right if key not in witness.answers]
    wrong: list[tuple[Key, float, float | None]] = []
    unstable = []
    for key, answers in witness.answers.items():
        final = max(enumerate(answers), key=lambda item: (item[1].revision, item[0]))[1]
        # The first answer moves the alarms; where its window was whole it is the last one, too.
        for answer in (final, answers[0]) if answers[0].whole else (final,):
            if key not in right or not abs(answer.rul - right[key]) <= CLOSE:
                wrong.append((key, answer.rul, right.get(key)))
                break
        by_revision: dict[int, list[float]] = defaultdict(list)
        for answer in answers:
            by_revision[answer.revision].append(answer.rul)
        if any(max(ruls) - min(ruls) > CLOSE for ruls in by_revision.values()):
            unstable.append(key)
    events: dict[str, Event] = {}
    states: dict[str, Any] = {}  # topic -> what has to be retained there
    lives: dict[str, int] = {}
    for key in witness.acknowledged:
        lives[key.asset] = max(key.life, lives.get(key.asset, 0))
    for asset, name in witness.names.items():
        due, state = chaos_alarms.expected(name, alarm_steps(asset, witness))
        events.update(due)
        newest = max(key for key in right if key.asset == asset)
        # Nothing stays of a life that is over, though the next one has no full window yet.
        now = newest.life == lives[asset]
        states[f"edge-rul/{name}/prediction"] = (newest.life, newest.cycle, right[newest]) if now else None
        states[f"edge-rul/{name}/alarm/{chaos_alarms.NAME}"] = state
    return Verdict(
        len(right) - len(unanswered),
        [*never_taken, *unanswered],
        wrong,
        unstable,
        len(events),
        *chaos_alarms.compare(events, witness.events, CLOSE),
        {topic: state for topic, state in states.items() if not _holds(retained.get(topic), state)},
    )


def alarm_steps(asset: str, witness: Witness) -> list[Step]:
    """What moved the asset's alarms: each new life, and the first answer to each cycle that was its life's newest."""
    firsts: dict[int, int] = {}  # life -> its first cycle
    for key in witness.acknowledged:
        if key.asset == asset:
            firsts[key.life] = min(key.cycle, firsts.get(key.life, key.cycle))
    newest: dict[int, int] = {}  # life -> the newest cycle answered
    steps: dict[int, list[Step]] = {life: [Step(life, cycle, None)] for life, cycle in sorted(firsts.items())}
    for key, answers in witness.answers.items():  # in the order of their first answers
        if key.asset == asset and key.cycle > newest.get(key.life, -1):
            newest[key.life] = key.cycle
            steps.setdefault(key.life, []).append(Step(key.life, key.cycle, answers[0].rul))
    return [step for life in sorted(steps) for step in steps[life]]


def _holds(payload: bytes | None, state: Any) -> bool:
    """Whether a retained message says what it has to. state: (life, cycle, rul), an alarm's state, or None: nothing."""
    if payload is None or state is None:
        return payload is state
    said = json.loads(payload)
    if isinstance(state, str):
        return bool(said["state"] == state)
    life, cycle, rul = state
    return (said["life"], said["cycle"]) == (life, cycle) and abs(said["rul"] - rul) <= CLOSE


def offline(
    keys: list[Key], values: Callable[[Key], Array], length: int, predict: Callable[[Array], Array]
) -> dict[Key, float]:
    """The answer to every key that has a full window of rows among `keys`.

    keys: sorted. values: a reading's (F,). predict: (N, T, F) -> (N,).
    """
    readings = np.array([values(key) for key in keys], np.float32)  # (n, F)
    due: list[tuple[Key, list[int]]] = []
    shown: list[int] = []  # which reading each row shows, since the last long gap
    for index, key in enumerate(keys):
        gap = key.cycle - keys[index - 1].cycle - 1 if index and keys[index - 1][:2] == key[:2] else None
        shown = [*shown, *[index - 1] * gap, index][-length:] if gap is not None and gap <= HELD else [index]
        if len(shown) == length:
            due.append((key, shown))
    found: dict[Key, float] = {}
    for start in range(0, len(due), _AT_ONCE):
        some = due[start : start + _AT_ONCE]
        ruls = predict(readings[np.array([rows for _, rows in some])])  # (b, T, F) -> (b,)
        found.update(zip((key for key, _ in some), ruls.tolist(), strict=True))
    return found
