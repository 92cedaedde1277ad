"""What a broker holds retained under a filter: asked of it as a new client would, over MQTT 5 on loopback.

Owns that one question. Must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib

import mqtt_proxy
from chaos_field import connect_packet, publish_packet, receive, subscribe_packet

_DONE = "chaos/done"


async def retained(port: int, topics: str) -> dict[str, bytes]:
    """topics: a filter. Raises OSError, EOFError where the broker does not answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found: dict[str, bytes] = {}
    try:
        writer.write(connect_packet("chaos-reader"))
        async for packet in receive(reader):
            if packet.kind == mqtt_proxy.CONNACK:
                writer.write(subscribe_packet([topics, _DONE]))
            elif packet.kind == mqtt_proxy.SUBACK:
                # Comes back behind everything that was retained.
                writer.write(publish_packet(_DONE, b"", 1))
            elif packet.kind == mqtt_proxy.PUBLISH:
                message = mqtt_proxy.publish(packet)
                if message.topic == _DONE:
                    break
                if message.retain:
                    found[message.topic] = message.payload
    finally:
        with contextlib.suppress(OSError):
            writer.transport.abort()
    return found
