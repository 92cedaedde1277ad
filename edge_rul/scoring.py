"""Scoring: tail -> windows -> one engine call -> answers -> outbox.

Owns which answers may go out, and the watermark: the seq up to which every QoS 1 message derived from entries is
acknowledged. While the publisher's window is full it pauses, and the queue grows in the journal. Must not know how
entries come in, nor when they are committed.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from edge_rul.adapters.journal import Journal
from edge_rul.answer_log import AnswerLog
from edge_rul.arrivals import Arrivals
from edge_rul.candidate import Candidate
from edge_rul.config import ScoringSettings, Settings
from edge_rul.core.alarm import Change
from edge_rul.core.answers import AlarmRow, Answered, Completed
from edge_rul.core.outgoing import Message
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.tail import Tail
from edge_rul.core.topic import Asset
from edge_rul.daemon_alarms import DaemonAlarms
from edge_rul.engines import Engine
from edge_rul.succession import Succession

_REFILL_AT_ONCE = 2000  # entries from the journal
_PLEDGE = 0.5  # seconds of answers that may be given between two commits
_PLEDGE_LEAST, _PLEDGE_MOST = 64, 2000  # entries
_SKIPPING_ENDS = 60.0  # seconds without skipping after which its alarm clears


class Clock(Protocol):
    """monotonic: seconds, for deadlines. wall: epoch seconds, for stamps."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...


class Outbound(Protocol):
    """What goes to a broker's client; `MqttTransport` documents each."""

    connected: bool
    new_session: bool

    @property
    def connections(self) -> int: ...
    @property
    def backlog(self) -> int: ...
    @property
    def oldest_seq(self) -> int | None: ...
    @property
    def waiting_seq(self) -> int | None: ...
    def send(self, messages: list[Message]) -> None: ...


class Observer(Protocol):
    """Who is told of each engine call; `Metrics` documents each."""

    def batch(self, windows: int, seconds: float) -> None: ...
    def answered(self, since_receipt: float, since_event: list[float]) -> None: ...


class Reader(Protocol):
    """Who is told what was answered; `History` documents it. Must not keep us waiting."""

    def answered(self, answers: list[Answered], changes: list[Change]) -> None: ...
    def removed(self, assets: list[Asset]) -> None: ...
    def renewed(self, lives: list[tuple[Asset, int]]) -> None: ...


