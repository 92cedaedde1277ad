"""The gathering socket over a pair of real ones, and whole messages through it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from edge_rul.adapters.mqtt_socket import GatheringSocket


@pytest.fixture
def pair() -> Iterator[tuple[GatheringSocket, socket.socket]]:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.settimeout(5.0)
    with ours, peer:
        yield GatheringSocket(ours), peer


def test_what_came_together_is_read_at_once_and_given_out_in_pieces(
    pair: tuple[GatheringSocket, socket.socket],
) -> None:
    sock, peer = pair
    peer.sendall(b"abcdef")
    assert sock.recv(1) == b"a"
    assert sock.pending() == 5
    assert [sock.recv(2), sock.recv(10)] == [b"bc", b"def"]
    assert sock.pending() == 0
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    peer.close()
    assert sock.recv(1) == b""


def test_what_is_sent_waits_for_the_flush_and_keeps_its_order(pair: tuple[GatheringSocket, socket.socket]) -> None:
    sock, peer = pair
    assert [sock.send(b"ab"), sock.send(b"cd")] == [2, 2]
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(10)
    assert sock.unsent
    sock.flush()
    assert not sock.unsent
    assert peer.recv(10) == b"abcd"


def test_a_peer_that_reads_nothing_stops_the_sender_and_loses_nothing(
    pair: tuple[GatheringSocket, socket.socket],
) -> None:
    sock, peer = pair
    sent = bytearray()
    with pytest.raises(BlockingIOError):
        for i in range(100_000):
            sent += bytes([i % 251]) * 1000
            sock.send(sent[-1000:])
    del sent[-1000:]  # the one that was refused
    found = bytearray()
    while len(found) < len(sent):
        found += peer.recv(65536)
        sock.flush()
    assert found == sent


def test_closing_writes_what_is_left(pair: tuple[GatheringSocket, socket.socket]) -> None:
    sock, peer = pair
    sock.send(b"goodbye")
    sock.close()
    assert [peer.recv(10), peer.recv(10)] == [b"goodbye", b""]
