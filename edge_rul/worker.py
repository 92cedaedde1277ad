"""The worker: the loop's steps over journal, pipeline, engine and transport.

    ingest    inbox -> decode -> the journal's open transaction, and the tail
    score     tail -> windows -> one engine call -> answers -> outbox
    commit    entries, watermark and alarm rows to disk; then, and only then, acknowledgements, in order of arrival

Owns the order of these, what is owed to the broker, and the watermark: the seq up to which every QoS 1 message derived
from entries is acknowledged. Ingest never waits for more than one engine call; while the publisher's window is full
scoring pauses, and the queue grows in the journal. Knows time only as its caller tells it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import msgspec

from edge_rul.adapters.journal import Journal
from edge_rul.adapters.mqtt import Received
from edge_rul.config import Settings
from edge_rul.core.alarm import Change
from edge_rul.core.batch import Batch
from edge_rul.core.normalise import Array
from edge_rul.core.outgoing import Message, Outgoing, Statistics, iso
from edge_rul.core.payload import Entry
from edge_rul.core.pipeline import AlarmRow, Answered, Completed, Pipeline
from edge_rul.core.tail import Tail
from edge_rul.core.topic import Asset
from edge_rul.engines import Engine
from edge_rul.errors import EXIT_INTERNAL, EngineError
from edge_rul.log import Summary

_INGEST_AT_ONCE = 1000  # messages between two engine calls
_REFILL_AT_ONCE = 2000  # entries from the journal
_SNAPSHOT_AT_ONCE = 200  # assets between two engine calls
_RETRY_FULL = 1.0  # seconds
_WATERMARK_ALONE = 5.0  # seconds; with entries the watermark is saved at each commit
_SKIPPING_ENDS = 60.0  # seconds without skipping after which its alarm clears
_GRAIN = 0.1  # seconds between two stamps of arrival that are kept


class Transport(Protocol):
    """What the worker needs of a broker's client; `MqttTransport` documents each."""

    connected: bool
    dropped_qos0: int
    refused: int
    new_session: bool

    def receive(self) -> Received | None: ...
    def acknowledge(self, message: Received) -> None: ...
    @property
    def backlog(self) -> int: ...
    @property
    def oldest_seq(self) -> int | None: ...
    def send(self, messages: list[Message]) -> None: ...
    def pump(self) -> None: ...


class Observer(Protocol):
    """Who is told of each engine call; `Metrics` documents each."""

    def batch(self, windows: int, seconds: float) -> None: ...
    def answered(self, since_receipt: float, since_event: list[float]) -> None: ...


class Onlooker(Protocol):
    """Who is told what came in and was answered, to show it; `History` documents each. Must not keep us waiting."""

    def heard(self, entries: list[Entry]) -> None: ...
    def answered(self, answers: list[Answered], changes: list[Change]) -> None: ...
    def alarms(self, asset: Asset, states: list[Change]) -> None: ...
    def daemon_alarm(self, name: str, active: bool, value: float) -> None: ...


