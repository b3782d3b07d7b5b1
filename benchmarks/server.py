"""The server of the benchmarks: `/v1/files` on raw sockets, and never what is waited for.

One thread, one selector. Each connection is a generator that tries its socket first, and says what
it waits for only when the kernel has nothing for it: `yield READ`, `yield WRITE`, or a number of
seconds. Nothing is stored. What a file is stands in its id (`file-<bytes>-<number>`), and what the
server shall do stands in the path before `/v1`: `http://host/files=1000&delay=0.1/v1` lists 1,000
files, each page 0.1 s late.

It runs in a process of its own (`running()`), until its standard input is closed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import heapq
import http.client
import itertools
import json
import re
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Generator, Iterator
from typing import Final, TypeAlias

import attrs

from benchmarks.content import piece

__all__ = ["Server", "Stats", "running"]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

Wait: TypeAlias = Generator[int | float, None, None]

_BUFFER = 2**20
_ONE_SEND = 2**16
"""Replies up to this length leave with their head in one send."""
_MOST_HEAD = 2**16
_PAGE = 10_000
"""The API's default and greatest `limit`."""


class _ClosedError(ConnectionError):
    """The peer has gone."""


@attrs.define
class Tally:
    """What the server has done since it was started."""

    requests: int = 0
    uploads: int = 0
    uploaded_bytes: int = 0
    downloads: int = 0
    listed: int = 0


