"""Break everything around the daemon, and show that nothing acknowledged is lost.

    python tools/chaos.py --data DIR --seconds 120 --seed 1
    python tools/chaos.py --data DIR --seconds 40 --seed 1 --sabotage ack-before-commit     must fail

DIR holds the C-MAPSS files. The daemon and Mosquitto (configs/mosquitto.conf) run on loopback, a replay of real test
engines feeds them, and all of it goes through a proxy that is the witness of what was acknowledged. The seed decides
when which fault comes, and how the replay is disordered; how far each process had got by then is the machine's affair,
so that a seed repeats the faults and not the microsecond.

Held against an offline run over what the daemon acknowledged: every prediction, every alarm event, and what the broker
holds retained at the end.

Owns the run's beginning and end, and the report: the last line printed is a JSON object with the counts. Exit code 1
where an answer, an event or a retained state is missing or wrong, where the daemon ended of its own accord, or where
nothing was answered, so that nothing could be wrong. The faults are chaos_faults's, the publisher is chaos_field's,
record and judgement are chaos_witness's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos_faults import Faults, make_plan
from chaos_field import Replayer
from chaos_processes import Child, Disk, free_port, make_broker, make_daemon
from chaos_retained import retained
from chaos_sabotage import FAULTS
from chaos_witness import DAEMON, Key, Verdict, Witness, judge
from mqtt_proxy import Proxy

from edge_rul.errors import EXIT_FOUND, EXIT_OK, EXIT_USAGE

START = 60.0  # seconds that the daemon may take to its first subscription
SETTLE = 180.0  # seconds at the end in which everything has to be answered
FAILURES = ("missing", "wrong", "events_missing", "events_wrong", "retained_wrong", "daemon_exits")
QUIET = 10.0  # seconds without a prediction, after which there will be none


class Chaos:
    """One run: all its parts, from the first subscription to the last answer."""

    def __init__(self, args: argparse.Namespace, directory: Path) -> None:
        self._args = args
        self._began = time.monotonic()
        self.witness = Witness()
        self.replayer = Replayer(args.data, args.engines, args.rate, args.seed, self.witness)
        self.witness.moved = self.replayer.moved
        self._port = free_port()
        self._proxy = Proxy(self._port, self.witness)
        self._directory = directory
        self._broker = make_broker(directory, self._port, self.say)
        self.killed: list[float] = []  # when the broker was, monotonic seconds
        self.retained: dict[str, bytes] = {}
        self.daemon: Child
        self.faults: Faults

    def say(self, text: str) -> None:
        acknowledged, predicted = len(self.witness.acknowledged), len(self.witness.answers)
        print(f"{time.monotonic() - self._began:7.1f} s  {acknowledged:6d} {predicted:6d}  {text}", flush=True)

    async def run(self) -> list[Key]:
        """The whole run. Returns the readings that the daemon never acknowledged."""
        await self._proxy.start()
        self._broker.start()
        self.daemon = make_daemon(self._directory, self._proxy.port, self.say, self._args.sabotage)
        disk = Disk(self._directory / "state")
        if disk.problem:
            self.say(f"no full disk in this run: a tmpfs cannot be mounted here: {disk.problem}")
        self.faults = Faults(
            daemon=self.daemon,
            broker=self._broker,
            broker_data=self._directory / "broker" / "mosquitto.db",
            disk=disk,
            proxy=self._proxy,
            suspect=self._suspect,
            say=self.say,
        )
        self.daemon.start()
        own = [
            asyncio.ensure_future(self.daemon.watch()),
            asyncio.ensure_future(self._broker.watch()),
        ]
        try:
            await self._until(lambda: self.witness.listening, START, "the daemon does not subscribe")
            self.say(f"seed {self._args.seed}: the daemon listens; columns: acknowledged, predicted")
            # Only now: what is published before anybody has subscribed is nobody's.
            own.append(asyncio.ensure_future(self.replayer.serve(self._proxy.port)))
            own.append(asyncio.ensure_future(self.replayer.pace(self._idle, self.say)))
            plan = make_plan(self._args.seconds, self._args.seed)
            await self.faults.run(plan, self._args.seconds, self._args.seed)
            self.replayer.more = False
            self.say("no more faults, no more new readings")
            await self._settle()
            self.retained = await retained(self._port, "edge-rul/#")
            async with self.daemon.lock:
                await self.daemon.end(signal.SIGTERM)
            for task in own:
                if task.done():
                    task.result()  # a fault of the tool's own
        finally:
            for task in own:
                task.cancel()
            await asyncio.gather(*own, return_exceptions=True)
            await self._proxy.stop()
            self.daemon.close()
            self._broker.close()
            disk.close()
        return self.replayer.waits_for

    def _suspect(self) -> None:
        self.killed.append(time.monotonic())
        self.replayer.suspect()

    async def _until(self, done: Callable[[], bool], seconds: float, problem: str) -> bool:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                self.say(f"{problem} within {seconds:.0f} s; its log ends:\n{self.daemon.tail()}")
                return False
            await asyncio.sleep(0.05)
        return True

    def _idle(self) -> bool:
        """Whether nothing is on its way to the daemon: a frozen broker looks the same, and is not."""
        return not self._broker.frozen and not any(link.unacknowledged for link in self._proxy.of(DAEMON))

    async def _settle(self) -> None:
        """Until nothing is owed and nothing comes, however long it takes to answer what has come to wait."""

        def state() -> tuple[int, int]:
            return len(self.witness.acknowledged), self.witness.answered

        seen, since = state(), time.monotonic()
        while time.monotonic() - since < (SETTLE if self.replayer.busy else QUIET):
            await asyncio.sleep(0.05)
            if state() != seen:
                seen, since = state(), time.monotonic()
        if self.replayer.busy:
            self.say(f"not everything is acknowledged; the daemon's log ends:\n{self.daemon.tail()}")


def report(chaos: Chaos, verdict: Verdict, args: argparse.Namespace) -> dict[str, int]:
    """Print what is wrong, and return what is printed last."""
    for key in verdict.missing[:20]:
        print(f"missing: {key}")
    for key, found, right in verdict.wrong[:20]:
        print(f"wrong: {key}: answered {found}, offline {right}")
    for key in verdict.unstable[:20]:
        print(f"one revision, two answers: {key}: {chaos.witness.answers[key]}")
    for id_ in verdict.events_missing[:20]:
        print(f"event missing: {id_}")
    for id_ in verdict.events_wrong[:20]:
        print(f"event wrong: {id_}: {chaos.witness.events[id_]}")
    for topic, state in list(verdict.stale.items())[:20]:
        ages = [f"{at - chaos.witness.published.get(topic, 0.0):.1f}" for at in chaos.killed]
        print(f"retained: {topic}: {chaos.retained.get(topic)!r}, offline {state}")
        print(f"   last published retained {', '.join(ages)} s before a broker was killed")
    counts = chaos.faults.counts
    return {
        **{name: counts[name] for name in ("daemon_kills", "broker_stops", "broker_kills", "freezes", "cuts")},
        "acknowledged": len(chaos.witness.acknowledged),
        "predicted": verdict.predicted,
        "missing": len(verdict.missing),
        "wrong": len(verdict.wrong),
        "lost_by_broker": len(chaos.replayer.lost),
        "events": verdict.events,
        "events_missing": len(verdict.events_missing),
        "events_wrong": len(verdict.events_wrong),
        "retained_wrong": len(verdict.stale),
        **{name: counts[name] for name in ("daemon_stops", "delays", "disk_fills")},
        "daemon_exits": len(chaos.daemon.exits),
        "starts_refused": chaos.daemon.refused,
        "sessions_lost": chaos.witness.sessions_lost,
        "unstable": len(verdict.unstable),
        "seconds": args.seconds,
        "seed": args.seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Break everything around the daemon; nothing acknowledged is lost.")
    parser.add_argument("--data", type=Path, required=True, help="directory with the C-MAPSS files")
    parser.add_argument("--seconds", type=int, default=120, help="of faults; the end takes longer (default 120)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", type=int, default=40, help="of the 100 test engines (default 40)")
    parser.add_argument("--rate", type=float, default=80.0, help="readings/s, of all engines together (default 80)")
    parser.add_argument("--sabotage", choices=sorted(FAULTS), help="a fault in the daemon, on purpose")
    parser.add_argument("--keep", type=Path, help="directory for logs and state, kept (default: a temporary one)")
    args = parser.parse_args()
    if args.seconds < 1 or args.rate <= 0 or not 1 <= args.engines <= 100:
        parser.error("--seconds is at least 1, --rate above 0, --engines 1 to 100")
    with tempfile.TemporaryDirectory(prefix="edge-rul-chaos-", ignore_cleanup_errors=True) as scratch:
        directory = (args.keep or Path(scratch)).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        try:
            chaos = Chaos(args, directory)
        except FileNotFoundError as e:
            print(f"chaos: {e}", file=sys.stderr)
            return EXIT_USAGE
        never_taken = asyncio.run(chaos.run())
        chaos.say("all is quiet: comparing with an offline run, which may take minutes")
        verdict = judge(chaos.witness, never_taken, args.data, chaos.retained)
        result: dict[str, int] = report(chaos, verdict, args)
    print(json.dumps(result), flush=True)
    failed = any(result[name] for name in FAILURES) or not result["predicted"]
    return EXIT_FOUND if failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
