"""An HTTP server on localhost that fails as it is told to: what the local Hub and the archive server stand on."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep  # by name: tests take `time.sleep` away from the client
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

CHUNK = 1 << 16  # bytes


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD /path" has `pattern` in it."""

    pattern: str
    status: int | None = None  # an answer of that status, with `body` or nothing in it
    cut_after: int | None = None  # bytes of the request's or the answer's body, then the connection is closed
    pause: float = 0.0  # seconds before each CHUNK of a file
    body: bytes | None = None  # sent in place of a file, or stored in place of an upload
    damage: Callable[[bytes], bytes] = bytes  # done to a file before it is sent
    headers: Mapping[str, str] = field(default_factory=dict)  # of the answer; "" leaves one out
    lose_answer: bool = False  # do it, then close the connection
    times: int = 1


class Service:
    """What a server serves, and the server; `stop()` leaves connections refused."""

    handler: type[Handler]

    def __init__(self, port: int = 0) -> None:
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = _Server(("127.0.0.1", self._port), type("Handler", (self.handler,), {"service": self}))
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def fault(self, request: str) -> Fault | None:
        """Return what shall go wrong with a request, once."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


_S = TypeVar("_S", bound=Service)


@contextmanager
def serving(service: _S) -> Iterator[_S]:
    """Listen for as long as the context lasts."""
    service.start()
    try:
        yield service
    finally:
        service.stop()


class _Server(ThreadingHTTPServer):
    """A server that takes its kept-alive connections with it when it goes."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self.open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close what is still open."""
        for connection in tuple(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection; `respond(path)` is what a service adds."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer are two writes, the second of which would wait
    service: Any
    failing: Fault | None
    unread: int

    def respond(self, path: str) -> None:
        """Answer a request."""
        raise NotImplementedError

    def refuse(self, status: int, headers: Mapping[str, str] = {}, body: bytes = b"") -> None:
        """Send an answer that is not what was asked for."""
        self.start_answer(status, {"Content-Length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def answer(self) -> None:
        """Answer a request, or fail as the service was told."""
        path = unquote(urlsplit(self.path).path)
        self.unread = int(self.headers.get("Content-Length") or 0)
        self.failing = self.service.fault(f"{self.command} {path}")
        try:
            if self.failing and self.failing.status:
                self.rfile.read(self.unread)
                self.refuse(self.failing.status, self.failing.headers, self.failing.body or b"")
            else:
                self.respond(path)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def body(self) -> bytes:
        """Read the request's body, or the part of it that a fault lets through."""
        if self.failing and self.failing.cut_after is not None:
            self.rfile.read(min(self.unread, self.failing.cut_after))
            self.hang_up()
        raw, self.unread = self.rfile.read(self.unread), 0
        return raw

    def hang_up(self) -> None:
        """Close the connection without an answer, or in the middle of one."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    def start_answer(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def send_file(self, raw: bytes, headers: Mapping[str, str], *, may_continue: bool = True) -> None:
        """Send a file, or what a Range header asks for, as a fault has it."""
        fault = self.failing or Fault("")
        if fault.lose_answer:
            self.hang_up()
        raw = fault.damage(raw) if fault.body is None else fault.body
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if may_continue else None
        first = int(asked[1]) if asked else 0
        if first > len(raw):
            self.refuse(416)
            return
        part = {"Content-Range": f"bytes {first}-{len(raw) - 1}/{len(raw)}"} if asked else {}
        self.start_answer(
            206 if asked else 200, {"Content-Length": str(len(raw) - first), **part, **headers, **fault.headers}
        )
        if self.command == "GET":
            self._send_slowly(raw[first:], fault)

    def _send_slowly(self, raw: bytes, fault: Fault) -> None:
        end = len(raw) if fault.cut_after is None else min(fault.cut_after, len(raw))
        for at in range(0, end, CHUNK):
            sleep(fault.pause)
            self.wfile.write(raw[at : min(at + CHUNK, end)])
        if end < len(raw):
            self.hang_up()
