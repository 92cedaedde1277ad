"""The demo's live table: what the broker's messages say about a fleet, and how it looks.

Owns the fleet's state as a listener sees it, and its picture. Data in, picture out: messages and times are given to
it. Must not know processes, sockets or the clock.
"""

from __future__ import annotations

import io
import re
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_rul.bundle import Manifest
from edge_rul.config import Topics
from edge_rul.core.topic import Template

BLOCKS = "▁▂▃▄▅▆▇█"
STEP = 3  # cycles of one block of the trend
RECENT = 5.0  # seconds that rates and delays look back
ROWS = 16  # of a page without a height
EVENTS = 6
PRIORITIES = ("low", "medium", "high", "urgent")
STYLES = {"good": "green", "middle": "yellow", "bad": "bold red"}


def as_svg(picture: RenderableType, width: int, title: str) -> str:
    """A picture for a page: text, its colours and a window around it, and nothing that is fetched from elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(picture, "")
    svg = console.export_svg(title=title, unique_id="edge-rul")
    # rich names a web font; and some renderers drop the spaces that a cell starts with unless they are told.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return svg.replace("<text ", '<text xml:space="preserve" ')


def sparkline(values: Sequence[float], width: int, top: float) -> str:
    """The last `width` values as blocks, on a scale from 0 to `top`: the same height is the same value everywhere."""
    steps = (int(value / top * len(BLOCKS)) for value in values[-width:])
    return "".join(BLOCKS[min(max(step, 0), len(BLOCKS) - 1)] for step in steps)


class Engine:
    """One asset, as far as its messages tell."""

    def __init__(self, name: str, levels: dict[str, str]) -> None:
        self.name = name
        self.line = levels.get("line", "")
        self.cycle = 0  # of the newest reading
        self.overhauls = 0
        self.alarms: dict[str, tuple[str, str]] = {}  # alarm -> state, priority
        self.new_life()

    def new_life(self) -> None:
        self.readings = 0  # since the life began, or since we listen
        self.rul: float | None = None
        self.interval = ""
        self.predicted = 0  # cycle of the newest prediction
        self.health = ""
        self.probability = 0.0
        self.trend: list[float] = []

    @property
    def urgency(self) -> tuple[bool, float, str]:
        """Sort key: the least RUL first, engines without one last."""
        return (self.rul is None, self.rul or 0.0, self.name)


class Board:
    """The fleet's state. `apply` takes messages as they come, `render` draws.

    title: what kind of engines these are. ends: for real engines, their last recorded cycle and the cycle at which
    they failed, by asset; then the table shows the true RUL too.
    """

    def __init__(
        self,
        title: str,
        topics: Topics,
        manifest: Manifest,
        ends: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.title = title
        self.window, self.top, self.unit = manifest.window, manifest.rul.max, manifest.rul.unit
        self.bundle, self.model = manifest.name, ""
        self.level: float | None = None  # of the intervals; None until a prediction has one
        self.ends = ends or {}
        names = [c.name for c in manifest.classes]
        self._longest = max(map(len, names))
        self._styles = dict.fromkeys(names, STYLES["middle"]) | {names[0]: STYLES["good"], names[-1]: STYLES["bad"]}
        self._routes = [(Template(text), self._on_reading) for text in topics.readings]
        self._routes += [
            (Template(topics.prediction), self._on_prediction),
            (Template(topics.alarm), self._on_alarm),
            (Template(topics.alarm_event), self._on_event),
        ]
        self._availability = topics.availability
        self.daemon = "not seen yet"
        self.engines: dict[tuple[str, str], Engine] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._waiting: dict[tuple[str, str, int], float] = {}  # readings without an answer -> when they were seen
        self._came: deque[float] = deque()  # times of recent readings
        self._answered: deque[tuple[float, float | None]] = deque()  # times and delays of recent predictions

    @property
    def filters(self) -> list[str]:
        """The MQTT filters to listen to."""
        return [*(template.filter for template, _ in self._routes), self._availability]

    def apply(self, topic: str, payload: bytes, now: float) -> None:
        """Take one message. now: monotonic seconds at its arrival. What is not understood is left aside."""
        if topic == self._availability:
            self.daemon = payload.decode("utf-8", "replace")
            return
        for template, take in self._routes:
            if (levels := template.match(topic)) is not None:
                try:
                    take(levels, msgspec.json.decode(payload), now)
                except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                    return  # the daemon judges readings; a listener only has to survive them
                return

    def _engine(self, levels: dict[str, str]) -> Engine:
        key = (levels.get("line", ""), levels["asset"])
        return self.engines.setdefault(key, Engine(levels["asset"], levels))

    def _on_reading(self, levels: dict[str, str], body: dict[str, Any], now: float) -> None:
        engine, cycle = self._engine(levels), int(body["cycle"])
        if cycle < engine.cycle:
            engine.new_life()
            engine.overhauls += 1
        engine.cycle = cycle
        engine.readings += 1
        self._waiting[engine.line, engine.name, cycle] = now
        self._came.append(now)

    def _on_prediction(self, levels: dict[str, str], body: dict[str, Any], now: float) -> None:
        engine, cycle = self._engine(levels), int(body["cycle"])
        seen = self._waiting.pop((engine.line, engine.name, cycle), None)
        self._answered.append((now, None if seen is None else now - seen))
        if 0 < engine.cycle < cycle:
            return  # of the life before: the overhauled engine's first readings have overtaken it
        engine.rul, engine.predicted = float(body["rul"]), cycle
        if "interval" in body:
            low, high = float(body["rul_low"]), body["rul_high"]
            self.level = float(body["interval"]["level"])
            engine.interval = f"≥ {low:.0f}" if high is None else f"{low:.0f} to {high:.0f}"
            engine.interval += "" if body["interval"]["reliable"] else " ?"
        engine.health = str(body["health"]["class"])
        engine.probability = float(body["health"]["probabilities"][engine.health])
        engine.trend.append(engine.rul)
        self.model = f"{body['engine']['name']} {body['engine']['precision']}"

    def _on_alarm(self, levels: dict[str, str], body: dict[str, Any], now: float) -> None:
        self._engine(levels).alarms[str(body["alarm"])] = (str(body["state"]), str(body["priority"]))

    def _on_event(self, levels: dict[str, str], body: dict[str, Any], now: float) -> None:
        self.events.append({key: body[key] for key in ("asset", "alarm", "event", "priority", "cycle", "value")})

    def _forget(self, now: float) -> None:
        while self._came and self._came[0] < now - RECENT:
            self._came.popleft()
        while self._answered and self._answered[0][0] < now - RECENT:
            self._answered.popleft()
        # Readings of a window that is not full yet are never answered: drop them, or they pile up.
        self._waiting = {key: seen for key, seen in self._waiting.items() if seen > now - 10 * RECENT}

    def finished(self) -> bool:
        """True when every real engine has its prediction at its last recorded cycle."""
        last = {e.name: e.predicted for e in self.engines.values()}
        return bool(self.ends) and all(last.get(name, 0) == end for name, (end, _) in self.ends.items())

    def rmse(self) -> float:
        """Of the newest predictions against the true RUL, capped as in training. Real engines only."""
        errors = [
            e.rul - min(self.ends[e.name][1] - e.predicted, self.top)
            for e in self.engines.values()
            if e.rul is not None and e.name in self.ends
        ]
        return statistics.fmean(error**2 for error in errors) ** 0.5 if errors else float("nan")

    def render(self, width: int, height: int | None, now: float, footer: str = "") -> RenderableType:
        """The picture: `width` columns, at most `height` lines; None is a page of its own. now: monotonic seconds."""
        self._forget(now)
        engines = sorted(self.engines.values(), key=lambda e: e.urgency)
        head: list[RenderableType] = [self._head(now)]  # 2 lines
        if self.finished():
            result = f"every engine stands at its last recorded cycle: RMSE {self.rmse():.2f} {self.unit}"
            head.append(Text(f"{result}, true RUL capped at {self.top:g}", style="bold cyan", no_wrap=True))
        room = ROWS + EVENTS + 1  # lines for engines and events
        if height is not None:
            room = height - len(head) - 8  # all but engines and events
        shown = engines[: max(1, min(ROWS, room), room - EVENTS - 1)]
        parts = [*head, "", self._table(shown, width)]
        if rest := engines[len(shown) :]:
            parts.append(self._rest(rest))
        if self.events and (left := min(EVENTS, room - len(shown) - 1)) > 0:
            parts += ["", self._event_lines(left)]
        if footer:
            parts += ["", Text(footer, style="dim", no_wrap=True, overflow="ellipsis")]
        return Group(*parts)

    def _head(self, now: float) -> Table:
        delays = [delay for _, delay in self._answered if delay is not None]
        delay = f", {_duration(statistics.median(delays))} later (median)" if delays else ""
        incoming, outgoing = len(self._came) / RECENT, len(self._answered) / RECENT
        up = self.daemon == "online"
        first = Table.grid(expand=True, padding=(0, 1))
        first.add_column(no_wrap=True)
        first.add_column(justify="right", no_wrap=True)
        first.add_row(
            Text.assemble(("edge_rul  ", "bold cyan"), (self.title, "bold")),
            Text.assemble("daemon ", ("● ", "green" if up else "red"), (self.daemon, "green" if up else "bold red")),
        )
        first.add_row(
            f"{incoming:.0f} readings/s in, {outgoing:.0f} predictions/s out{delay}",
            Text(f"{self.bundle} on {self.model}" if self.model else self.bundle, style="dim"),
        )
        return first

    def _table(self, engines: list[Engine], width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        others = 72 + (6 if self.ends else 0) + (10 if self.level else 0)
        trend = min(60, width - others)  # what the other columns leave
        trend = trend if trend >= 14 else 0
        table.add_column("asset", no_wrap=True)
        table.add_column("line", no_wrap=True)
        table.add_column("cycle", justify="right", no_wrap=True)
        table.add_column(f"RUL\n{self.unit}", justify="right", no_wrap=True)
        if self.level:
            table.add_column(f"{self.level:.0%}\ninterval", justify="right", no_wrap=True, style="dim")
        if self.ends:
            table.add_column("true\nRUL", justify="right", no_wrap=True, style="dim")
        table.add_column("health", no_wrap=True)
        if trend:
            table.add_column(f"RUL over the\nlast {trend * STEP} cycles", no_wrap=True, width=trend)
        table.add_column("alarm", no_wrap=True, min_width=18)
        for engine in engines:
            table.add_row(*self._cells(engine, trend))
        return table

    def _cells(self, engine: Engine, trend: int) -> list[RenderableType]:
        style = self._styles.get(engine.health, "")
        if engine.rul is None:
            rul, health = Text("-", style="dim"), Text(f"warming up {engine.readings}/{self.window}", style="dim")
        else:
            rul = Text(f"{engine.rul:.1f}", style=style)
            health = Text(f"● {engine.health:{self._longest}} {engine.probability:4.0%}", style=style)
        cycle = engine.cycle or engine.predicted
        cells: list[RenderableType] = [Text(engine.name), Text(engine.line), str(cycle), rul]
        if self.level:
            cells.append("" if engine.rul is None else engine.interval)
        if self.ends:
            end = self.ends.get(engine.name)
            cells.append(str(end[1] - (engine.predicted or cycle)) if end else "")
        cells.append(health)
        if trend:
            cells.append(self._trend(engine, trend, style))
        return [*cells, _alarm(engine)]

    def _trend(self, engine: Engine, width: int, style: str) -> Text:
        if engine.rul is None and engine.overhauls:
            return Text("overhauled", style="dim italic")
        means = [statistics.fmean(engine.trend[i : i + STEP]) for i in range(0, len(engine.trend), STEP)]
        if engine.name in self.ends and self.ends[engine.name][0] == engine.predicted:
            return Text.assemble((sparkline(means, width - 4, self.top), style), (" end", "dim"))
        return Text(sparkline(means, width, self.top), style=style)

    def _rest(self, engines: list[Engine]) -> Text:
        ruls = [e.rul for e in engines if e.rul is not None]
        span = f", RUL {min(ruls):.0f} to {max(ruls):.0f} {self.unit}" if ruls else ""
        warming = len(engines) - len(ruls)
        tail = f", {warming} of them warming up" if warming else ""
        return Text(f"and {len(engines)} more, less urgent{span}{tail}", style="dim")

    def _event_lines(self, count: int) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for event in list(self.events)[-count:]:
            raised = event["event"] == "raised"
            grid.add_row(
                Text("▲ raised" if raised else "▽ cleared", style="red" if raised else "green"),
                Text(str(event["asset"])),
                Text(f"{event['alarm']}, {event['priority']}"),
                Text(f"at cycle {event['cycle']}, value {event['value']:.3g}", style="dim"),
            )
        return grid


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _alarm(engine: Engine) -> Text:
    """The most important alarm that is on, how many others there are, or one that is about to be raised."""
    ranked = sorted(
        ((state, priority, name) for name, (state, priority) in engine.alarms.items() if state != "normal"),
        key=lambda a: (a[0] != "raising", PRIORITIES.index(a[1]) if a[1] in PRIORITIES else -1),
        reverse=True,
    )
    if not ranked:
        return Text("")
    state, priority, name = ranked[0]
    more = f" +{len(ranked) - 1}" if len(ranked) > 1 else ""
    if state == "raising":
        return Text(f"{name} ...{more}", style="dim")
    style = "bold white on red" if priority in PRIORITIES[2:] else "bold yellow"
    return Text.assemble((name, style), (more, "red"))
