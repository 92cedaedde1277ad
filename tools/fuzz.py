"""Throw mutated messages at the core: decoding, the journal's form of an entry, lives, windows, answers.

    python tools/fuzz.py --count 1000000 --seed 0

Fails, with the seed, the number and the message, on an exception that gets out, on a message that takes seconds, on an
entry that does not survive the journal, on a published message that is no JSON, and on memory that grows with the
number of messages. Exit code 1 then. Owns the mutations; must not need a broker, an engine or a file.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.core.entry import Entry, pack, unpack
from edge_rul.core.features import Feature
from edge_rul.core.normalise import Array, ZScore
from edge_rul.core.outgoing import Outgoing
from edge_rul.core.payload import Decoder, Part, Reading
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import BundleId, EngineId, Model
from edge_rul.core.tail import Numbered, Tail
from edge_rul.core.topic import Template
from edge_rul.core.transform import Transform
from edge_rul.core.window import Rings
from edge_rul.errors import EXIT_FOUND, EXIT_OK

NOW = 1_767_225_600_000
SLOW = 5  # seconds; an honest message takes microseconds
GROWTH = 16  # MiB at most, from when every cache has filled
WARM = 100_000  # messages until then
ASSETS = 200
INPUTS = ["p", "q"]

# What takes a value's place, and where messages come from: a line each, so that more is easily added.
NUMBERS = [
    *["0", "-0", "-1", "1", "0.5", "1e3", "1.0", "2", "65536", "99999999999", "1767225600", "1767225600000"],
    *["9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551616"],
    *["-9223372036854775809", "1e38", "3.5e38", "1e308", "1e309", "-1e999", "1e-400", "253402300800000"],
    *["NaN", "Infinity", "-Infinity", "+1", "01", "0x10", "1e", "1.", ".5", "1_000"],
    *["9" * 400, "9" * 4299, "9" * 4301, "-" + "9" * 5000, "0." + "3" * 3000, "1" + "0" * 308, "1e" + "9" * 300],
]
STAMPS = [
    *["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00-23:59", "0001-01-01T00:00:00.0001Z"],
    *["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.9Z"],
    *["2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00+25:00"],
    *["2026-01-01", "2026-01-01T00:00:00", "2026-01-01t00:00:00z", "now"],
]
ODD = [
    *["null", "true", "false", "[]", "{}", "[[]]", "[null]", '""', "[[[[]]]]", '{"":0}', '{"values":1}'],
    *['"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', '"+"', '"#"', '"a/b"', '"$SYS"', '"_daemon"', '"NaN"', '"reset"'],
    *['"\u202e"', '"\x7f"', '"' + "x" * 129 + '"', '"' + "\u00e9" * 70_000 + '"'],
    *(f'"{stamp}"' for stamp in STAMPS),
]
PLANT = ["plant/a/x/cycle", "plant/a/y/cycle", "plant/b/x/cycle", "batch/a", "part/a/v/p", "part/a/v/q", "command"]
TOPICS = [
    *["plant/+/x/cycle", "plant/a/#/cycle", "plant//x/cycle", "plant/a//cycle", "plant/a/x", "plant/a/x/cycle/"],
    *["/plant/a/x/cycle", "batch/b", "batch/", "batch", "batch/+", "command/", "$SYS/x", "edge-rul/a/x/p", "", "/"],
    *["plant/a/_daemon/cycle", "plant/a/$x/cycle", "plant/a/\x00/cycle", "plant/\ufeff/\u202ex/cycle"],
    *["plant/a/" + "n" * 128 + "/cycle", "plant/a/" + "n" * 129 + "/cycle", "plant/" + "/" * 60_000 + "/cycle"],
    *["plant/\U0001f600/\u00e9/cycle", "plant/a/\ud800/cycle", "plant/a/\uffff/cycle", "plant/{line}/{asset}/cycle"],
]


def make_pipeline() -> Pipeline:
    """Everything that a message can reach is on: two topics, one without the asset's name, holding, gaps, alarms."""
    asset, line, sensor = "{asset}", "{line}", "{sensor}"
    return Pipeline(
        model=Model(BundleId("b", "0" * 64), EngineId("fake", "float32"), "j", "cycles", ("good", "bad")),
        rings=Rings(3, 2, max_late=3, max_gap=2, changes=True, seconds_per_cycle=0.5, restart=True),
        transform=Transform(
            ["p", "q"],
            low=[0.0, 0.0],
            high=[100.0, 1.0],
            features=[Feature("p", "p"), Feature("q", "q", change="cycle")],
            normaliser=ZScore(mean=[10.0, 0.0], std=[2.0, 1.0]),
            window=3,
        ),
        decoder=Decoder(
            INPUTS,
            [
                Template(f"plant/{line}/{asset}/cycle"),
                Template(f"batch/{line}"),
                Template(f"part/{line}/{asset}/{sensor}"),
            ],
            command=Template("command"),
            hold=["q"],
        ),
        outgoing=Outgoing(
            Template(f"edge-rul/{line}/{asset}/p"),
            Template(f"edge-rul/{line}/{asset}/alarm/{{alarm}}"),
            Template(f"edge-rul/{line}/{asset}/e"),
            statistics=Template("edge-rul/s"),
            status=Template("edge-rul/status"),
            daemon_alarm=Template("edge-rul/_daemon/alarm/{alarm}"),
            state=Template(f"edge-rul/{line}/{asset}/s"),
            dead_letter=Template("edge-rul/dead-letter"),
        ),
        rules=[
            RulAlarm(name="low", below=20, on_delay=1),
            HealthAlarm(name="bad", classes=["bad"], probability=0.5),
        ],
        max_assets=ASSETS,
    )