class Connection:
    """A socket with what was read from it and not used yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def send(self, data: bytes | memoryview) -> Wait:
        """Send all of it."""
        left = memoryview(data)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield WRITE
            except ssl.SSLWantReadError:
                yield READ

    def through(self, mark: bytes) -> Generator[int | float, None, bytes]:
        """Take what comes up to and with a mark."""
        while (at := self._buffer.find(mark, self._start, self._end)) < 0:
            if self._end - self._start > _MOST_HEAD:
                raise _ClosedError
            yield from self._fill()
        start, self._start = self._start, at + len(mark)
        return bytes(self._view[start : self._start])

    def drain(self, length: int, form: Form) -> Wait:
        """Take exactly `length` bytes, and let the form look at them."""
        while length:
            if self._start == self._end:
                yield from self._fill()
            stop = min(self._end, self._start + length)
            form.feed(self._view[self._start : stop])
            length -= stop - self._start
            self._start = stop

    def _fill(self) -> Wait:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == _BUFFER:
            rest = bytes(self._view[self._start : self._end])
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        while True:
            try:
                got = self.sock.recv_into(self._view[self._end :])
            except (BlockingIOError, ssl.SSLWantReadError):
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
            else:
                if not got:
                    raise _ClosedError
                self._end += got
                return


class Form:
    """A multipart body that passes by: its beginning and its end are kept, and its length."""

    def __init__(self, boundary: bytes) -> None:
        self._closing = b"\r\n--" + boundary
        self._first = b""
        self._last = b""
        self._length = 0

    def feed(self, data: memoryview) -> None:
        """Look at the next bytes."""
        self._length += len(data)
        if len(self._first) < 4096:
            self._first += data[: 4096 - len(self._first)]
        self._last = (self._last + bytes(data[-1024:]))[-1024:]

    def file_bytes(self) -> int | None:
        """Return the length of the file within, or `None` if it is not the pattern."""
        name = self._first.find(b'name="file"')
        start = self._first.find(b"\r\n\r\n", name) + 4
        before_last = self._length - len(self._last)
        end = self._last.find(self._closing, max(0, start - before_last))
        if name < 0 or start < 4 or end < 0:
            return None
        size = before_last + end - start
        begins = self._first[start : start + min(16, size)]
        ends = self._last[max(0, end - min(16, size)) : end]
        if begins != piece(0, len(begins)) or ends != piece(size - len(ends), len(ends)):
            return None
        return size


@functools.cache
def settings(prefix: str) -> dict[str, float]:
    """Read what stands in the path before `/v1`."""
    return {name: float(value) for name, value in urllib.parse.parse_qsl(prefix.strip("/"))}


def file_id(size: int, number: int) -> str:
    """Return the id of a file."""
    return f"file-{size}-{number:07}"


def file_object(size: int, number: int) -> str:
    """Return what the server says of a file."""
    return (
        f'{{"id":"{file_id(size, number)}","object":"file","bytes":{size},'
        f'"created_at":{1_700_000_000 - number},"expires_at":null,'
        f'"filename":"batch-of-requests-{number:07}.jsonl","purpose":"batch",'
        '"status":"processed","status_details":null}'
    )


@functools.lru_cache(maxsize=2048)
def page(total: int, start: int, limit: int) -> bytes:
    """Render a page of a listing of `total` files; the same page is rendered once."""
    stop = min(total, start + limit)
    objects = ",".join(file_object(1000, number) for number in range(start, stop))
    first, last = (
        (f'"{file_id(1000, start)}"', f'"{file_id(1000, stop - 1)}"')
        if start < stop
        else ("null", "null")
    )
    more = "true" if stop < total else "false"
    return (
        f'{{"object":"list","data":[{objects}],"first_id":{first},"last_id":{last},'
        f'"has_more":{more}}}'
    ).encode()


def reply_head(length: int, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Render the head of a reply."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
        "x-request-id: req_benchmark\r\n\r\n"
    ).encode()


class Exchange:
    """One connection's requests and replies."""

    def __init__(self, connection: Connection, tally: Tally) -> None:
        self._connection = connection
        self._tally = tally
        self._numbers = itertools.count()

    def run(self) -> Wait:
        """Serve requests until the peer goes."""
        while True:
            head = yield from self._connection.through(b"\r\n\r\n")
            self._tally.requests += 1
            method, target, _ = head.split(b" ", 2)
            path, _, query = target.decode().partition("?")
            prefix, _, rest = path.partition("/v1/files")
            lowered = head.lower()
            if method == b"POST":
                yield from self._store(head, lowered)
            elif method == b"DELETE":
                yield from self._json(f'{{"id":"{rest[1:]}","object":"file","deleted":true}}')
            elif rest.endswith("/content"):
                yield from self._content(rest)
            elif rest:
                _, size, number = rest.split("-")
                yield from self._json(file_object(int(size), int(number)))
            elif path == "/stats":
                yield from self._json(json.dumps(self._stats()))
            else:
                yield from self._list(settings(prefix), query)
            if b"connection: close" in lowered:
                return

    def _stats(self) -> dict[str, float]:
        return {**attrs.asdict(self._tally), "cpu": time.process_time()}

    def _json(self, text: str | bytes, status: str = "200 OK") -> Wait:
        body = text.encode() if isinstance(text, str) else text
        yield from self._connection.send(reply_head(len(body), status=status) + body)

    def _store(self, head: bytes, lowered: bytes) -> Wait:
        boundary = re.search(rb"boundary=\"?([^\s\";]+)", head)
        form = Form(boundary[1] if boundary else b"")
        if b"expect: 100-continue" in lowered:
            yield from self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length := re.search(rb"\r\ncontent-length: *(\d+)", lowered):
            yield from self._connection.drain(int(length[1]), form)
        else:
            yield from self._chunks(form)
        size = form.file_bytes()
        if size is None:
            message = '{"error":{"message":"this is not the pattern"}}'
            yield from self._json(message, "400 Bad Request")
            return
        self._tally.uploads += 1
        self._tally.uploaded_bytes += size
        yield from self._json(file_object(size, next(self._numbers)))

    def _chunks(self, form: Form) -> Wait:
        ignored = Form(b"")
        while True:
            line = yield from self._connection.through(b"\r\n")
            length = int(line, 16)
            yield from self._connection.drain(length, form)
            yield from self._connection.drain(2, ignored)
            if not length:
                return

    def _content(self, rest: str) -> Wait:
        size = int(rest.split("-")[1])
        self._tally.downloads += 1
        head = reply_head(size, kind="application/octet-stream")
        if size <= _ONE_SEND:
            yield from self._connection.send(head + piece(0, size))
            return
        yield from self._connection.send(head)
        sent = 0
        while sent < size:
            part = piece(sent, size - sent)
            yield from self._connection.send(part)
            sent += len(part)

    def _list(self, wanted: dict[str, float], query: str) -> Wait:
        parameters = dict(urllib.parse.parse_qsl(query))
        after = parameters.get("after")
        start = int(after.rpartition("-")[2]) + 1 if after else 0
        limit = int(parameters.get("limit", _PAGE))
        total = int(wanted.get("files", 0))
        if delay := wanted.get("delay", 0.0):
            yield float(delay)
        self._tally.listed += min(total - start, limit)
        body = page(total, start, limit)
        yield from self._connection.send(reply_head(len(body)))
        yield from self._connection.send(body)


