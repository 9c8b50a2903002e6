"""An HTTP proxy in front of an S3 server that fails as stores and networks do.

Clients use it as their endpoint. A signature covers the header `Host`, which the proxy passes on unchanged. Rules say
which requests fail, and how; without rules every request and answer passes as it is.
"""

import http.client
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

STALL_SECONDS = 30.0
SLOW_BYTES = 256  # are sent every quarter of a second: 1 KB/s
UPSTREAM_SECONDS = 120.0
NOT_PASSED_ON = {"connection", "expect", "keep-alive", "transfer-encoding"}


class Effect(Enum):
    """A way in which a request fails; the value describes it."""

    UNAVAILABLE = "503 ServiceUnavailable"
    FORBIDDEN = "403 AccessDenied"
    THROTTLED = "429 SlowDown"
    EXPIRED = "400 ExpiredToken"
    SKEWED = "403 RequestTimeTooSkewed"
    FULL = "507 InsufficientStorage"
    RESET = "connection reset"
    STALLED = "answer after 30 s"
    CUT = "body cut in half, Content-Length to fit"
    SHORT = "body shorter than Content-Length"
    SLOW = "body at 1 KB/s"

    @property
    def error(self) -> tuple[int, str] | None:
        """Status and code of the error that is answered; None for the effects on connections and bodies."""
        status, _, code = self.value.partition(" ")
        return (int(status), code) if status.isdigit() else None


class Request(NamedTuple):
    """A request to the store.

    Attributes:
        operation: "LIST", "COPY", or the method.
        key: Key of the object, or the prefix of a listing.
    """

    operation: str
    key: str

    @classmethod
    def of(cls, method: str, target: str, *, copies: bool) -> Self:
        """Return the request of an HTTP method and target; a PUT that copies an object of the store is a "COPY"."""
        url = urlsplit(target)
        _, _, key = unquote(url.path).lstrip("/").partition("/")
        if method == "GET" and not key:
            return cls("LIST", parse_qs(url.query).get("prefix", [""])[0])
        return cls("COPY" if copies else method, key)


@dataclass(frozen=True, eq=False)
class Rule:
    """Requests that fail.

    Args:
        effect: How they fail.
        operations: Operations that fail.
        prefix: Keys that fail.
        share: Share of these requests that fails, chosen at random.
    """

    effect: Effect
    operations: frozenset[str]
    prefix: str = ""
    share: float = 1.0


@dataclass
class Counts:
    """What happened to the requests since the last reset.

    Attributes:
        passed: Number of requests that the store answered with success, whole and unharmed, by request.
        failed: Number of requests that each effect hit.
    """

    passed: Counter[Request] = field(default_factory=Counter)
    failed: Counter[Effect] = field(default_factory=Counter)

    def keys(self, operation: str, prefix: str) -> dict[str, int]:
        """Return how often an operation passed for each key below a prefix."""
        items = list(self.passed.items())  # in one step, because other threads add to it
        return {key: n for (done, key), n in items if done == operation and key.startswith(prefix)}


class FaultProxy:
    """The proxy; a `with` block runs it on a port of the loopback interface.

    Args:
        upstream: URL of the S3 server.
        seed: Seed of the random choice of requests.
        pace: Largest number of GETs below `paced` per second; 0 for no limit.
        paced: Prefix of the keys whose GETs have that pace.
    """

    def __init__(self, upstream: str, *, seed: int = 0, pace: float = 0.0, paced: str = ""):
        url = urlsplit(upstream)
        self.upstream = (url.hostname or "", url.port or 80)
        self.counts = Counts()
        self.rules: list[Rule] = []
        self._rng = random.Random(seed)
        self._pace = pace
        self._paced = paced
        self._next_slot = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def choose(self, request: Request) -> Effect | None:
        """Return the effect that hits a request, and count it; None if it passes."""
        with self._lock:
            for rule in self.rules:
                fits = request.operation in rule.operations and request.key.startswith(rule.prefix)
                if fits and self._rng.random() < rule.share:
                    self.counts.failed[rule.effect] += 1
                    return rule.effect
            return None

    def chance(self) -> bool:
        """Return one of two outcomes at random."""
        with self._lock:
            return self._rng.random() < 0.5

    def count(self, request: Request) -> None:
        """Count a request that passed."""
        with self._lock:
            self.counts.passed[request] += 1

    def keep_pace(self, request: Request) -> None:
        """Wait until a GET may pass without exceeding the pace."""
        if not self._pace or request.operation != "GET" or not request.key.startswith(self._paced):
            return
        with self._lock:
            slot = self._next_slot = max(time.monotonic(), self._next_slot) + 1 / self._pace
        self.wait(slot - time.monotonic())

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the proxy runs."""
        self._closing.wait(max(0.0, seconds))


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have gone: killing them is what the benchmark does."""


class Answer(NamedTuple):
    """An answer of the store."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Pass a request on, or let it fail."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request.of(self.command, self.path, copies="x-amz-copy-source" in self.headers)
        self.proxy.keep_pace(request)
        effect = self.proxy.choose(request)
        if effect is not None and effect.error is not None:
            self._send(_error(*effect.error))
            return
        if effect is Effect.RESET:
            if self.proxy.chance():  # the store has done its work, and the client does not know
                self._forward(body)
            self._reset()
            return
        if effect is Effect.STALLED:
            self.proxy.wait(STALL_SECONDS)
        answer = self._forward(body)
        if answer.status < 300 and effect in (None, Effect.STALLED, Effect.SLOW):
            self.proxy.count(request)
        self._send(answer, effect)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def _forward(self, body: bytes) -> Answer:
        """Ask the store."""
        connection = http.client.HTTPConnection(*self.proxy.upstream, timeout=UPSTREAM_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in NOT_PASSED_ON:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            headers = [(k, v) for k, v in response.getheaders() if k.lower() not in NOT_PASSED_ON]
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def _send(self, answer: Answer, effect: Effect | None = None) -> None:
        """Send an answer, whole or as an effect leaves it."""
        body = answer.body[: len(answer.body) // 2] if effect in (Effect.CUT, Effect.SHORT) else answer.body
        length = len(answer.body if effect is Effect.SHORT else body)
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            # The answer to HEAD has the length of a body that does not follow.
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if effect is Effect.SLOW:
            for start in range(0, len(body), SLOW_BYTES):
                self.wfile.write(body[start : start + SLOW_BYTES])
                self.proxy.wait(SLOW_BYTES / 1024)
        else:
            self.wfile.write(body)
        if effect is Effect.SHORT:
            self.close_connection = True

    def _reset(self) -> None:
        """Close the connection with a reset (RST) in place of an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # at once; `close` would wait for the files made of the socket


def _error(status: int, code: str) -> Answer:
    """Return an error as S3 describes one."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected fault</Message></Error>'
    return Answer(status, [("Content-Type", "application/xml")], text.encode())
