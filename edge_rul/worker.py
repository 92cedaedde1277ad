"""The worker: the loop's steps over journal, pipeline, engine and transport.

    intake     inbox -> decode -> the journal's open transaction, and the tail
    scoring    tail -> windows -> one engine call -> answers -> outbox
    commit     entries, watermark and alarm rows to disk; then, and only then, acknowledgements, in order of arrival
    snapshots  some assets' windows and lives to disk, now and then

Owns the order of these, commits, restarts, and what is told of how it goes. Ingest never waits for more than one engine
call. Knows time only as its caller tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from edge_rul import daemon_alarms, intake, scoring
from edge_rul.adapters.journal import Journal
from edge_rul.answer_log import AnswerLog
from edge_rul.arrivals import Arrivals
from edge_rul.candidate import Candidate
from edge_rul.config import Settings
from edge_rul.core.alarm import Change
from edge_rul.core.entry import BundleChange
from edge_rul.core.outgoing import Message, Outgoing, Statistics, iso
from edge_rul.core.payload import Decoder
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.tail import Tail
from edge_rul.core.topic import Asset
from edge_rul.engines import Engine
from edge_rul.log import Summary
from edge_rul.snapshots import Snapshots
from edge_rul.succession import Answerer

_RETRY_FULL = 1.0  # seconds
_WATERMARK_ALONE = 5.0  # seconds; with entries the watermark is saved at each commit


class Transport(intake.Inbound, scoring.Outbound, Protocol):
    """What is needed of a broker's client; `MqttTransport` documents each."""

    refused: int

    @property
    def dropped_qos0(self) -> int: ...

    def pump(self) -> None: ...


