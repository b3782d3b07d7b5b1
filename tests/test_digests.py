"""Digests in a table: nothing is lost as it grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api.digests import Digests

DIGESTS = st.one_of(
    st.binary(min_size=8, max_size=16),
    # Many that begin at the same place of the table.
    st.integers(0, 50).map(lambda number: (number * 4096).to_bytes(8, "little")),
)


@given(st.lists(st.tuples(DIGESTS, st.integers(0, 5)), max_size=400))
def test_every_number_is_found_with_its_digest(entries: list[tuple[bytes, int]]) -> None:
    table = Digests()
    known: dict[int, set[int]] = {}
    for digest, number in entries:
        begins = int.from_bytes(digest[:8], "little") or 1
        numbers = known.setdefault(begins, set())
        assert table.add(digest, number) is (number not in numbers)
        numbers.add(number)
    for digest, _ in entries:
        begins = int.from_bytes(digest[:8], "little") or 1
        assert sorted(table.numbers(digest)) == sorted(known[begins])


def test_what_was_not_put_in_is_not_there() -> None:
    table = Digests()
    for number in range(1000):
        table.add(number.to_bytes(8, "big"), number)
    assert table.numbers(b"elsewhere") == []
    assert table.numbers((7).to_bytes(8, "big")) == [7]
