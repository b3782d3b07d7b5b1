"""Memory that many transfers share."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api.buffers import Buffers


def test_one_alone_gets_as_much_as_is_of_use_to_it() -> None:
    buffers = Buffers(1_000, least=10, most=400)
    with buffers:
        assert buffers.share() == 400


def test_what_nobody_uses_yet_is_there_for_the_first() -> None:
    assert Buffers(1_000, least=10, most=400).share() == 400


@given(st.integers(1, 300))
def test_many_share_and_each_of_them_gets_something(sharing: int) -> None:
    buffers = Buffers(1_000, least=10, most=400)
    with ExitStack() as stack:
        for _ in range(sharing):
            stack.enter_context(buffers)
        assert 10 <= buffers.share() <= 400
        assert buffers.share() * sharing <= max(1_000, 10 * sharing)


@given(st.integers(1, 9), st.integers(1, 9))
def test_shares_differ_by_halves_so_that_buffers_fit_again(few: int, many: int) -> None:
    buffers = Buffers(1_024, least=16, most=512)
    shares = []
    for sharing in (few, many):
        with ExitStack() as stack:
            for _ in range(sharing):
                stack.enter_context(buffers)
            shares.append(buffers.share())
    assert max(shares) // min(shares) in {1, 2, 4, 8}
    assert max(shares) % min(shares) == 0


def test_a_share_grows_again_when_others_have_left() -> None:
    buffers = Buffers(1_000, least=10, most=1_000)
    with buffers:
        with buffers:
            assert buffers.share() == 500
        assert buffers.share() == 1_000


# --- buffers that are lent -----------------------------------------------------------------------


pytestmark = pytest.mark.anyio


async def test_what_was_given_back_is_lent_again() -> None:
    buffers = Buffers(1_000, least=10, most=400)
    first, second = buffers.lend(), buffers.lend()
    assert first is not second
    assert len(first) == 400
    buffers.take_back(first)
    assert buffers.lend() is first
    buffers.close()


async def test_a_share_of_another_size_is_another_buffer() -> None:
    buffers = Buffers(1_000, least=10, most=800)
    alone = buffers.lend()
    buffers.take_back(alone)
    with buffers, buffers:
        assert len(buffers.lend()) == 400
    assert buffers.lend() is alone
    buffers.close()


async def test_no_more_is_kept_than_all_together_may_fill() -> None:
    buffers = Buffers(1_000, least=10, most=400)
    lent = [buffers.lend() for _ in range(3)]
    for buffer in lent:
        buffers.take_back(buffer)
    again = [buffers.lend() for _ in range(3)]
    assert sum(any(one is other for other in lent) for one in again) == 2
    buffers.close()


class Watched(bytearray):
    """A buffer of which one can see whether it is still there."""


async def test_what_nobody_uses_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiofiles_api.buffers._KEPT", 0.2)
    buffers = Buffers(1_000, least=10, most=400)
    kept = Watched(400)
    gone = weakref.ref(kept)
    buffers.take_back(kept)
    del kept
    for _ in range(25):  # somebody uses it
        await asyncio.sleep(0.01)
        buffers.take_back(buffers.lend())
    assert gone() is not None
    async with asyncio.timeout(5):
        while gone() is not None:
            await asyncio.sleep(0.02)


async def test_closing_lets_all_go() -> None:
    buffers = Buffers(1_000, least=10, most=400)
    buffers.close()
    kept = buffers.lend()
    buffers.take_back(kept)
    buffers.close()
    assert buffers.lend() is not kept
