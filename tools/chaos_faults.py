"""What is done to daemon, broker and network in a chaos run, and when.

Owns the plan, which the seed decides, and doing it: each fault at its time, several at once where they fall together,
one at a time to each process. Must not know whether it does harm.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chaos_processes import Child, Disk
from chaos_witness import DAEMON, REPLAYER
from mqtt_proxy import Proxy

# What happens in each minute, in an order of the seed's.
MINUTE = {
    "kill the daemon": 5,
    "kill the delayed daemon": 1,  # while acknowledgements are under way in both directions
    "kill both": 1,  # a power cut: what the broker forgets and what the daemon had not committed go together
    "stop the daemon": 1,
    "stop the broker": 2,
    "kill the broker": 1,
    "freeze the daemon": 1,
    "freeze the broker": 1,
    "cut": 3,
    "delay": 2,
    "fill the disk": 1,
}


class Fault(NamedTuple):
    """at: seconds after the start. first, second: its own draws from 0 to 1."""

    at: float
    name: str
    first: float
    second: float

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.first


def make_plan(seconds: float, seed: int) -> list[Fault]:
    """Every minute's faults, spread over it; a part of a minute has its part of them."""
    rng = random.Random(seed)
    names: list[str] = []
    size = sum(MINUTE.values())
    while len(names) < seconds / 60 * size:
        deck = [name for name, count in MINUTE.items() for _ in range(count)]
        rng.shuffle(deck)
        names += deck
    step = 60 / size
    return [
        Fault((i + rng.uniform(0.1, 0.9)) * step, name, rng.random(), rng.random())
        for i, name in enumerate(names)
        if (i + 1) * step <= seconds
    ]


class Faults:
    """Done so far: `counts`. suspect: called when a broker is being killed, which may forget what it acknowledged."""

    def __init__(
        self,
        *,
        daemon: Child,
        broker: Child,
        broker_data: Path,
        disk: Disk,
        proxy: Proxy,
        suspect: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._daemon, self._broker, self._broker_data = daemon, broker, broker_data
        self._disk, self._proxy, self._suspect, self._say = disk, proxy, suspect, say

    async def run(self, plan: list[Fault], seconds: float, seed: int) -> None:
        """Do the plan, which may take longer than `seconds` where one fault has to wait for another."""
        began = time.monotonic()
        under_way: list[asyncio.Future[None]] = []
        for number, fault in enumerate(plan):
            if fault.name == "fill the disk" and self._disk.problem:
                continue
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            under_way.append(asyncio.ensure_future(self._do(fault, f"fault {number} of seed {seed}")))
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        await asyncio.gather(*under_way)

    async def _do(self, fault: Fault, which: str) -> None:
        verb, _, target = fault.name.partition(" ")
        child = self._daemon if target.endswith("daemon") else self._broker
        down = fault.between(0, 3)
        match verb, target:
            case "kill", "both":
                async with self._broker.lock, self._daemon.lock:
                    self._say(f"SIGKILL to daemon and broker, back after {down:.1f} s  ({which})")
                    self._suspect()
                    await asyncio.gather(self._broker.end(signal.SIGKILL), self._daemon.end(signal.SIGKILL))
                    await asyncio.sleep(down)
                    self._broker.start()
                    self._daemon.start()
                self.counts.update(("daemon_kills", "broker_kills"))
            case (("kill" | "stop"), _):
                number = signal.SIGKILL if verb == "kill" else signal.SIGTERM
                async with child.lock:
                    forget = verb == "kill" and child is self._broker and fault.second < 0.3
                    also = ", its data gone" if forget else ""
                    self._say(f"{number.name} to {target}{also}, back after {down:.1f} s  ({which})")
                    if verb == "kill" and child is self._broker:
                        self._suspect()
                    if "delayed" in target:
                        for link in self._proxy.of(DAEMON):
                            link.delay = fault.between(0.1, 0.6)
                        await asyncio.sleep(0.5 + fault.second)
                    await child.end(number)
                    if forget:
                        self._broker_data.unlink(missing_ok=True)
                    await asyncio.sleep(down)
                    child.start()
                self.counts[f"{child.name}_{verb}s"] += 1
            case "freeze", _:
                seconds = fault.between(0.5, 9)
                async with child.lock:
                    self._say(f"freeze the {child.name} for {seconds:.1f} s  ({which})")
                    await child.freeze(seconds)
                self.counts["freezes"] += 1
            case "cut", _:
                self._cut(fault, which)
            case "delay", _:
                await self._delay(fault, which)
            case _:
                await self._fill(fault, which)

    def _victims(self, fault: Fault) -> list[str]:
        return [DAEMON] if fault.second < 0.5 else [REPLAYER] if fault.second < 0.75 else [DAEMON, REPLAYER]

    def _cut(self, fault: Fault, which: str) -> None:
        torn = fault.first < 0.5
        clients = self._victims(fault)
        self._say(f"cut {' and '.join(clients)}{', in the middle of a packet' if torn else ''}  ({which})")
        for client in clients:
            for link in self._proxy.of(client):
                link.cut(torn=torn)
        self.counts["cuts"] += 1

    async def _delay(self, fault: Fault, which: str) -> None:
        delay, seconds = fault.between(0.02, 0.6), 1 + 4 * fault.second
        clients = self._victims(fault)
        self._say(f"delay {' and '.join(clients)} by {delay:.2f} s, for {seconds:.1f} s  ({which})")
        links = [link for client in clients for link in self._proxy.of(client)]
        for link in links:
            link.delay = delay
        await asyncio.sleep(seconds)
        for link in links:
            link.delay = 0.0
        self.counts["delays"] += 1

    async def _fill(self, fault: Fault, which: str) -> None:
        full, seconds = fault.second < 0.5, fault.between(2, 7)
        self._say(f"fill the disk {'to the last byte' if full else 'below min_free'} for {seconds:.1f} s  ({which})")
        self._daemon.may_refuse = full
        self._disk.fill(to_the_last_byte=full)
        await asyncio.sleep(seconds)
        self._disk.clear()
        await asyncio.sleep(1.0)  # what failed a moment ago may still be on its way out
        self._daemon.may_refuse = False
        self.counts["disk_fills"] += 1