class Scoring:
    """One batch at a time.

    answered: seq up to which answers were handed to the transport or are held. alarm_rows: above the watermark that is
    on disk, in order of seq.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        engine: Engine,
        journal: Journal,
        tail: Tail,
        outbound: Outbound,
        arrivals: Arrivals,
        daemon_alarms: DaemonAlarms,
        settings: Settings,
        clock: Clock,
        log: Any,
        answer_log: AnswerLog,
        observer: Observer | None,
        reader: Reader | None,
    ) -> None:
        self._pipeline = pipeline
        self.succession = Succession(pipeline, engine)
        self._journal = journal
        self._tail = tail
        self._outbound = outbound
        self._arrivals = arrivals
        self._daemon_alarms = daemon_alarms
        self._latest_after = settings.scoring.latest_after
        self._unpublished_at_most = settings.limits.outbox
        self._clock = clock
        self._log = log
        self._answer_log = answer_log
        self._observer = observer
        self._reader = reader
        self._held: deque[Message] = deque()  # answers that may go out once their entries are durable
        self._again: deque[Asset] = deque()  # assets whose retained states go out once more
        self._everything = False  # of all assets, once they are replayed
        self._catching_up = False  # after a restart, until all answered again is also retained again
        self._settling = False  # all is answered, and waits for the broker
        self._settled = False  # since the start, or the last new session, the broker has had all of them
        self._pledged_at = (0, clock.monotonic())  # what had been handed over, and when
        self._skipping = False
        self._skipped_at = 0.0
        self.candidate: Candidate | None = None
        self.answered = 0
        self.alarm_rows: deque[AlarmRow] = deque()

    # -- one batch --------------------------------------------------------------------------------------------------

    def step(self, now: float) -> bool:
        """Answer what fits into a batch. now: monotonic seconds. Returns whether there was anything."""
        if self._outbound.new_session:
            self._outbound.new_session = self._settled = False
            self._again = deque(self._pipeline.lives.assets)  # what is answered from here on reaches the new session
            self._daemon_alarms.again()
        if self.unpublished >= self._unpublished_at_most or self._settling:
            return False
        if self._tail.behind:
            self._tail.refill(self._journal.read(self._tail.position, _REFILL_AT_ONCE))
        batch = self._pipeline.fill(self._tail, self._journal.committed, now=now, latest=self._lags(now))
        if batch is None:
            return False
        begun = self._clock.monotonic()
        batch, rul, logits = self.succession.infer(batch)
        seconds = self._clock.monotonic() - begun
        done = self._pipeline.complete(batch, rul, logits)
        self._publish(done)
        self._answer_log.answered(done, now)
        if self._reader is not None:
            self._reader.answered(done.answers, done.changes)
            self._reader.renewed(done.renewed)
            self._reader.removed(done.removed)
        if self._observer is not None and len(batch.x):
            self._observer.batch(len(batch.x), seconds)
            since_receipt = self._arrivals.waited(begun) + self._clock.monotonic() - begun
            wall = self._clock.wall()
            self._observer.answered(since_receipt, [wall - d.time / 1000 for d in batch.due if d.time is not None])
        self.alarm_rows.extend(done.alarms)
        if self.candidate is not None:
            self._outbound.send(self.candidate.answered(batch, done, busy=len(self._tail) > 0))
        self.answered = batch.upto
        self._arrivals.applied(self._pipeline.applied)
        if self._pipeline.changes:
            self.succession.succeed()
        return True

    @property
    def lag(self) -> int:
        """Entries that came in and are not applied yet."""
        return self._journal.last - self._pipeline.applied

    def _lags(self, now: float) -> bool:
        """Whether entries have waited for the engine beyond `latest_after`; an alarm says when that begins and ends."""
        after = self._latest_after
        lagging = after != "never" and self._arrivals.waited(now) > after
        if lagging:
            self._skipped_at = now
        # Skipping ends the lag at once and begins again soon, while the load stays; the alarm does not follow that. It
        # does follow a reload that forbids skipping.
        lingers = after != "never" and now - self._skipped_at < _SKIPPING_ENDS
        active = lagging or (self._skipping and lingers)
        if active != self._skipping:
            self._skipping = active
            (self._log.warning if active else self._log.info)(
                "skipping" if active else "skipping_ended", lag_entries=self.lag
            )
            wall = round(self._clock.wall() * 1000)
            self._daemon_alarms.publish("skipping", wall, active=active, value=float(self.lag))
        return lagging

    # -- what may go out --------------------------------------------------------------------------------------------

    def _publish(self, done: Completed) -> None:
        """Hand the answers to the transport, from the first unsettled one on once their entries are durable, and those
        above the pledge once it is renewed."""
        wait_from = self._journal.pledged + 1
        if done.unsettled is not None:
            wait_from = min(wait_from, max(done.unsettled, self._journal.committed + 1))
        go = next((i for i, message in enumerate(done.messages) if message.seq >= wait_from), len(done.messages))
        if self._held:
            go = 0  # nothing overtakes what is held
        self._outbound.send(done.messages[:go])
        self._held.extend(done.messages[go:])

    def send(self, messages: list[Message]) -> None:
        """Publish what comes from no entry, behind what is held: what withdraws a state must not go before it."""
        if self._held:
            self._held.extend(messages)
        else:
            self._outbound.send(messages)

    def release(self) -> None:
        """Publish what was held for the commit that has just been made."""
        upto = min(self._journal.committed, self._journal.pledged)
        durable = []
        while self._held and self._held[0].seq <= upto:
            durable.append(self._held.popleft())
        if durable:
            self._outbound.send(durable)

    def pledge(self, now: float) -> int:
        """The seq that no answer will exceed before the next commit, as far as the engine has come in half a second.

        After a crash all up to it is answered again, as any of it may have been published. Not renewed while catching
        up, as that would grow with each crash in the middle of it. now: monotonic seconds.
        """
        if self._catching_up:
            return 0
        seq, since = self._pledged_at
        rate = (self._handed_over - seq) / max(now - since, 1e-3)
        return self._handed_over + round(min(max(rate * _PLEDGE, _PLEDGE_LEAST), _PLEDGE_MOST))

    @property
    def _handed_over(self) -> int:
        """The seq up to which answers have left us; those behind it wait for the broker here, and die with us."""
        waiting = self._outbound.waiting_seq
        return self.answered if waiting is None else min(self.answered, waiting - 1)

    def waits_for_pledge(self, now: float) -> bool:
        """Whether answers wait for the pledge alone, and a commit would renew it. now: monotonic seconds."""
        return self._above_pledge and self.pledge(now) > self._journal.pledged

    @property
    def _above_pledge(self) -> bool:
        return bool(self._held) and self._held[0].seq > self._journal.pledged

    @property
    def unpublished(self) -> int:
        """Messages that wait for the broker or for the disk."""
        return self._outbound.backlog + len(self._held)

    def begin(self, answered: int, *, unclean: bool) -> None:
        """After a restart, once the pipeline has begun: entries up to `answered` are not in the tail. unclean: the run
        before had no orderly end; where the power failed, a broker beside us has forgotten what it had not saved."""
        self.answered = answered
        self._catching_up = self._pipeline.catching_up
        self._everything = self._journal.states_owed or unclean

    @property
    def owes_retained(self) -> bool:
        """Whether answers of before a restart are still to be retained, on the topics on which they went out."""
        return self._catching_up and not self._settling

    def reconfigure(self, scoring: ScoringSettings, *, moved: bool) -> None:
        """moved: the topics are others, so that every asset's newest prediction is published once more."""
        self._latest_after = scoring.latest_after
        if moved:
            self._settled = False
            self._again = deque(self._pipeline.lives.assets)

    def publish_again(self) -> bool:
        """Retained states that the broker may lack: those that were answered again after a restart, and every asset's
        when the broker has no session for us or the run before ended before it had published them.

        Returns whether anything moved.
        """
        if self._catching_up and not self._pipeline.catching_up and (not self._held or self._above_pledge):
            return self._catch_up()
        if self._journal.states_owed is self._settled and not self._journal.full:
            # Noted before, as this run may end before it has published what the broker lacks.
            self._journal.owe_states(not self._settled)
        if self.lag or self._held or not self._pipeline.idle:
            return False  # none goes backwards
        if self._everything:
            self._everything = False
            self._again = deque(self._pipeline.lives.assets)
        if not self._again:
            self._settled = self._settled or (self._outbound.connected and not self._outbound.backlog)
            return False
        if self._outbound.backlog >= self._unpublished_at_most:
            return False
        assets = [self._again.popleft() for _ in range(min(self.succession.current.engine.max_batch, len(self._again)))]
        batch = self._pipeline.again(assets)
        batch, rul, logits = self.succession.infer(batch)
        self._outbound.send(self._pipeline.complete(batch, rul, logits).messages)
        for asset in assets:
            self._outbound.send(self._pipeline.states(asset))
        return True

    def _catch_up(self) -> bool:
        """Publish what went out unretained once more, and go on when the broker has it all: until then the watermark
        stands, so that a crash in between begins again."""
        if messages := self._pipeline.caught_up():
            self._settling = True
            self._outbound.send(messages)
        self._settling = self._settling and self._outbound.backlog > 0
        self._catching_up = self._settling
        self._pledged_at = (self._handed_over, self._clock.monotonic())
        return not self._settling

    # -- the watermark ----------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        if self._catching_up:
            return self._journal.watermark
        oldest = (self._outbound.oldest_seq, self._held[0].seq if self._held else None)
        return min([self.answered, *(seq - 1 for seq in oldest if seq is not None)])

    def covered(self, upto: int) -> tuple[int, list[AlarmRow]]:
        """The watermark, at most `upto`, and each asset's alarms as they stood at it."""
        watermark = max(min(self.watermark, upto), self._journal.watermark)
        rows: dict[Asset, AlarmRow] = {}
        for row in self.alarm_rows:
            if row.seq > watermark:
                break
            rows[row.asset] = row
        return watermark, list(rows.values())

    def keep_alarms(self, asset: Asset) -> None:
        """Keep the asset's alarms as they stand without those that the configuration lost, once the broker has what
        withdraws these: one that comes back later would still be on, and not be raised."""
        seq = max(self._journal.watermark + 1, self.alarm_rows[-1].seq if self.alarm_rows else 0)
        self.alarm_rows.append(AlarmRow(seq, asset, self._pipeline.alarms.dump(asset)))

    def saved(self, watermark: int, now: float) -> None:
        """What `covered` and `pledge` gave is on disk. now: monotonic seconds."""
        self._pledged_at = (self._handed_over, now)
        while self.alarm_rows and self.alarm_rows[0].seq <= watermark:
            self.alarm_rows.popleft()
        self._arrivals.answered(watermark)
