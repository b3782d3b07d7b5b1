"""Memory that many transfers share."""

from __future__ import annotations

from contextlib import ExitStack

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


def test_a_share_grows_again_when_others_have_left() -> None:
    buffers = Buffers(1_000, least=10, most=1_000)
    with buffers:
        with buffers:
            assert buffers.share() == 500
        assert buffers.share() == 1_000
