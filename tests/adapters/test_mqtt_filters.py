"""Subscriptions across connections and reloads, against a broker that the test plays."""

from __future__ import annotations

from collections.abc import Sequence

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes

from edge_rul.adapters.mqtt_filters import Filters

GRANTED, REFUSED = (paho.ReasonCode(PacketTypes.SUBACK, identifier=code) for code in (0x01, 0x87))


class Session:
    """What was sent, and what the broker then holds."""

    def __init__(self, filters: Sequence[str], stale: Sequence[str] = ()) -> None:
        self.connected = True
        self.sent: list[tuple[str, ...]] = []
        self.held: set[str] = set(stale)
        self.filters = Filters(filters, stale, subscribe=self.subscribe, unsubscribe=self.unsubscribe)

    def subscribe(self, filters: Sequence[str]) -> int | None:
        if not self.connected:
            return None
        self.sent.append(tuple(filters))
        return len(self.sent)

    def unsubscribe(self, filters: list[str]) -> None:
        if self.connected:
            self.held -= set(filters)

    def answer(self, *refuses: str) -> tuple[str, str] | None:
        """The broker answers the last SUBSCRIBE."""
        last = self.sent[-1]
        self.held |= set(last) - set(refuses)
        return self.filters.answered(len(self.sent), [REFUSED if text in refuses else GRANTED for text in last])


@pytest.fixture
def session() -> Session:
    session = Session(["a", "b"])
    session.filters.connect()
    assert session.answer() is None
    return session


def test_what_an_earlier_configuration_left_is_given_up() -> None:
    session = Session(["a"], ["a", "old"])
    assert session.filters.held == ["a", "old"]
    session.filters.connect()
    assert session.held == {"a"}
    session.answer()
    assert session.filters.held == ["a"]


def test_only_what_is_new_is_tried_and_then_the_rest_is_given_up(session: Session) -> None:
    session.filters.attempt(["b", "c"])
    assert (session.sent[-1], session.filters.verdict) == (("c",), None)
    assert session.answer() is None
    assert (session.filters.verdict, session.held) == ("", {"a", "b", "c"})
    session.filters.adopt(["b", "c"])
    assert session.held == {"b", "c"}
    assert len(session.sent) == 2, "what is granted is not asked for again"


def test_what_is_refused_is_told_and_the_old_filters_stay(session: Session) -> None:
    session.filters.attempt(["b", "c", "d"])
    assert session.answer("d") is None, "nobody needs it yet"
    assert session.filters.verdict == "the broker refuses d: Not authorized"
    session.filters.adopt(["a", "b"])
    assert session.held == {"a", "b"}


def test_without_a_connection_the_next_one_subscribes_to_what_was_adopted(session: Session) -> None:
    session.connected = False
    session.filters.attempt(["c"])
    assert session.filters.verdict == ""
    session.filters.adopt(["c"])
    assert session.filters.held == ["c", "a", "b"], "the session still holds them"
    session.connected = True
    session.filters.connect()
    assert session.answer("c") == ("c", "Not authorized")
    assert session.held == set()


def test_a_connection_that_is_lost_during_a_trial_judges_it_later(session: Session) -> None:
    session.filters.attempt(["a", "c"])
    session.filters.connect()
    assert (session.sent[-1], session.filters.verdict) == (("a", "b"), "")
    session.answer()
    session.filters.adopt(["a", "c"])
    assert session.sent[-1] == ("c",)
    assert session.answer("c") == ("c", "Not authorized")


def test_nothing_new_is_judged_at_once(session: Session) -> None:
    session.filters.attempt(["a"])
    assert (len(session.sent), session.filters.verdict) == (1, "")
