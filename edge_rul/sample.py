"""One message of each topic of readings, and how the daemon would read it.

Owns the words for it. Must not know a client or a terminal; what a payload means is the decoder's to say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from edge_rul.core.outgoing import iso
from edge_rul.core.payload import Decoder, Part, Reading
from edge_rul.core.topic import Template

_SILENCE = (
    "is no machine running, or is a right to read missing? Mosquitto's acl_file then says nothing, and sends nothing"
)


class Visit(Protocol):
    """What is needed of a visit to the broker; `mqtt_visit` documents each."""

    def subscribe(self, filters: list[str], qos: int = 1) -> dict[str, str]: ...
    def listen(self, seconds: float) -> Iterator[Any]: ...


class Sample(msgspec.Struct, frozen=True):
    """template: of topics.readings. said: what came on it, in words. good: whether the daemon could use it."""

    template: str
    said: str
    good: bool


def sample(visit: Visit, templates: Sequence[str], decoder: Decoder, seconds: float) -> list[Sample]:
    """Listens until each topic has spoken, for `seconds` at most. Raises TransportError."""
    waiting = {text: Template(text) for text in templates}
    refused = visit.subscribe([template.filter for template in waiting.values()])
    found = []
    for text, template in list(waiting.items()):
        if (why := refused.get(template.filter)) is not None:
            found.append(Sample(text, f"the broker lets us not read it: {why}", False))
            del waiting[text]
    for heard in visit.listen(seconds) if waiting else ():
        spoke = [text for text, template in waiting.items() if template.match(heard.topic) is not None]
        for text in spoke:
            found.append(Sample(text, *_read(heard, decoder)))
            del waiting[text]
        if not waiting:
            break
    # A quiet plant is no mistake: machines send when they run.
    silence = f"nothing came within {seconds:g} s\n{_SILENCE}"
    return found + [Sample(text, silence, True) for text in waiting]


def _read(heard: Any, decoder: Decoder) -> tuple[str, bool]:
    decoded = decoder.decode(heard.topic, heard.payload, round(time.time() * 1000), qos=heard.qos)
    how = f"{heard.topic}, QoS {heard.qos}{', retained' if heard.retain else ''}"
    said = [f"{how}: {len(decoded.entries)} of {len(decoded.entries) + len(decoded.rejected)} readings can be used"]
    for entry in decoded.entries[:1]:
        if isinstance(entry, Reading):
            missing = int(np.isnan(entry.values).sum())
            held = f", {missing} of {len(entry.values)} inputs are held" if missing else ""
            known = f"cycle {entry.cycle}" if entry.key == "cycle" else f"known by its {entry.key}"
            said.append(f"asset {entry.asset}, {known}, {iso(entry.time) or 'no event time'}{held}")
        elif isinstance(entry, Part):
            said.append(f"one sensor of asset {entry.asset}, {decoder.describe(entry).decode()}")
    said += [f"{bad.reason.value}: {bad.problem}" for bad in decoded.rejected[:1]]
    if heard.qos == 0:
        said.append("at QoS 0 it can be lost on the way without a trace: let the sender take QoS 1")
    return "\n".join(said), not decoded.rejected