class Clock(Protocol):
    """monotonic: seconds, for deadlines. wall: epoch seconds, for stamps."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...


class Worker:
    """One step at a time; see the module."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        engine: Engine,
        transport: Transport,
        journal: Journal,
        outgoing: Outgoing,
        settings: Settings,
        clock: Clock,
        log: Any,
        observer: Observer | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        self._observer = observer
        self._onlooker = onlooker
        self._pipeline = pipeline
        self._engine = engine
        self._transport = transport
        self._journal = journal
        self._outgoing = outgoing
        self._settings = settings
        self._clock = clock
        self._log = log
        self._faults = Summary(log)
        self._tail = Tail(settings.limits.tail, last=journal.last)
        self._owed: deque[tuple[int, Received]] = deque()  # (seq of its last entry, message), as they came
        self._owed_qos1 = 0
        self._waiting: deque[tuple[int, float]] = deque()  # (seq, monotonic) of arrivals that are not applied
        self._unanswered: deque[tuple[int, float]] = deque()  # the same, whose answers are not acknowledged
        self._held: deque[Message] = deque()  # answers that may go out once their entries are durable
        self._alarm_rows: deque[AlarmRow] = deque()  # above the watermark
        self._answered = 0  # seq up to which answers were handed to the transport
        self._skipping = False
        self._skipped_at = 0.0
        self._was_full = False
        self._retry_at = 0.0
        self._snapshot_queue: list[Asset] = []
        self._snapshot_retry = 0.0
        self._snapshot_at = clock.monotonic() + settings.journal.snapshot_seconds
        self._again: deque[Asset] = deque()
        self._committed_at = clock.monotonic()
        self._started = clock.monotonic()
        self._first_bytes = journal.size

    # -- restart ----------------------------------------------------------------------------------------------------

    def restore(self) -> int:
        """Windows, lives and alarms as they stood, then the entries since. Returns the number of assets.

        Answers up to the watermark are not needed and not computed; what lies above it is due again.
        """
        state = self._journal.state()
        self._pipeline.lives.reserve(state.assets)
        unreadable: list[str] = []
        for seq, asset, blob in state.snapshots:
            try:
                self._pipeline.restore(asset, seq, blob)
            except (ValueError, msgspec.DecodeError) as e:
                unreadable.append(f"{asset}: {e}")
        for asset, blob in state.alarms:
            try:
                self._pipeline.alarms.load(asset, blob)
                if self._onlooker is not None:
                    self._onlooker.alarms(asset, self._pipeline.alarms.states(asset, 0))
            except (ValueError, msgspec.DecodeError) as e:
                unreadable.append(f"alarms of {asset}: {e}")
        if unreadable:
            action = "these windows and alarms begin anew"
            self._log.error("state_unreadable", count=len(unreadable), first=unreadable[0], action=action)
        self._tail = Tail(self._settings.limits.tail, last=state.replay_from)
        self._tail.last = self._journal.last
        self._pipeline.begin(replay_from=state.replay_from, answered=state.watermark, catch_up=self._journal.last)
        self._answered = state.replay_from
        return state.assets

    # -- the steps --------------------------------------------------------------------------------------------------

    def step(self, *, intake: bool = True) -> bool:
        """Ingest, score, publish, commit. Returns whether anything moved."""
        now = self._clock.monotonic()
        moved = intake and self._take_in(now)
        moved |= self._score(now)
        moved |= self._publish_again()
        self._transport.pump()
        if self._commit_is_due(now):
            moved |= self.commit()
        moved |= self._snapshot(now)
        return moved

    def pause(self) -> float:
        """Seconds that the caller may wait for the transport before the next step."""
        if self._journal.full:
            return _RETRY_FULL
        now = self._clock.monotonic()
        snapshot = 1.0 if self._journal.in_round else max(0.0, self._snapshot_at - now)
        return min(1.0, self._journal.wait(now), snapshot)

    def tick(self) -> None:
        """Summaries of repeated faults, and alarms of the daemon's own."""
        now = self._clock.monotonic()
        self._faults.tick(now)
        full = bool(self._journal.full)
        if full != self._was_full:
            self._was_full = full
            self.alarm("disk_full", active=full, value=float(self._journal.free))
            if full:
                self._log.error(
                    "disk_full", reason=self._journal.full, action="taking in nothing, acknowledging nothing"
                )
            else:
                self._log.info("disk_has_room")

    def alarm(self, name: str, *, active: bool, value: float = 0.0) -> None:
        """Publish an alarm of the daemon's own.

        It comes from no entry, so it bears the watermark: a higher seq could overtake answers that are still held back.
        """
        seq, now = self._journal.watermark, round(self._clock.wall() * 1000)
        self._transport.send([self._outgoing.daemon_alarm(name, active=active, value=value, time=now, seq=seq)])
        if self._onlooker is not None:
            self._onlooker.daemon_alarm(name, active, value)

    def _take_in(self, now: float) -> bool:
        """Ingest, with a commit each time that the broker waits for one, until the inbox is empty or a bound is met:
        the queue of work belongs on our disk, so ingest must not fall behind with the engine."""
        taken = 0
        while taken < _INGEST_AT_ONCE and not self._journal.full and (count := self._ingest(now)):
            taken += count
            if self._commit_is_due(now):
                self.commit()
        return taken > 0

    def _ingest(self, now: float) -> int:
        wall = round(self._clock.wall() * 1000)
        owed_at_most = self._settings.mqtt.owed_at_most
        last = self._journal.last
        count = 0
        while (
            count < _INGEST_AT_ONCE
            and self._journal.wait(now) > 0
            and self._owed_qos1 < owed_at_most
            and (message := self._transport.receive()) is not None
        ):
            count += 1
            decoded = self._pipeline.decode(message.topic, message.payload, wall)
            for bad in decoded.rejected:
                self._faults.fault("message_rejected", bad.reason.value, now, topic=bad.object, problem=bad.problem)
            numbered = self._journal.append(decoded.entries, now, fleeting=message.qos == 0)
            self._tail.append(numbered)
            if self._onlooker is not None and decoded.entries:
                self._onlooker.heard(decoded.entries)
            if message.qos:
                self._owed.append((self._journal.last, message))
                self._owed_qos1 += 1
        if self._journal.last > last:
            _stamp(self._waiting, self._journal.last, now)
            _stamp(self._unanswered, self._journal.last, now)
        return count

    def _score(self, now: float) -> bool:
        if self.unpublished >= self._settings.limits.outbox:
            return False
        if self._tail.behind:
            self._tail.refill(self._journal.read(self._tail.position, _REFILL_AT_ONCE))
        batch = self._pipeline.fill(self._tail, self._journal.committed, latest=self._lags(now))
        if batch is None:
            return False
        begun = self._clock.monotonic()
        rul, logits = self._infer(batch)
        seconds = self._clock.monotonic() - begun
        done = self._pipeline.complete(batch, rul, logits)
        self._publish(done)
        if self._onlooker is not None:
            self._onlooker.answered(done.answers, done.changes)
        if self._observer is not None and len(batch.x):
            self._observer.batch(len(batch.x), seconds)
            since_receipt = self.lag_seconds(begun) + self._clock.monotonic() - begun
            wall = self._clock.wall()
            self._observer.answered(since_receipt, [wall - d.time / 1000 for d in batch.due if d.time is not None])
        self._alarm_rows.extend(done.alarms)
        self._answered = batch.upto
        while self._waiting and self._waiting[0][0] <= self._pipeline.applied:
            self._waiting.popleft()
        return True

    def _infer(self, batch: Batch) -> tuple[Array, Array]:
        try:
            return self._engine.infer(batch.x)
        except EngineError as e:
            e.exit_code = EXIT_INTERNAL  # it passed its check at the start: a restart may help
            raise

    def _publish(self, done: Completed) -> None:
        """Hand the answers to the transport, from the first unsettled one on once their entries are durable."""
        go = len(done.messages)
        if self._held:
            go = 0  # nothing overtakes what is held
        elif done.unsettled is not None:
            wait_from = max(done.unsettled, self._journal.committed + 1)
            go = next((i for i, message in enumerate(done.messages) if message.seq >= wait_from), go)
        self._transport.send(done.messages[:go])
        self._held.extend(done.messages[go:])

    def _release(self) -> None:
        durable = []
        while self._held and self._held[0].seq <= self._journal.committed:
            durable.append(self._held.popleft())
        if durable:
            self._transport.send(durable)

    @property
    def unpublished(self) -> int:
        """Messages that wait for the broker or for the disk."""
        return self._transport.backlog + len(self._held)

    def _lags(self, now: float) -> bool:
        """Whether entries have waited for the engine beyond `latest_after`; an alarm says when that begins and ends."""
        after = self._settings.scoring.latest_after
        if after == "never":
            return False
        lagging = self.lag_seconds(now) > after
        if lagging:
            self._skipped_at = now
        # Skipping ends the lag at once and begins again soon, while the load stays; the alarm does not follow that.
        active = lagging or (self._skipping and now - self._skipped_at < _SKIPPING_ENDS)
        if active != self._skipping:
            self._skipping = active
            self._log.warning("skipping" if active else "skipping_ended", lag_entries=self.lag)
            self.alarm("skipping", active=active, value=float(self.lag))
        return lagging

    def _publish_again(self) -> bool:
        """Retained states that the broker may lack: after a restart those of assets that were answered again, and when
        it has no session for us, every asset's. Only once nothing waits, so that none goes backwards."""
        if self.lag or self._held or not self._pipeline.idle:
            return False
        self._again.extend(self._pipeline.caught_up())
        if self._transport.new_session:
            self._transport.new_session = False
            self._again = deque(self._pipeline.lives.assets)
        if not self._again or self._transport.backlog >= self._settings.limits.outbox:
            return False
        assets = [self._again.popleft() for _ in range(min(self._engine.max_batch, len(self._again)))]
        batch = self._pipeline.again(assets)
        rul, logits = self._infer(batch)
        self._transport.send(self._pipeline.complete(batch, rul, logits).messages)
        for asset in assets:
            self._transport.send(self._pipeline.alarm_states(asset))
        return True

    # -- durability -------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        oldest = (self._transport.oldest_seq, self._held[0].seq if self._held else None)
        return min([self._answered, *(seq - 1 for seq in oldest if seq is not None)])

    def _commit_is_due(self, now: float) -> bool:
        if self._journal.full:
            return now >= self._retry_at
        if now - self._committed_at >= _WATERMARK_ALONE and self.watermark > self._journal.watermark:
            return True
        # At the connection's in-flight cap the broker sends nothing more until we acknowledge.
        full = self._owed_qos1 >= self._settings.mqtt.owed_at_most
        # A message without a good entry is owed too, and waits for nothing.
        done = bool(self._owed) and self._owed[0][0] <= self._journal.committed
        return self._journal.wait(now) <= 0 or full or done

    def commit(self) -> bool:
        """Everything taken in to disk, with the watermark; then the acknowledgements. False where the disk is full."""
        watermark, covered = self._covered(self._journal.last)
        if not self._journal.commit(watermark, covered, wall=round(self._clock.wall())):
            self._retry_at = self._clock.monotonic() + _RETRY_FULL
            self._journal.mark(*self._covered(self._journal.committed))
            return False
        self._committed_at = self._clock.monotonic()
        while self._alarm_rows and self._alarm_rows[0].seq <= watermark:
            self._alarm_rows.popleft()
        while self._unanswered and self._unanswered[0][0] <= watermark:
            self._unanswered.popleft()
        while self._owed and self._owed[0][0] <= self._journal.committed:
            self._transport.acknowledge(self._owed.popleft()[1])
            self._owed_qos1 -= 1
        self._release()
        return True

    def _covered(self, upto: int) -> tuple[int, list[AlarmRow]]:
        """The watermark, at most `upto`, and each asset's alarms as they stood at it."""
        watermark = max(min(self.watermark, upto), self._journal.watermark)
        covered: dict[Asset, AlarmRow] = {}
        for row in self._alarm_rows:
            if row.seq > watermark:
                break
            covered[row.asset] = row
        return watermark, list(covered.values())

    def _snapshot(self, now: float) -> bool:
        """A slice of the round that is under way, the beginning of one, or a slice of what one has made superfluous.

        Returns whether more is to do at once. A full disk does not keep a round from beginning: what it makes
        superfluous is the only room that we can make ourselves.
        """
        if self._snapshot_queue:
            if now >= self._snapshot_retry:
                some = self._snapshot_queue[:_SNAPSHOT_AT_ONCE]
                states = [(asset, self._pipeline.lives.dump(asset)) for asset in some]
                if self._journal.snapshot(self._pipeline.applied, states):
                    del self._snapshot_queue[:_SNAPSHOT_AT_ONCE]
                    return True
                self._snapshot_retry = now + _RETRY_FULL
        elif self._journal.in_round:
            self._journal.end_round(wall=round(self._clock.wall()))
        elif now >= self._snapshot_at and self._pipeline.idle:
            self._snapshot_at = now + self._settings.journal.snapshot_seconds
            self._journal.begin_round(self._pipeline.applied)
            self._snapshot_queue = list(self._pipeline.lives.changed)
            self._pipeline.lives.changed.clear()
            return True
        return self._journal.trim()

    # -- how it goes ------------------------------------------------------------------------------------------------

    @property
    def lag(self) -> int:
        """Entries that came in and are not applied yet."""
        return self._journal.last - self._pipeline.applied

    def lag_seconds(self, now: float) -> float:
        """How long the oldest entry that is not applied has waited."""
        return now - self._waiting[0][1] if self._waiting else 0.0

    def statistics(self) -> Statistics:
        now = self._clock.monotonic()
        uptime = now - self._started
        counts = self._pipeline.counts
        size = self._journal.size
        dropped = {reason.value: count for reason, count in self._pipeline.dropped.items()}
        if self._transport.dropped_qos0:
            dropped["inbox_full_qos0"] = self._transport.dropped_qos0
        return Statistics(
            schema="edge-rul/statistics/1",
            ts=iso(round(self._clock.wall() * 1000)) or "",
            uptime=round(uptime, 1),
            assets=len(self._pipeline.lives),
            **{
                name: counts[name]
                for name in ("readings", "predictions", "revisions", "late", "gaps", "skipped", "future_times")
            },
            dropped=dropped,
            lag_entries=self.lag,
            lag_seconds=round(self.lag_seconds(now), 3),
            oldest_unanswered=round(now - self._unanswered[0][1], 3) if self._unanswered else 0.0,
            unpublished=self.unpublished,
            publish_refused=self._transport.refused,
            watermark=self._journal.watermark,
            journal=self._journal.id,
            journal_bytes=size,
            journal_rate=round((size - self._first_bytes) * 3600 / uptime) if uptime > 0 else 0.0,
            disk_free=self._journal.free,
            connected=self._transport.connected,
        )


def _stamp(stamps: deque[tuple[int, float]], seq: int, now: float) -> None:
    """Keep when `seq` came; what comes within a grain shares its first stamp, or a long lag would fill the memory."""
    if stamps and now - stamps[-1][1] < _GRAIN:
        now = stamps.pop()[1]
    stamps.append((seq, now))