def engine(x: Array) -> tuple[Array, Array]:
    """The window's last input, and now and then what no engine should say: (B, T, F) -> (B,), (B, 2)."""
    rul = x[:, -1, 0] * 2 + 10  # (B,)
    with np.errstate(over="ignore", invalid="ignore"):
        return rul, np.stack([rul - 20, 20 - rul], axis=1).astype(np.float32)


class Fuzzer:
    """Messages from a seed: mostly a plant's, mutated in bytes, in JSON's structure, or in the topic."""

    def __init__(self, seed: int) -> None:
        self.now = NOW  # epoch milliseconds; it passes, so that a mutated stamp or cycle blocks no asset for ever
        self._rng = random.Random(seed)
        self._cycle = 0
        self._mutations: list[Callable[[bytes], bytes]] = [
            self._flip,
            self._cut,
            self._double,
            self._insert,
            self._nest,
            self._substitute,
            self._substitute,
            self._substitute,
            self._nan,
        ]

    def message(self) -> tuple[str, bytes]:
        rng = self._rng
        self.now += 100
        topic = rng.choice(PLANT if rng.random() < 0.8 else TOPICS)
        if rng.random() < 0.1:
            # More assets than the limit, and few enough that the decoder soon knows all topics.
            topic = f"plant/a/{rng.randrange(10 * ASSETS)}/cycle"
        if rng.random() < 0.02 and topic:
            at = rng.randrange(len(topic))
            topic = topic[:at] + chr(rng.choice([0, 9, 35, 43, 47, 127, 0x2028, 0xE000, 0x10FFFF])) + topic[at + 1 :]
        payload = self._command() if topic == "command" else self._plain()
        while rng.random() < 0.6:
            payload = rng.choice(self._mutations)(payload)
        return topic, payload

    def _command(self) -> bytes:
        rng = self._rng
        command = {"command": rng.choice(["reset", "remove"]), "asset": rng.choice("xy"), "levels": {"line": "a"}}
        reply_to = rng.choice(["answers", None, "plant/a/x/cycle", "edge-rul/a/x/p"])
        return json.dumps({**command, "reply_to": reply_to, "who": "w", "id": "1"}).encode()

    def _plain(self) -> bytes:
        rng = self._rng
        if rng.random() < 0.15:
            return json.dumps([self._element() for _ in range(rng.randrange(6))]).encode()
        return json.dumps(self._element()).encode()

    def _element(self) -> dict[str, Any]:
        rng = self._rng
        self._cycle = max(0, self._cycle + rng.choice([1] * 30 + [2, 2, 2, -1, -1, -3, 0, 7, -40]))
        p, q = rng.choice([5.0, 50.0, 1e30, -3e38]), rng.choice([0.5, None, 1])
        element: dict[str, Any] = {"cycle": self._cycle, "values": rng.choice([[p, q], {"p": p, "q": q, "r": 1}])}
        if rng.random() < 0.7:
            element["ts"] = rng.choice(
                [self.now, self.now, self.now, self.now - 50_000, "2025-12-31T00:00:00Z", NOW * 2]
            )
        if rng.random() < 0.3:
            element["value"] = rng.choice([p, q])
        if rng.random() < 0.3:
            element["asset"] = rng.choice("wxyz")
        if element.get("asset") == "z" or rng.random() < 0.02:
            del element["cycle"]
        if element.get("asset") == "w" or rng.random() < 0.01:
            element = {name: value for name, value in element.items() if name not in ("cycle", "ts")}
        return element

    def _at(self, data: bytes) -> int:
        return self._rng.randrange(len(data) + 1)

    def _flip(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes([self._rng.randrange(256)]) + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        a, b = sorted((self._at(data), self._at(data)))
        return data[:a] + data[b:] if self._rng.random() < 0.5 else data[a:b]

    def _double(self, data: bytes) -> bytes:
        a, b = sorted((self._at(data), self._at(data)))
        return data[:b] + data[a:] if len(data) < 4096 else data[:4096]

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        piece = self._rng.choice(
            [b"\xef\xbb\xbf", b"\x00", b",", b"[", b"]", b"{", b"}", b'"', b"\xff", b"\xed\xa0\x80"]
        )
        return data[:at] + piece + data[at:]

    def _nest(self, data: bytes) -> bytes:
        if self._rng.random() > 0.05:  # dear: a few in a hundred are enough
            return data
        depth = self._rng.choice([10, 500, 1100, 30_000])
        left, right = self._rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"values":', b"}"), (b"[", b"")])
        return (left * depth)[:120_000] + data[:1000] + (right * depth)[:60_000]

    def _substitute(self, data: bytes) -> bytes:
        """Another value in the place of one: of a number, a string, a list or an object."""
        rng = self._rng
        starts = [i for i in range(min(len(data), 400)) if data[i - 1 : i] in (b" ", b"[", b",", b":")]
        if not starts:
            return data
        start = rng.choice(starts)
        end = min((at for end in (b",", b"}", b"]") if (at := data.find(end, start)) >= 0), default=len(data))
        value = rng.choice(NUMBERS) if rng.random() < 0.6 else rng.choice(ODD)
        return data[:start] + value.encode("utf-8", "surrogatepass") + data[end:]

    def _nan(self, data: bytes) -> bytes:
        """The lenient reader, which Python's json is, takes over where the text holds NaN."""
        return data.replace(b"null", b"NaN", 1) if b"null" in data else data.replace(b"0.5", b"NaN", 1)


def rss() -> float:
    """MiB that this process holds now; on systems without /proc, the most that it ever held."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Core:
    """The walk of one message through every room of the core, with what a journal would do in between."""

    def __init__(self) -> None:
        self.pipeline = make_pipeline()
        self.published = 0
        self._tail = Tail(1000)
        self._seq = 0

    def take(self, topic: str, payload: bytes, now: int) -> None:
        decoded = self.pipeline.decode(topic, payload, now, qos=self._seq % 2)
        decided = self.pipeline.tick(now / 1000, now // 1000, 0.0)
        for entry in (*decoded.entries, *decoded.rejected, *decided):
            again = unpack(pack(entry))
            if isinstance(entry, Reading) and isinstance(again, Reading):
                keys = [(r.asset, r.cycle, r.time, r.key) for r in (again, entry)]
                same = keys[0] == keys[1]
                if not same or not np.array_equal(again.values, entry.values, equal_nan=True):
                    raise AssertionError(f"{entry} came out of the journal as {again}")
            elif again != entry and not _same_part(again, entry):
                raise AssertionError(f"{entry} came out of the journal as {again}")
            self._seq += 1
            self._tail.append([Numbered(self._seq, again)])
        while (batch := self.pipeline.fill(self._tail, self._seq, now=now / 1000)) is not None:
            for message in self.pipeline.complete(batch, *engine(batch.x)).messages:
                said = json.loads(message.payload or b'{"asset": ""}')  # nothing clears what is retained
                odd = {"+", "#", "\x00"} & set(message.topic) or message.topic in PLANT
                ours = "reply" not in said.get("schema", "")
                if odd or (ours and said.get("asset", "dead-letter") not in message.topic):
                    raise AssertionError(f"published on {message.topic!r}: {said}")
                self.published += 1
        if self._seq % 997 == 0:  # a restart of some asset
            for asset in self.pipeline.lives.changed:
                self.pipeline.lives.load(asset, self.pipeline.lives.dump(asset))
            self.pipeline.lives.changed.clear()


def _same_part(a: Entry, b: Entry) -> bool:
    """NaN, which says that the value is missing, is not equal to itself."""
    if not isinstance(a, Part) or not isinstance(b, Part):
        return False
    return repr(a) == repr(b)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"one message took more than {SLOW} s")


def run(count: int, seed: int) -> int:
    fuzzer, core = Fuzzer(seed), Core()
    signal.signal(signal.SIGALRM, _too_slow)
    began, first, warm = time.monotonic(), rss(), rss()
    topic, payload, number = "", b"", 0
    try:
        for number in range(1, count + 1):
            topic, payload = fuzzer.message()
            signal.setitimer(signal.ITIMER_REAL, SLOW)
            core.take(topic, payload, fuzzer.now)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if number == WARM:
                warm = rss()
            if number % 200_000 == 0:
                print(f"{number} messages, {rss():.0f} MiB", flush=True)
    except Exception as e:
        signal.setitimer(signal.ITIMER_REAL, 0)
        shown = payload if len(payload) < 2000 else payload[:1000] + b" ... " + payload[-1000:]
        print(f"FAILED at message {number} of seed {seed}: {e!r}\n  topic {topic!r}\n  payload {shown!r}", flush=True)
        raise
    seconds, last = time.monotonic() - began, rss()
    counts = Counter({reason.value: n for reason, n in core.pipeline.dropped.items()})
    print(f"{count} messages in {seconds:.0f} s, {count / seconds:.0f}/s, seed {seed}")
    print(f"{core.pipeline.counts['readings']} readings applied, {core.published} messages published")
    print("rejected or dropped: " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    print(
        f"memory {first:.0f} MiB at the start, {warm:.0f} after {min(count, WARM)}, {last:.0f} at the end", flush=True
    )
    if count > WARM and last - warm > GROWTH:
        print(f"FAILED: memory grew by {last - warm:.0f} MiB, at most {GROWTH} are allowed", flush=True)
        return EXIT_FOUND
    return EXIT_OK


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutated messages through the core.")
    parser.add_argument("--count", type=int, default=1_000_000, help="messages (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.count < 1:
        parser.error("--count is at least 1")
    try:
        return run(args.count, args.seed)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return EXIT_FOUND


if __name__ == "__main__":
    sys.exit(main())
