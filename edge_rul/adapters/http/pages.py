"""The status page: the fleet by urgency, one asset, the daemon itself. It shows and commands nothing.

    GET /           the fleet; ?q, show, health, sort, desc, page
    GET /asset      one asset; ?name
    GET /daemon     the daemon
    GET /static/..  style sheet and script

Owns the queries and what the templates are given. The part of a page that changes is a template of its own: it is sent
inside the page, and again by itself to who watches. What came in by MQTT is escaped, by the templates or in `chart`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlencode

import bottle
import msgspec

from edge_rul.adapters.http import chart, words
from edge_rul.adapters.http.metrics import Metrics
from edge_rul.adapters.http.source import Source
from edge_rul.core.fleet import TREND_CYCLES, Query, Record, Show, Sort
from edge_rul.core.outgoing import iso
from edge_rul.core.trace import Point

_HERE = Path(__file__).parent
_TEMPLATES = str(_HERE / "templates")
_STATIC = str(_HERE / "static")
_DESCENDING = ("health", "quality", "cycle", "seen")  # columns whose first click shows the greatest first
_HEADINGS: dict[Sort, str] = {
    "asset": "Asset",
    "health": "Health",
    "rul": "RUL",
    "trend": "Trend",
    "urgency": "Alarm",
    "quality": "Quality",
    "cycle": "Cycle",
    "seen": "Last seen",
}
_SHOWS: dict[Show, str] = {
    "all": "All",
    "alarm": "In alarm",
    "shelved": "Shelved",
    "uncertain": "Uncertain",
    "waiting": "Waiting",
    "stale": "Stale",
}
_SYMBOLS = "●◆▲"  # of a health class, from the first to the last: told apart without colour


class ShownInput(msgspec.Struct, frozen=True):
    """An input of the bundle. low, high: its training range."""

    name: str
    unit: str
    description: str
    low: float
    high: float


class Catalogue(msgspec.Struct, frozen=True):
    """What is the same for all assets. limits: name and RUL of each alarm on RUL. max_rul: the scale of the charts."""

    unit: str
    max_rul: float
    window: int
    classes: tuple[str, ...]
    inputs: tuple[ShownInput, ...]
    limits: tuple[tuple[str, float], ...]


class Pages:
    """The pages' routes. ready: why the daemon answers nothing now, or "". refused: why it refused the last reload."""

    def __init__(
        self,
        source: Source,
        metrics: Metrics,
        catalogue: Catalogue,
        *,
        ready: Callable[[], str],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._metrics = metrics
        self.catalogue = catalogue
        self._ready = ready
        self._wall = wall
        self.refused = ""
        self._templates = {
            name: bottle.SimpleTemplate(name=f"{name}.tpl", lookup=[_TEMPLATES])
            for name in ("page", "fleet", "asset", "daemon", "missing")
        }

    def install(self, app: Any) -> None:
        app.route("/", callback=lambda: self._page("fleet"))
        app.route("/asset", callback=lambda: self._page("asset"))
        app.route("/daemon", callback=lambda: self._page("daemon"))
        app.route("/static/<name>", callback=lambda name: bottle.static_file(name, root=_STATIC))

    def live(self, page: str) -> Callable[[], str]:
        """What renders the live part of a page for the request at hand. Raises bottle.HTTPError where there is none."""
        render = self._live_part(page)
        render()  # an asset that is not there is told now, and not in the stream
        return lambda: render()[1]

    def wait(self, version: int, timeout: float) -> int:
        """Until there is something newer to show than `version`, or for `timeout` seconds. Returns the version."""
        return self._source.wait(version, timeout)

    def _page(self, name: str) -> str:
        try:
            title, live = self._live_part(name)()
        except bottle.HTTPError as e:  # the asset was never there, or was removed: a person still wants a way back
            bottle.response.status = e.status
            title, live = "Not found", self._templates["missing"].render(daemon=[e.body, *self._notes()])
        bottle.response.set_header("Cache-Control", "no-store")
        text: str = self._templates["page"].render(
            title=title,
            live=live,
            name=name,
            source=f"/live/{name}?{bottle.request.query_string}",
            query=_query() if name == "fleet" else None,
            classes=self.catalogue.classes,
        )
        return text

    def _live_part(self, name: str) -> Callable[[], tuple[str, str]]:
        """What renders title and text of the page, for the request's query; it may be called after the request."""
        if name == "fleet":
            query = _query()
            return lambda: self._fleet(query)
        if name == "asset":
            asset = bottle.request.query.getunicode("name") or ""
            return lambda: self._asset(asset)
        if name == "daemon":
            return self._daemon
        raise bottle.HTTPError(404, "there is no such page")

    def _fleet(self, query: Query) -> tuple[str, str]:
        now = self._wall()
        with self._source.fleet() as fleet:
            listing = fleet.select(query)
            rows = [self._row(record, now) for record in listing.records]
            heard = len(fleet)
        columns = []
        for key, heading in _HEADINGS.items():
            sorted_by = query.sort == key
            reverse = not query.reverse if sorted_by else key in _DESCENDING
            direction = ("descending" if query.reverse else "ascending") if sorted_by else None
            columns.append((key, heading, direction, _link(query, sort=key, reverse=reverse, page=1)))
        live = self._templates["fleet"].render(
            rows=rows,
            heard=heard,
            columns=columns,
            shows=[
                (label, listing.counts[show], show == query.show, _link(query, show=show, page=1))
                for show, label in _SHOWS.items()
            ],
            matches=listing.matches,
            page=listing.page,
            pages=listing.pages,
            first=(listing.page - 1) * query.size + 1,
            previous=_link(query, page=listing.page - 1) if listing.page > 1 else None,
            following=_link(query, page=listing.page + 1) if listing.page < listing.pages else None,
            unit=self.catalogue.unit,
            trend_cycles=TREND_CYCLES,
            daemon=self._notes(),
        )
        return "Fleet", live

    def _asset(self, name: str) -> tuple[str, str]:
        now = self._wall()
        with self._source.fleet() as fleet:
            record = fleet.find(name)
            if record is None:
                raise bottle.HTTPError(404, f"no asset called {name!r} was heard of")
            row = self._row(record, now)
            points = record.trace.points()
            values = record.values
            alarms = list(record.alarms)
        inputs = self.catalogue.inputs
        live = self._templates["asset"].render(
            row=row,
            levels=record.asset.levels,
            alarms=alarms,
            unit=self.catalogue.unit,
            window=self.catalogue.window,
            chart=chart.history(points, self.catalogue.max_rul, self.catalogue.unit, self.catalogue.limits),
            shown=words.cycle,
            points=[(p, words.interval(*_bounds(p))) for p in points[:-13:-1]],
            sensors=[_sensor(i, v) for i, v in zip(inputs, values, strict=False)],
            daemon=self._notes(),
        )
        return name, live

    def _daemon(self) -> tuple[str, str]:
        statistics = self._metrics.statistics
        facts = [] if statistics is None else words.facts(msgspec.structs.asdict(statistics))
        live = self._templates["daemon"].render(
            info=self._metrics.info.items(),
            facts=facts,
            dropped=sorted(statistics.dropped.items(), key=lambda item: -item[1]) if statistics else [],
            starts=self._metrics.starts,
            lost=self._source.dropped,
            refused=self.refused,
            daemon=self._notes(),
        )
        return "Daemon", live

    def _notes(self) -> list[str]:
        """What is wrong with the daemon itself, in words."""
        notes = [f"alarm of the daemon: {name}" for name, (on, _) in sorted(self._source.daemon_alarms.items()) if on]
        return [problem, *notes] if (problem := self._ready()) else notes

    def _row(self, record: Record, now: float) -> dict[str, Any]:
        """What the templates say of an asset."""
        row: dict[str, Any] = {
            "name": record.name,
            "link": f"/asset?{urlencode({'name': record.name})}",
            "cycle": words.cycle(record.cycle),
            "seen": words.ago(now - record.seen) if record.seen else "before the start",
            "seen_at": iso(round(record.seen * 1000)) if record.seen else "",
            "event_at": iso(record.time),
            "stale": record.stale,
            "alarm": record.top,
            "about": words.about(record.top, sum(a.on for a in record.alarms) - 1) if record.top else "",
            "quietly": ", ".join(words.quietly(a) for a in record.alarms if not a.on),
            "answer": record.answer,
        }
        answer = record.answer
        if answer is None:
            return row
        newest = record.trace.tail(chart.SPARK_POINTS)
        names = self.catalogue.classes
        place = names.index(answer.health.name) if answer.health.name in names else 0
        level = 0 if place == 0 else 2 if place == len(names) - 1 else 1
        row |= {
            "rul": words.number(answer.rul),
            "interval": words.interval(answer.low, answer.high),
            "reliable": answer.reliable,
            "health": answer.health.name,
            "symbol": _SYMBOLS[level],
            "level": level,
            "probability": words.percent(answer.health.probabilities[answer.health.name]),
            "probabilities": [f"{name} {words.percent(p)}" for name, p in answer.health.probabilities.items()],
            "trend": words.trend(record.trend),
            "spark": chart.sparkline([p for p in newest if p.life == newest[-1].life], self.catalogue.max_rul),
            "quality": words.quality(answer.quality),
            "uncertain": answer.quality.state == "uncertain",
            "behind": answer.cycle != record.cycle,
        }
        return row


def _query() -> Query:
    """Of the request. What cannot be understood is as if it were not there."""
    asked = bottle.request.query
    show, sort = asked.get("show", "all"), asked.get("sort", "urgency")
    return Query(
        text=(asked.getunicode("q") or "").strip()[:200],
        show=show if show in get_args(Show) else "all",
        health=(asked.getunicode("health") or "")[:200],
        sort=sort if sort in get_args(Sort) else "urgency",
        reverse=asked.get("desc", "") == "1",
        page=_whole(asked.get("page", ""), 1, 10**6),
        size=_whole(asked.get("size", ""), 50, 200),
    )


def _whole(text: str, default: int, most: int) -> int:
    return min(most, max(1, int(text))) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _link(query: Query, **changes: Any) -> str:
    query = msgspec.structs.replace(query, **changes)
    fields = {
        "q": query.text,
        "show": query.show if query.show != "all" else "",
        "health": query.health,
        "sort": query.sort if query.sort != "urgency" else "",
        "desc": "1" if query.reverse else "",
        "page": query.page if query.page > 1 else "",
        "size": query.size if query.size != Query().size else "",
    }
    return "/?" + urlencode({key: value for key, value in fields.items() if value})


def _bounds(point: Point) -> tuple[float | None, float | None]:
    return None if math.isnan(point.low) else point.low, None if math.isnan(point.high) else point.high


def _sensor(shown: ShownInput, value: float) -> dict[str, Any]:
    missing = math.isnan(value)
    place = "missing" if missing else "below" if value < shown.low else "above" if value > shown.high else "within"
    width = (shown.high - shown.low) or abs(shown.high) or 1.0
    scale = (shown.low - width / 4, shown.high + width / 4)
    return {
        "name": shown.name,
        "description": shown.description,
        "unit": shown.unit,
        "value": "missing" if missing else f"{value:.6g}",
        "range": f"{shown.low:.6g} to {shown.high:.6g}",
        "place": place,
        "bar": "" if missing else chart.bar(shown.low, shown.high, value, scale),
    }