class Onlooker(intake.Hearer, scoring.Reader, daemon_alarms.Watcher, Protocol):
    """Who is told what came in and was answered, to show it; `History` documents each. Must not keep us waiting."""

    def alarms(self, asset: Asset, states: list[Change]) -> None: ...


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
        clock: scoring.Clock,
        log: Any,
        observer: scoring.Observer | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        self._onlooker = onlooker
        self._outgoing = outgoing
        self._pipeline = pipeline
        self._transport = transport
        self._journal = journal
        self._clock = clock
        self._log = log
        self._faults = Summary(log)
        self._tail = Tail(settings.limits.tail, last=journal.last)
        self._arrivals = Arrivals()
        self._alarms = daemon_alarms.DaemonAlarms(outgoing, transport, journal, onlooker)
        self._intake = intake.Intake(
            pipeline=pipeline,
            journal=journal,
            tail=self._tail,
            inbound=transport,
            arrivals=self._arrivals,
            owed_at_most=settings.mqtt.owed_at_most,
            faults=self._faults,
            hearer=onlooker,
        )
        self._scoring = scoring.Scoring(
            pipeline=pipeline,
            engine=engine,
            journal=journal,
            tail=self._tail,
            outbound=transport,
            arrivals=self._arrivals,
            daemon_alarms=self._alarms,
            settings=settings,
            clock=clock,
            log=log,
            answer_log=AnswerLog(log, self._faults),
            observer=observer,
            reader=onlooker,
        )
        now = clock.monotonic()
        evict_after = settings.assets.evict_after
        self._snapshots = Snapshots(
            pipeline,
            journal,
            settings.journal.snapshot_seconds,
            now,
            evict_after=None if evict_after == "never" else evict_after,
        )
        self._mark_every = settings.journal.commit_ms / 1000
        self._was_full = False
        self._retry_at = 0.0
        self._marked_at = self._started = now
        self._first_bytes = journal.size

    # -- restart ----------------------------------------------------------------------------------------------------

    def restore(self, *, unclean: bool = False) -> int:
        """Windows, lives and alarms as they stood, then the entries since. unclean: the run before had no orderly end.
        Returns the number of assets.

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
        gone: list[Message] = []
        for asset, blob in state.alarms:
            try:
                if found := self._pipeline.restore_alarms(asset, blob, state.watermark):
                    gone += found
                    self._scoring.keep_alarms(asset)
                if self._onlooker is not None:
                    self._onlooker.alarms(asset, self._pipeline.alarms.states(asset))
            except (ValueError, msgspec.DecodeError) as e:
                unreadable.append(f"alarms of {asset}: {e}")
        if unreadable:
            action = "these windows and alarms begin anew"
            self._log.error("state_unreadable", count=len(unreadable), first=unreadable[0], action=action)
        self._transport.send(gone)
        self._tail.rewind(state.replay_from)
        # What lies above the pledge was never answered, so that however long the lag, catching up is soon over.
        catch_up = min(self._journal.last, self._journal.pledged)
        self._pipeline.begin(replay_from=state.replay_from, answered=state.watermark, catch_up=catch_up)
        self._scoring.begin(state.replay_from, unclean=unclean)
        self._scoring.succession.since = state.watermark
        return state.assets

    # -- the steps --------------------------------------------------------------------------------------------------

    def step(self, *, intake: bool = True) -> bool:
        """Ingest, score, publish, commit. Returns whether anything moved."""
        now = self._clock.monotonic()
        moved = intake and self._take_in(now)
        moved |= self._scoring.step(now)
        moved |= self._scoring.publish_again()
        self._transport.pump()
        if self._commit_is_due(now):
            moved |= self.commit(mark=self._mark_is_due(now))
        moved |= self._snapshots.step(now, round(self._clock.wall()))
        return moved

    def pause(self) -> float:
        """Seconds that the caller may wait for the transport before the next step."""
        if self._journal.full:
            return _RETRY_FULL
        now = self._clock.monotonic()
        return min(1.0, self._journal.wait(now), self._snapshots.pause(now))

    def tick(self) -> None:
        """Summaries of repeated faults, what a clock decides of assets, and alarms of the daemon's own."""
        now = self._clock.monotonic()
        self._faults.tick(now)
        self._intake.tick(now, round(self._clock.wall()), connected=self._transport.connected)
        if self.full != self._was_full:
            self._was_full = self.full
            self.alarm("disk_full", active=self.full, value=float(self._journal.free))
            if self.full:
                self._log.error(
                    "disk_full", reason=self._journal.full, action="taking in nothing, acknowledging nothing"
                )
            else:
                self._log.info("disk_has_room")

    def alarm(self, name: daemon_alarms.Name, *, active: bool, value: float = 0.0) -> None:
        """Publish an alarm of the daemon's own."""
        self._alarms.publish(name, round(self._clock.wall() * 1000), active=active, value=value)

    def begin_alarms(self, found: Mapping[daemon_alarms.Name, tuple[bool, float]]) -> None:
        """Say at the start how each alarm of the daemon's own stands, as what the run before said of it is retained.
        found: whether active, and the value, of those that may be by now."""
        for name in daemon_alarms.NAMES:
            active, value = found.get(name, (False, 0.0))
            self.alarm(name, active=active, value=float(value))

    def compare(self, candidate: Candidate) -> None:
        """Let a candidate score what is answered from now on."""
        self._scoring.candidate = candidate

    @property
    def candidate(self) -> Candidate | None:
        return self._scoring.candidate

    def change_bundle(self, successor: Answerer) -> None:
        """Let another answer, once all that came before is answered; `answerer` tells when."""
        self._note(self._scoring.succession.propose(successor))

    def record_bundle(self) -> None:
        """Make the journal's entries tell who answers, where they do not: after a start with another bundle, and after
        one that failed at its first windows."""
        entry = self._scoring.succession.recorded()
        known, since = self._journal.bundle
        if known != entry.sha256 or since > self._scoring.succession.since:
            self._note(entry)

    def _note(self, change: BundleChange) -> None:
        numbered = self._journal.append([change], self._clock.monotonic())
        self._journal.answered_by(change.sha256, numbered[0].seq if change.since is None else change.since)
        self._tail.append(numbered)

    @property
    def answerer(self) -> Answerer:
        """Who answers now."""
        return self._scoring.succession.current

    @property
    def failure(self) -> str:
        """Why the last successor was taken out again, or ""."""
        return self._scoring.succession.failure

    def close(self) -> None:
        """Close the engines."""
        self._scoring.succession.close()
        if self.candidate is not None:
            self.candidate.close()

    def decode_by(self, decoder: Decoder) -> None:
        """Another decoder for what is taken in from now on, of the same inputs."""
        self._pipeline.decoder = decoder

    def reconfigure(self, settings: Settings, outgoing: Outgoing) -> bool:
        """Another configuration between two batches: windows, lives and alarm states stay. Returns False, with nothing
        changed, where the disk is full, and while there is something to retain on the topics before."""
        moved, other = outgoing.topics != self._outgoing.topics, settings.alarms != self._pipeline.alarms.rules
        if ((moved or other) and self._scoring.owes_retained) or not self.commit():
            return False
        seq, before = self._journal.watermark, set(self._pipeline.alarms.names)
        self._scoring.send(self._pipeline.reconfigure(outgoing, list(settings.alarms), seq))
        if before - set(self._pipeline.alarms.names):
            for asset in self._pipeline.lives.assets:
                self._scoring.keep_alarms(asset)
        self._alarms.move(outgoing)
        self._scoring.reconfigure(settings.scoring, moved=moved)
        self._outgoing = outgoing
        if self._onlooker is not None:
            for asset in self._pipeline.lives.assets:
                self._onlooker.alarms(asset, self._pipeline.alarms.states(asset))
        return True

    def _take_in(self, now: float) -> bool:
        """Ingest, with a commit each time that the broker waits for one, until the inbox is empty or a bound is met:
        the queue of work belongs on our disk, so ingest must not fall behind with the engine."""
        taken, wall = 0, round(self._clock.wall() * 1000)
        while taken < intake.AT_ONCE and not self._journal.full and (count := self._intake.take(now, wall)):
            taken += count
            if self._commit_is_due(now):
                self.commit(mark=self._mark_is_due(now))
        return taken > 0

    # -- durability -------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        return self._scoring.watermark

    def _commit_is_due(self, now: float) -> bool:
        if self._journal.full:
            return now >= self._retry_at
        if self._scoring.waits_for_pledge(now):
            return True
        if now - self._marked_at >= _WATERMARK_ALONE and self.watermark > self._journal.watermark:
            return True
        return self._intake.waits_for_commit(now)

    def _mark_is_due(self, now: float) -> bool:
        """Whether a commit is worth the watermark, a page of its own: not each of those that a broker waits for."""
        return now - self._marked_at >= self._mark_every or self._scoring.waits_for_pledge(now)

    def commit(self, *, mark: bool = True) -> bool:
        """Everything taken in to disk, then the acknowledgements. mark: with the watermark, alarms and pledge.

        Returns False where the disk is full.
        """
        now = self._clock.monotonic()
        watermark, covered = self._scoring.covered(self._journal.last) if mark else (self._journal.watermark, [])
        pledge = self._scoring.pledge(now) if mark else 0
        if not self._journal.commit(watermark, covered, wall=round(self._clock.wall()), pledge=pledge):
            self._retry_at = now + _RETRY_FULL
            if self._journal.mark(*self._scoring.covered(self._journal.committed), pledge=self._scoring.pledge(now)):
                self._scoring.release()
            return False
        if mark:
            self._marked_at = now
            self._scoring.saved(watermark, now)
        self._intake.acknowledge()
        self._scoring.release()
        return True

    # -- how it goes ------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the disk is, so that nothing is taken in."""
        return bool(self._journal.full)

    @property
    def lag(self) -> int:
        """Entries that came in and are not applied yet."""
        return self._scoring.lag

    @property
    def unpublished(self) -> int:
        """Messages that wait for the broker or for the disk."""
        return self._scoring.unpublished

    def statistics(self) -> Statistics:
        now = self._clock.monotonic()
        uptime = now - self._started
        counts = self._pipeline.counts
        size = self._journal.size
        alarms_on, acknowledged, shelved = self._pipeline.alarms.counts()
        dropped = {reason.value: count for reason, count in self._pipeline.dropped.items()}
        if self._transport.dropped_qos0:
            dropped["inbox_full_qos0"] = self._transport.dropped_qos0
        return Statistics(
            schema="edge-rul/statistics/1",
            ts=iso(round(self._clock.wall() * 1000)) or "",
            uptime=round(uptime, 1),
            assets=len(self._pipeline.lives),
            stale_assets=len(self._pipeline.lives.stale),
            alarms_on=alarms_on,
            alarms_acknowledged=acknowledged,
            alarms_shelved=shelved,
            **{
                name: counts[name]
                for name in (
                    "readings",
                    "parts",
                    "predictions",
                    "revisions",
                    "late",
                    "gaps",
                    "restarted",
                    "skipped",
                    "invalid_values",
                    "held_too_long",
                    "dead_letters",
                )
            },
            dropped=dropped,
            lag_entries=self.lag,
            lag_seconds=round(self._arrivals.waited(now), 3),
            oldest_unanswered=round(self._arrivals.unanswered(now), 3),
            unpublished=self.unpublished,
            publish_refused=self._transport.refused,
            watermark=self._journal.watermark,
            journal=self._journal.id,
            journal_bytes=size,
            journal_rate=round((size - self._first_bytes) * 3600 / uptime) if uptime > 0 else 0.0,
            disk_free=self._journal.free,
            connected=self._transport.connected,
        )
