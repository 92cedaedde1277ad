"""The broker: what it grants, what it would drop, and who may come in; and the daemon as it is heard there.

Owns what is looked at here and the words for it. Must not know a client; what it is given was asked by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edge_rul.config import Mqtt
from edge_rul.doctor import Finding, bad, note, ok
from edge_rul.told import Told

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SMALL = 16 * 1024  # bytes; a prediction with many classes and inputs stays below
_MOSQUITTO = "configs/mosquitto.conf has what Mosquitto needs"


class Probe(msgspec.Struct, frozen=True):
    """What became of messages that were published while their subscriber was away.

    sent, kept: how many, and how many it found when it came back. in_flight: how many the broker sent before it waited
    for an acknowledgement.
    """

    sent: int
    kept: int
    in_flight: int


def access(settings: Mqtt) -> Iterator[Finding]:
    """Who may come in, and who may listen on the way."""
    if settings.username is None and (settings.tls is None or settings.tls.cert is None):
        hint = "give users, rights (configs/mosquitto-acl.conf) and mqtt.username"
        yield note(
            "users", "we came in without a name: whoever reaches the broker can forge readings and reset assets", hint
        )
    else:
        yield ok("users", f"we are {settings.username or 'known by our certificate'}")
    if settings.tls is not None and not settings.tls.check_hostname:
        hint = "set mqtt.host to a name in the certificate, and leave out check_hostname"
        yield note("TLS", "the broker's name is not checked: any certificate of the authority is taken", hint)
    elif settings.tls is not None:
        yield ok("TLS", f"{settings.tls.min_version} at least, the broker's name is checked")
    elif settings.host in _LOOPBACK:
        yield ok("TLS", "none, on this machine")
    else:
        yield note("TLS", "none: readings, and the password, can be read on the way", "set mqtt.tls and port 8883")


def limits(told: Mapping[str, Any], settings: Mqtt) -> Iterator[Finding]:
    """What an MQTT 5 broker said of itself. told: by MQTT's names; what is not in it is not limited."""
    if settings.version != 5:
        hint = "mqtt.version: 5, where the broker speaks it"
        yield note("limits", "MQTT 3.1.1 tells none; acknowledgements are owed in small numbers", hint)
        return
    if told.get("MaximumQoS", 2) < 1:
        yield bad("limits", "the broker speaks QoS 0 only: whatever is lost on the way is lost", "another broker")
    for name, what in (("RetainAvailable", "retained messages"), ("WildcardSubscriptionAvailable", "wildcards")):
        if told.get(name, 1) == 0:
            yield bad(
                "limits", f"the broker has no {what}, which the daemon's topics need", "allow them, or another broker"
            )
    expiry = told.get("SessionExpiryInterval", settings.session_expiry)
    if expiry < settings.session_expiry:
        hint = (
            "readings of a longer outage are lost; raise the broker's limit, or lower mqtt.session_expiry to know of it"
        )
        yield bad("session", f"kept for {expiry} s, where mqtt.session_expiry asks for {settings.session_expiry}", hint)
    else:
        yield ok("session", f"kept for {expiry} s while the daemon is away")
    if (most := told.get("MaximumPacketSize", _SMALL)) < _SMALL:
        yield bad("limits", f"the broker takes no message above {most} bytes", f"allow {_SMALL}")
    if (most := told.get("ReceiveMaximum", 65535)) <= settings.in_flight:
        hint = "no harm but in a rush: the broker's receive maximum bounds how fast answers go out"
        yield note("limits", f"the broker takes {most} unacknowledged messages from us, mqtt.in_flight is more", hint)
    else:
        yield ok("limits", f"{most} unacknowledged messages from us")


def dropped(count: int | None, version: str = "") -> Finding:
    """count: of messages that Mosquitto dropped at its limits since its start; it tells that for a minute after each
    change. None where it does not tell. version: as the broker names itself, or ""."""
    if count is None and version.startswith("mosquitto"):
        return ok("broker drops", f"no new ones for a minute, says {version}")
    if count is None:
        return note("broker drops", "it does not tell us", "Mosquitto does on $SYS/broker/publish/messages/dropped")
    if count:
        hint = f"raise max_queued_messages; {_MOSQUITTO}. `doctor --probe` says where the limit is"
        return bad("broker drops", f"{count} messages for slow or absent clients since its start", hint)
    return ok("broker drops", "none since its start")


def queue(probe: Probe | None, settings: Mqtt) -> Iterator[Finding]:
    """probe: None where it was not made."""
    if probe is None:
        yield note("broker queue", "not looked at", "`doctor --probe` publishes 1,100 small messages to find its limit")
        return
    if probe.kept < probe.sent:
        hint = f"it acknowledges the others to their publishers all the same: raise its queue limit; {_MOSQUITTO}"
        yield bad("broker queue", f"keeps {probe.kept} of {probe.sent} messages for a client that is away", hint)
    else:
        yield ok("broker queue", f"keeps {probe.kept} messages and more for a client that is away")
    if probe.in_flight < settings.owed_at_most:
        hint = f"set mqtt.broker_in_flight: {probe.in_flight}, or raise the broker's limit"
        said = (
            f"sends {probe.in_flight} messages and waits, before we commit {settings.owed_at_most}: intake stands still"
        )
        yield bad("broker in flight", said, hint)
    else:
        yield ok("broker in flight", f"sends {probe.in_flight} messages before it waits for us")


def daemon(told: Told) -> Iterator[Finding]:
    """What is heard of it."""
    if not told.serves:
        yield bad(
            "daemon", f"does not serve: {told.why}", "`systemctl status edge-rul`; its last lines say what to mend"
        )
    else:
        yield ok("daemon", "serves")
    for name in sorted(told.alarms):
        yield bad("daemon", f"its alarm {name} stands", "docs/topics.md says what each means")
    statistics = told.statistics or {}
    if refused := statistics.get("publish_refused"):
        hint = "give its user the right to write its topics; the log's publish_refused names them"
        yield bad("daemon", f"the broker refused {refused} of its messages", hint)
    if lost := (statistics.get("dropped") or {}).get("inbox_full_qos0"):
        yield note("daemon", f"{lost} readings at QoS 0 were lost in a rush", "let the senders take QoS 1")
