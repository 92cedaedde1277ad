"""The intake: inbox -> decode -> the journal's open transaction, and the tail.

Owns what is owed to the broker: a message is acknowledged once what it holds is on disk, in order of arrival. Must not
know what becomes of an entry, nor write to the disk: the worker commits.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from edge_rul.adapters.journal import Journal
from edge_rul.adapters.mqtt_inbox import Received
from edge_rul.arrivals import Arrivals
from edge_rul.core.entry import AssetEntry
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.tail import Tail
from edge_rul.log import Summary

AT_ONCE = 1000  # messages between two engine calls


class Inbound(Protocol):
    """What comes from a broker's client; `MqttTransport` documents each."""

    def receive(self) -> Received | None: ...
    def acknowledge(self, message: Received) -> None: ...


class Hearer(Protocol):
    """Who is told what came in; `History` documents it. Must not keep us waiting."""

    def heard(self, entries: list[AssetEntry]) -> None: ...


class Intake:
    """Takes in as much as may be owed."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        journal: Journal,
        tail: Tail,
        inbound: Inbound,
        arrivals: Arrivals,
        owed_at_most: int,
        faults: Summary,
        hearer: Hearer | None,
    ) -> None:
        """owed_at_most: unacknowledged messages at which the broker sends nothing more."""
        self._pipeline = pipeline
        self._journal = journal
        self._tail = tail
        self._inbound = inbound
        self._arrivals = arrivals
        self._owed_at_most = owed_at_most
        self._faults = faults
        self._hearer = hearer
        self._listening: float | None = None  # since when assets can be heard
        self._owed: deque[tuple[int, Received]] = deque()  # (seq of its last entry, message), as they came

    def take(self, now: float, wall: int) -> int:
        """Empty the inbox, until a commit is due. now: monotonic seconds. wall: epoch milliseconds.

        Returns how many messages were taken in.
        """
        last, count = self._journal.last, 0
        while (
            count < AT_ONCE
            and self._journal.wait(now) > 0
            and len(self._owed) < self._owed_at_most
            and (message := self._inbound.receive()) is not None
        ):
            count += 1
            self._take(message, now, wall)
        if self._journal.last > last:
            self._arrivals.came(self._journal.last, now)
        return count

    def _take(self, message: Received, now: float, wall: int) -> None:
        decoded = self._pipeline.decode(
            message.topic,
            message.payload,
            wall,
            qos=message.qos,
            reply_to=message.reply_to,
            retained=message.retained,
            again=message.again,
        )
        for bad in decoded.rejected:
            self._faults.fault("message_rejected", bad.reason.value, now, topic=bad.topic, problem=bad.problem)
        entries = [*decoded.entries, *decoded.rejected]
        self._tail.append(self._journal.append(entries, now, fleeting=message.qos == 0))
        if self._hearer is not None and decoded.entries:
            self._hearer.heard(list(decoded.entries))
        if message.qos:
            self._owed.append((self._journal.last, message))

    def tick(self, now: float, wall: int, *, connected: bool) -> None:
        """Take in what a clock decides. An asset can be silent only while we can hear, and have heard all that came."""
        if not connected:
            self._listening = None
        elif self._listening is None:
            self._listening = now
        if self._listening is None or self._journal.full:
            return
        all_applied = self._pipeline.applied == self._journal.last
        if entries := self._pipeline.tick(now, wall, self._listening, all_applied=all_applied):
            self._tail.append(self._journal.append(entries, now))
            self._arrivals.came(self._journal.last, now)
            if self._hearer is not None:
                self._hearer.heard(entries)

    def waits_for_commit(self, now: float) -> bool:
        """Whether the transaction is as full or old as it may be, or the broker waits for acknowledgements."""
        # An empty list holds no entry; its message is owed too, and waits for nothing.
        settled = bool(self._owed) and self._owed[0][0] <= self._journal.committed
        return settled or len(self._owed) >= self._owed_at_most or self._journal.wait(now) <= 0

    def acknowledge(self) -> None:
        """Acknowledge what is on disk."""
        while self._owed and self._owed[0][0] <= self._journal.committed:
            self._inbound.acknowledge(self._owed.popleft()[1])
