"""A FastAPI service in the process that moves files, and a process that asks it all the while.

    python -m benchmarks.service PORT     # the one that asks

It asks over some connections in turn, on a schedule, whatever the answers take: a request that has
to wait for the one before it on its connection has waited since it was due.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from benchmarks.jobs import Outcome

__all__ = ["asked"]

_INTERVAL = 0.005
"""Seconds between two requests."""

_ASKERS = 16
"""Connections that take turns."""

app = FastAPI()


@app.get("/")
async def alive() -> dict[str, bool]:
    """Say that the service is alive."""
    return {"alive": True}


@asynccontextmanager
async def asked(outcome: Outcome) -> AsyncIterator[None]:
    """Serve on this loop, and be asked until the block is left; add latencies to the outcome."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio does it only where a socket says that its protocol is TCP. Without it, a part of the
    # answers waits 40 ms for an acknowledgement, whatever else the process does.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.service",
        str(listener.getsockname()[1]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError
    await process.stdout.readline()  # it has asked some times, and is ready
    gc.collect()  # not while it asks
    process.stdin.write(b"go\n")
    try:
        yield
    finally:
        process.stdin.close()
        latencies = await process.stdout.read()
        await process.wait()
        server.should_exit = True
        await serving
    outcome.update(json.loads(latencies))


def ask(port: int) -> Outcome:
    """Ask until standard input is closed, and return the latencies in seconds."""
    done = threading.Event()
    begin = threading.Barrier(_ASKERS + 1)
    latencies: list[float] = []

    def asker(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

        def once() -> None:
            connection.request("GET", "/")
            connection.getresponse().read()

        once()
        begin.wait()  # all are connected
        begin.wait()  # the files begin to move
        due = time.perf_counter() + number * _INTERVAL
        # However short the move was, one request is answered.
        while not done.wait(max(0.0, due - time.perf_counter())) or not latencies:
            once()
            latencies.append(time.perf_counter() - due)
            due += _ASKERS * _INTERVAL

    threads = [threading.Thread(target=asker, args=[number]) for number in range(_ASKERS)]
    for thread in threads:
        thread.start()
    begin.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    begin.wait()
    sys.stdin.read()
    done.set()
    for thread in threads:
        thread.join()
    latencies.sort()
    return {
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
        "slowest": latencies[-1],
    }


if __name__ == "__main__":
    print(json.dumps(ask(int(sys.argv[1]))))