class Loop:
    """Lets each connection go on when what it waits for is there."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, socket.socket, Wait]] = []
        self._order = itertools.count()
        self._tally = Tally()

    def listen(self, tls: ssl.SSLContext | None) -> int:
        """Listen on a free port of loopback, and return it."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setblocking(False)
        self._selector.register(listener, READ, tls)
        port: int = listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Serve until standard input is closed."""
        self._selector.register(sys.stdin, READ)
        while True:
            for key, _ in self._selector.select(self._until_timer()):
                if key.fileobj is sys.stdin:
                    return
                if isinstance(key.fileobj, socket.socket):
                    if isinstance(key.data, Generator):
                        self._step(key.fileobj, key.data, key.events)
                    else:
                        self._accept(key.fileobj, key.data)
            while self._timers and self._timers[0][0] <= time.monotonic():
                _, _, sock, work = heapq.heappop(self._timers)
                self._step(sock, work, 0)

    def _until_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._step(sock, self._serve(sock), 0)

    def _serve(self, sock: socket.socket) -> Wait:
        while isinstance(sock, ssl.SSLSocket):
            try:
                sock.do_handshake()
                break
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
        yield from Exchange(Connection(sock), self._tally).run()

    def _step(self, sock: socket.socket, work: Wait, events: int) -> None:
        """Let a connection go on; `events` is what its socket is registered for, 0 for nothing."""
        try:
            wish = next(work)
        except (StopIteration, OSError):
            if events:
                self._selector.unregister(sock)
            sock.close()
            return
        if isinstance(wish, float):
            # While it sleeps nothing is heard of it: a peer that goes would wake it for ever.
            if events:
                self._selector.unregister(sock)
            due = time.monotonic() + wish
            heapq.heappush(self._timers, (due, next(self._order), sock, work))
        elif not events:
            self._selector.register(sock, wish, work)
        elif wish != events:
            self._selector.modify(sock, wish, work)


def main() -> None:
    """Serve; the ports are told on standard output, certificate and key come as arguments."""
    # Ctrl-C is for the one who started it, and who closes standard input then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = Loop()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*sys.argv[1:3])
    print(json.dumps([loop.listen(None), loop.listen(tls)]), flush=True)
    gc.freeze()
    gc.disable()
    loop.run()


@attrs.frozen
class Stats:
    """What the server has done up to now, and the CPU seconds that it took."""

    requests: int
    uploads: int
    uploaded_bytes: int
    downloads: int
    listed: int
    cpu: float


@attrs.frozen
class Server:
    """A server that runs."""

    plain_port: int
    tls_port: int

    def base_url(self, *, tls: bool = False, files: int = 0, delay: float = 0.0) -> str:
        """Return the base URL for a client: how to reach it, and what it shall list.

        Args:
            tls: Whether over TLS.
            files: How many files a listing has.
            delay: Seconds that each page of a listing is late.
        """
        if tls:
            return f"https://127.0.0.1:{self.tls_port}/v1"
        prefix = f"files={files}&delay={delay:g}/" if files else ""
        return f"http://127.0.0.1:{self.plain_port}/{prefix}v1"

    def stats(self) -> Stats:
        """Ask what it has done."""
        connection = http.client.HTTPConnection("127.0.0.1", self.plain_port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/stats")
            return Stats(**json.loads(connection.getresponse().read()))


@contextlib.contextmanager
def running(certificate: str, key: str) -> Iterator[Server]:
    """Run the server in a process of its own.

    Args:
        certificate: The path of its certificate chain, for 127.0.0.1.
        key: The path of its private key.
    """
    with subprocess.Popen(  # noqa: S603 - this module itself
        [sys.executable, "-m", "benchmarks.server", certificate, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError
        try:
            yield Server(*json.loads(process.stdout.readline()))
        finally:
            process.stdin.close()


if __name__ == "__main__":
    main()
