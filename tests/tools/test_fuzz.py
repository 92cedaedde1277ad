"""The fuzzer: a short run, and that it can fail."""

from __future__ import annotations

from typing import Any

import fuzz
import pytest

from edge_rul.core.payload import Decoded, Decoder
from edge_rul.errors import EXIT_OK, Reason


def test_mutated_messages_neither_raise_nor_hang(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.run(5000, seed=1) == EXIT_OK
    out = capsys.readouterr().out
    # The mutations reach every door: text, shape, values, names, lives; and honest readings still come through.
    for reason in (Reason.NOT_JSON, Reason.BAD_SHAPE, Reason.BAD_VALUE, Reason.BAD_ASSET, Reason.OLD_LIFE, Reason.LATE):
        assert f"{reason.value} " in out
    published = int(out.split(" readings applied, ")[1].split()[0])
    assert published > 500


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("plant/a/x/cycle", b'{"values":' * 1100 + b"1" + b"}" * 1100, Reason.BAD_VALUE),
        ("plant/a/x/cycle", b'{"cycle": 1, "values": {"p": []}, nonsense', Reason.BAD_VALUE),
        ("plant/a/x/cycle", b'{"cycle": 1, "values": {"p": []}, "values": [1, 2]}', Reason.BAD_VALUE),
        ("command", b'{"command": "res\xaat", "asset": "x"}', Reason.BAD_COMMAND),
        ("plant/a/x/cycle", b'{"cycle": 1, "values": [1, 2], "ts": "0001-01-01T00:00:00+23:59"}', Reason.BAD_TIME),
    ],
    ids=["deep", "not JSON further on", "twice", "not UTF-8", "year 0"],
)
def test_what_it_found_is_refused(topic: str, payload: bytes, reason: Reason) -> None:
    """Each of these raised, and so ended the daemon, which then read it again."""
    core = fuzz.Core()
    core.take(topic, payload, fuzz.NOW)
    assert dict(core.pipeline.dropped) == {reason: 1}


def test_an_exception_is_told_with_its_message_and_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Decoder.decode

    def broken(self: Decoder, topic: str, payload: bytes, received: int, **how: Any) -> Decoded:
        decoded = honest(self, topic, payload, received)
        if any(bad.reason is Reason.BAD_TIME for bad in decoded.rejected):
            raise OverflowError("a stamp")
        return decoded

    monkeypatch.setattr(Decoder, "decode", broken)
    with pytest.raises(OverflowError):
        fuzz.run(5000, seed=1)
    failed = capsys.readouterr().out
    assert "of seed 1: OverflowError('a stamp')" in failed
    assert "payload b'" in failed
