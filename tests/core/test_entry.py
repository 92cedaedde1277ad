"""Each kind of entry survives the journal, and so does what an earlier version wrote."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_rul.core.command import Command, ReplyTo
from edge_rul.core.dead_letter import Refused
from edge_rul.core.entry import BundleChange, Entry, pack, unpack
from edge_rul.core.payload import NO_NUMBER, Reading
from edge_rul.core.standing import Stale
from edge_rul.core.topic import Asset
from edge_rul.errors import Reason

X = Asset("x", (("line", "a"),))


def same(found: Entry, expected: Entry) -> bool:
    if not isinstance(found, Reading) or not isinstance(expected, Reading):
        return found == expected
    values = np.array_equal(found.values, expected.values, equal_nan=True) and found.values.dtype == np.float32
    empty = np.array([], np.float32).tobytes()
    return values and (
        msgspec.structs.astuple(msgspec.structs.replace(found, values=empty))  # type: ignore[arg-type]
        == msgspec.structs.astuple(msgspec.structs.replace(expected, values=empty))
    )


@pytest.mark.parametrize(
    "entry",
    [
        Reading(X, 2**53, None, np.array([1.5, np.nan], np.float32)),
        Reading(X, 0, -1, np.array([], np.float32), source=3, received=1_767_225_600),
        Reading(X, 1000, 1000, np.array([1], np.float32), key="time"),
        Reading(X, NO_NUMBER, None, np.array([1], np.float32), 0, 1_767_225_600, "arrival"),
        Command("remove", X, "kim", "sold", ReplyTo("r/kim", b"\xff", "7")),
        Command("reset", X),
        Command("reset", X, again=True),
        Stale(X, 0, 1_767_225_600),
        BundleChange("new", "1" * 64),
        BundleChange("new", "1" * 64, 0),
        Refused(Reason.BAD_COMMAND, "cmd", "?", b"", 0, ReplyTo("r")),
        Refused(Reason.NOT_JSON, "plant/\u00e9", "no JSON", b"\xff\x00", 70_000),
    ],
    ids=lambda entry: type(entry).__name__,
)
def test_an_entry_survives_the_journal(entry: Entry) -> None:
    assert same(unpack(pack(entry)), entry)


def test_a_reading_of_the_version_before_has_no_source() -> None:
    old = msgspec.msgpack.encode((0, "x", (("line", "a"),), 7, 1000, np.array([1, 2], "<f4").tobytes()))
    assert same(unpack(old), Reading(X, 7, 1000, np.array([1, 2], np.float32)))


def test_a_reset_of_the_version_before_says_neither_who_nor_why() -> None:
    assert unpack(msgspec.msgpack.encode((1, "x", (("line", "a"),)))) == Command("reset", X)


def test_a_command_that_came_once_is_written_as_before_it_could_come_again() -> None:
    written = pack(Command("reset", X, "kim", alarm="low"))
    assert written == msgspec.msgpack.encode((3, "x", (("line", "a"),), "reset", "kim", "", None, "low", 0))


def test_a_change_of_bundle_did_not_say_since_when_before() -> None:
    assert unpack(msgspec.msgpack.encode((5, "new", "1" * 64))) == BundleChange("new", "1" * 64)


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode((9, "x", ())), msgspec.msgpack.encode((2, "?"))])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an entry"):
        unpack(data)
