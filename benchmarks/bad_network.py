"""A bad network on loopback: a proxy that does to each connection what its fate says."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeAlias

import attrs

__all__ = ["Fate", "Kind", "Proxy", "fates_of_downloads", "fates_of_uploads", "proxied"]

Kind: TypeAlias = Literal[
    "none",
    "refuse",
    "cut up",
    "cut down",
    "reset down",
    "stall down",
    "lose reply",
    "html",
    "noise",
]


@attrs.frozen
class Fate:
    """What happens to a connection: which fault, and after how many bytes in its direction."""

    kind: Kind
    after: int = 0


@attrs.define
class Proxy:
    """Passes bytes on to the emulator, and does to each connection what its fate says."""

    draw: Callable[[], Fate]
    upstream_port: int
    fates: list[Fate] = attrs.field(factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let a connection meet its fate."""
        fate = self.draw()
        self.fates.append(fate)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                if fate.kind in {"refuse", "html", "noise"}:
                    await self._answer(fate, reader, writer)
                else:
                    await self._pass_on(fate, reader, writer)
        finally:
            writer.close()

    async def _answer(
        self, fate: Fate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fate.kind == "refuse":
            writer.transport.abort()
            return
        await reader.readuntil(b"\r\n\r\n")
        if fate.kind == "html":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>")
        else:
            writer.write(os.urandom(100) + b"\r\n\r\n")
        await writer.drain()

    async def _pass_on(
        self, fate: Fate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, fate, "up")),
            asyncio.create_task(self._pump(up_reader, writer, fate, "down")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            up_writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fate: Fate,
        direction: str,
    ) -> None:
        passed = 0
        while data := await reader.read(65_536):
            if fate.kind == "lose reply" and direction == "down":
                return
            if fate.kind.endswith(direction) and passed + len(data) > fate.after:
                writer.write(data[: fate.after - passed])
                await writer.drain()
                if fate.kind == "stall down":
                    await asyncio.sleep(10)
                if fate.kind == "reset down":
                    writer.transport.abort()
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(base_url: str, draw: Callable[[], Fate]) -> AsyncIterator[tuple[Proxy, str]]:
    """Put the network before a server; give the proxy, and the base URL to use instead."""
    proxy = Proxy(draw, int(base_url.split(":")[2].partition("/")[0]))
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def fates_of_downloads(dice: random.Random) -> Callable[[], Fate]:
    """Let three of ten connections fail, in any way."""
    faults: list[Kind] = [
        "refuse",
        "cut up",
        "cut down",
        "cut down",
        "reset down",
        "stall down",
        "html",
        "noise",
    ]

    def draw() -> Fate:
        if dice.random() >= 0.3:
            return Fate("none")
        return Fate(dice.choice(faults), int(10 ** dice.uniform(0, 6.9)))

    return draw


def fates_of_uploads(dice: random.Random) -> Callable[[], Fate]:
    """Lose two replies of ten after the file was stored, and cut two bodies of ten."""

    def draw() -> Fate:
        roll = dice.random()
        if roll < 0.2:
            return Fate("lose reply")
        if roll < 0.4:
            return Fate("cut up", int(10 ** dice.uniform(0, 4.5)))
        return Fate("none")

    return draw
