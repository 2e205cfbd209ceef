"""Clients that send slowly, or never finish, keep nobody from being answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.service import RunningService, call

N_STUCK = 40
HALF = b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + b'{"candidates":'


@pytest.fixture
def two_threads(tmp_path: Path) -> Iterator[RunningService]:
    with RunningService(tmp_path / "data", threads=2) as service:
        yield service


def test_half_sent_bodies_do_not_block_a_worker(two_threads: RunningService) -> None:
    with ExitStack() as open_sockets:
        for _ in range(N_STUCK):
            stuck = open_sockets.enter_context(socket.create_connection(("127.0.0.1", two_threads.port)))
            stuck.sendall(HALF)
        for _ in range(20):
            reply = call(two_threads.url, "POST", "/v1/rank", {"candidates": ["a", "b"]}, timeout_s=10)
            assert reply.status == 200
