"""Values as a person reads them. Owns rounding, units and signs; knows no template and no request."""

from __future__ import annotations

from typing import Any

from edge_rul.core.alarm import State
from edge_rul.core.fleet import Alarm
from edge_rul.core.outgoing import iso
from edge_rul.core.prediction import Quality

_TIMES = range(10**11, 253_402_300_800_000)  # the years 1973 to 9999


def number(value: float) -> str:
    """Three digits are what a person reads."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def cycle(number: int | None) -> str:
    """Where readings have no numbers it is the epoch milliseconds of a time; no machine counts so far."""
    if number is None:
        return "\N{EN DASH}"
    return (iso(number) or "")[:19].replace("T", " ") if number in _TIMES else str(number)


def interval(low: float | None, high: float | None) -> str:
    """Nothing where there is none; without an upper end the RUL is known only from below."""
    if low is None:
        return ""
    return f"at least {number(low)}" if high is None else f"{number(low)} to {number(high)}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds) // 5 * 5:.0f} s"


def ago(seconds: float) -> str:
    return "now" if seconds < 10 else f"{span(seconds)} ago"


def trend(change: float | None) -> tuple[str, str]:
    """A sign, and the change in words."""
    if change is None:
        return "", ""
    if abs(change) < 0.5:
        return "→", "steady"
    return ("▼" if change < 0 else "▲"), f"{change:+.0f}".replace("-", "\N{MINUS SIGN}")


def about(alarm: Alarm, more: int) -> str:
    """What is to be known of the alarm on top. more: how many others are on."""
    said = [
        alarm.priority,
        "acknowledged" if alarm.acknowledged else "",
        "clearing" if alarm.state is State.CLEARING else "",
        f"+{more}" if more else "",
    ]
    return ", ".join(text for text in said if text)


def quietly(alarm: Alarm) -> str:
    """Of one that calls for nobody: its delay runs, or somebody shelved it."""
    if alarm.shelved_until is not None:
        return f"{alarm.name} shelved until cycle {cycle(alarm.shelved_until)}"
    return f"{alarm.name} {alarm.state.value}"


def quality(of: Quality) -> str:
    said = [
        f"{of.held} held" if of.held else "",
        f"{of.missing_cycles} missing" if of.missing_cycles else "",
        f"beyond training: {', '.join(of.outside)}" if of.outside else "",
        f"{of.unknown_condition} in no known condition" if of.unknown_condition else "",
        f"{of.unknown_change} of unknown change" if of.unknown_change else "",
    ]
    return "; ".join(text for text in said if text) or of.state


def facts(values: dict[str, Any]) -> list[tuple[str, str]]:
    def size(count: float) -> str:
        for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
            if abs(count) >= 1000**power:
                return f"{count / 1000**power:.1f} {unit}"
        return f"{count:.0f} B"

    growth = max(0.0, values["journal_rate"])  # it shrinks where old entries are deleted
    return [
        ("Broker", "connected" if values["connected"] else "not connected"),
        ("Running for", span(values["uptime"])),
        ("Assets", f"{values['assets']:,}, of them {values['stale_assets']:,} stale"),
        ("Alarms", f"{values['alarms_on']:,}, of them {values['alarms_acknowledged']:,} acknowledged"),
        ("Shelved alarms", f"{values['alarms_shelved']:,}"),
        ("Readings", f"{values['readings']:,}"),
        ("Predictions", f"{values['predictions']:,}, of them {values['revisions']:,} revisions"),
        ("Late readings", f"{values['late']:,}"),
        ("Cycles that never came", f"{values['gaps']:,}"),
        ("Windows begun anew behind a gap", f"{values['restarted']:,}"),
        ("Windows skipped", f"{values['skipped']:,}"),
        ("Waiting for the engine", f"{values['lag_entries']:,} entries, the oldest for {values['lag_seconds']:.1f} s"),
        ("Oldest unanswered", f"{values['oldest_unanswered']:.1f} s"),
        ("Waiting for the broker", f"{values['unpublished']:,} messages; {values['publish_refused']:,} were refused"),
        ("Journal", f"{size(values['journal_bytes'])}, {size(growth)} an hour"),
        ("Disk free", size(values["disk_free"])),
    ]
