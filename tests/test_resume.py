"""How a reply to a request for content continues what is in hand."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiofiles_api import APIResponseError
from aiofiles_api.resume import Continuation, continue_from

offsets = st.integers(0, 10**12)
numbers = st.integers(0, 10**20).map(str) | st.sampled_from(["-1", "+1", "1_0", "\u0663", "", " 1"])
ranges = (
    st.builds("bytes {}-{}/{}".format, numbers, numbers, numbers | st.just("*"))
    | st.builds("bytes */{}".format, numbers)
    | st.text()
)
replies = st.fixed_dictionaries(
    {}, optional={"Content-Range": ranges, "Content-Length": numbers | st.text()}
)


@given(offsets, st.sampled_from([200, 203, 206, 416]) | st.integers(100, 599), replies)
@example(5, 206, {"Content-Range": "bytes 5-9/*"})
@example(5, 206, {"Content-Range": "bytes \u0665-9/*"})
@example(5, 416, {"Content-Range": "bytes */4"})
def test_no_reply_leads_to_a_gap_or_an_overlap(
    offset: int, status: int, headers: dict[str, str]
) -> None:
    try:
        found = continue_from(offset, status=status, headers=headers)
    except APIResponseError:
        assert status == 206
        return
    if found is None:
        assert status not in {200, 203, 206}
    elif found.is_empty:
        assert status == 416
        assert found.total is not None
        assert found.total <= offset
    elif status in {200, 203}:
        assert found.skip == offset
    else:
        assert status == 206
        assert found.skip == 0
        assert headers["Content-Range"].lower().startswith(f"bytes {offset}-")
        assert found.end is not None
        assert offset < found.end <= (found.total or found.end)


@given(offsets, st.integers(1, 10**12))
def test_a_partial_reply_continues_where_it_was_asked_to(offset: int, count: int) -> None:
    end = offset + count
    headers = {"Content-Range": f"bytes {offset}-{end - 1}/{end}", "Content-Length": str(count)}
    found = continue_from(offset, status=206, headers=headers)
    assert found == Continuation(skip=0, total=end, end=end)


@given(offsets)
def test_a_partial_reply_need_not_tell_lengths(offset: int) -> None:
    headers = {"Content-Range": f"bytes {offset}-{offset}/*"}
    found = continue_from(offset, status=206, headers=headers)
    assert found == Continuation(skip=0, total=None, end=offset + 1)


@given(offsets, offsets, st.integers(0, 1_000))
def test_a_partial_reply_from_elsewhere_is_refused(offset: int, first: int, more: int) -> None:
    headers = {"Content-Range": f"bytes {first}-{first + more}/{first + more + 1}"}
    if first == offset:
        assert continue_from(offset, status=206, headers=headers) is not None
        return
    with pytest.raises(APIResponseError, match=f"bytes from {offset}$"):
        continue_from(offset, status=206, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Range": "bytes 10-9/20"},
        {"Content-Range": "bytes 10-20/20"},
        {"Content-Range": "bytes 10-19/20", "Content-Length": "11"},
        {"Content-Range": "bytes 10-19"},
        {"Content-Range": "bytes 10-/20"},
        {"Content-Range": "bytes -10/20"},
        {"Content-Range": "bytes */20"},
        {"Content-Range": "lines 10-19/20"},
        {"Content-Range": "bytes 10-19/20, bytes 30-39/40"},
        {"Content-Range": "bytes 10-19/20\n"},
        {"Content-Range": "bytes 10-99999999999999999999/*"},
    ],
    ids=str,
)
def test_a_partial_reply_that_contradicts_itself_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(APIResponseError, match=r"^a partial reply with "):
        continue_from(10, status=206, headers=headers)


def test_a_header_that_cannot_be_read_is_not_shown_as_it_may_echo_the_key() -> None:
    with pytest.raises(APIResponseError) as caught:
        continue_from(0, status=206, headers={"Content-Range": "sk-secret"})
    assert "sk-secret" not in str(caught.value)


def test_the_name_of_the_unit_ignores_case() -> None:
    headers = {"Content-Range": "Bytes 10-19/20"}
    found = continue_from(10, status=206, headers=headers)
    assert found == Continuation(skip=0, total=20, end=20)


def test_a_whole_reply_begins_again_and_tells_its_length() -> None:
    found = continue_from(7, status=200, headers={"Content-Length": "20"})
    assert found == Continuation(skip=7, total=20)


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "many"}, {"Content-Length": "\u0663"}])
def test_a_whole_reply_may_not_tell_its_length(headers: dict[str, str]) -> None:
    assert continue_from(7, status=200, headers=headers) == Continuation(skip=7, total=None)


def test_nothing_is_missing_when_the_range_begins_at_the_end() -> None:
    found = continue_from(20, status=416, headers={"Content-Range": "bytes */20"})
    assert found == Continuation(skip=0, total=20, is_empty=True)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (416, {}),
        (416, {"Content-Range": "bytes */21"}),
        (416, {"Content-Range": "bytes */-1"}),
        (404, {"Content-Range": "bytes */20"}),
        (204, {}),
        (500, {"Content-Range": "bytes 20-29/30"}),
    ],
    ids=str,
)
def test_every_other_reply_is_an_error(status: int, headers: dict[str, str]) -> None:
    assert continue_from(20, status=status, headers=headers) is None
