"""JSON as it comes: whatever is cut into pieces is the same as if it had been decoded at once."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import chain

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiofiles_api import APIResponseError, decoding
from aiofiles_api.decoding import decode, decode_page

WORDS = st.text(max_size=3) | st.sampled_from(["}, {", '"}, {"', "\\", '"data": [', "{", "[]"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
SIMPLE = st.integers(-(2**53), 2**53) | WORDS
FILES = st.dictionaries(st.sampled_from(["id", "purpose", "data"]), SIMPLE, max_size=3)
ANY = st.dictionaries(WORDS, VALUES, max_size=3) | VALUES
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:  ")])


def page_of(data: object, **others: object) -> bytes:
    return json.dumps({"object": "list", "data": data, **others}).encode()


def file(number: int) -> dict[str, object]:
    return {"id": f"file-{number}", "purpose": "batch", "bytes": number}


@pytest.fixture(params=["orjson", "stdlib"])
def _with_each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stdlib":
        monkeypatch.setattr(decoding, "_loads", json.loads)


@given(
    # Mostly such as can be cut, and few of any other kind among them.
    st.lists(st.one_of([*[FILES] * 40, ANY]), max_size=12),
    st.dictionaries(st.sampled_from(["has_more", "last_id", "x"]), SIMPLE | VALUES),
    SEPARATORS,
    st.booleans(),
    st.integers(1, 20),
)
@example([{"a": 1}] * 9, {"x": [{"a": 1}] * 9}, (",", ":"), False, 1)
def test_pieces_are_what_decoding_at_once_gives(
    data: list[object],
    others: dict[str, object],
    separators: tuple[str, str],
    is_indented: bool,  # noqa: FBT001  # hypothesis gives it by position
    piece: int,
) -> None:
    page = {"object": "list", "data": data} | others
    indent = 2 if is_indented else None
    text = json.dumps(page, separators=separators, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_PIECE", piece)
        members, pieces = decode_page(text)
    assert pieces is not None
    assert members == {"object": "list"} | others
    assert list(chain.from_iterable(pieces)) == data
    assert bool(pieces) is bool(data)
    assert pieces.last == (data[-1] if data else None)


@pytest.mark.usefixtures("_with_each_parser")
def test_a_long_page_comes_in_pieces_of_which_none_is_long() -> None:
    data = [file(number) for number in range(10_000)]
    members, pieces = decode_page(page_of(data, has_more=True))
    assert members == {"object": "list", "has_more": True}
    assert pieces is not None
    lengths = [len(piece) for piece in pieces]
    assert sum(lengths) == 10_000
    assert max(lengths) <= 1_000
    assert list(chain.from_iterable(pieces)) == data  # as often as one likes
    assert pieces.last == data[-1]


@pytest.mark.usefixtures("_with_each_parser")
@pytest.mark.parametrize(
    "odd",
    [
        {"tags": [{"a": 1}, {"b": 2}] * 3_000},
        {"filename": "}, {" * 20_000},
        {"filename": '],"'},
    ],
    ids=["lists of objects", "strings", "brackets"],
)
def test_where_a_cut_is_no_end_of_an_element_all_that_is_left_is_decoded(
    odd: dict[str, object],
) -> None:
    data = [file(number) for number in range(2_000)]
    data[1_000] |= odd
    _, pieces = decode_page(page_of(data))
    assert pieces is not None
    assert list(chain.from_iterable(pieces)) == data
    assert max(map(len, pieces)) <= 1_000


def test_a_list_behind_the_files_is_not_taken_for_them() -> None:
    data = [file(number) for number in range(1_000)]
    members, pieces = decode_page(page_of(data, others=data[1:] * 2, has_more=False))
    assert members == {"object": "list", "others": data[1:] * 2, "has_more": False}
    assert pieces is not None
    assert list(chain.from_iterable(pieces)) == data
    assert pieces.last == data[-1]


@pytest.mark.parametrize("odd", [{"tags": []}, {"filename": "part[1].jsonl"}], ids=str)
def test_empty_lists_and_brackets_in_names_are_no_hindrance(odd: dict[str, object]) -> None:
    data = [odd | file(number) for number in range(2_000)]
    _, pieces = decode_page(page_of(data, has_more=True))
    assert pieces is not None
    assert list(chain.from_iterable(pieces)) == data
    assert [len(piece) for piece in pieces] != [500] * 4  # as if it had been decoded at once


@pytest.mark.parametrize("other", [None, 7, {}, "x", [], [{"id": "other"}] * 3_000], ids=repr)
def test_of_two_lists_the_last_one_counts_as_for_any_parser(other: object) -> None:
    text = page_of([file(number) for number in range(3_000)])[:-1]
    text += b', "data": %b}' % json.dumps(other).encode()
    _, pieces = decode_page(text)
    if isinstance(other, list):
        assert pieces is not None
        assert list(chain.from_iterable(pieces)) == other
    else:
        assert pieces is None


def test_nonsense_in_the_middle_is_found_when_its_turn_comes() -> None:
    text = page_of([file(number) for number in range(5_000)])
    text = text.replace(b'"bytes": 3000', b'"bytes": oops')
    _, pieces = decode_page(text)
    assert pieces is not None
    seen = 0
    with pytest.raises(APIResponseError, match=r"not JSON from byte [\d,]+ on"):
        for piece in pieces:
            seen += len(piece)
    assert 1_000 < seen <= 3_000


@pytest.mark.usefixtures("_with_each_parser")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 100_000,
        b'{"data":' * 100_000,
        page_of([file(number) for number in range(5_000)])[:-1],
        page_of([file(number) for number in range(5_000)]).replace(b'"object": ', b"object: "),
    ],
    ids=["nothing", "brackets", "objects", "cut off", "a bad beginning"],
)
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"deep|recursion|[Ee]xpect|unexpected|column"):
        decode_page(text)


@pytest.mark.parametrize("page", [[], [1], {}, {"data": None}, {"data": {}}, "data", 7, None])
def test_a_page_without_a_list_has_no_pieces(page: object) -> None:
    assert decode_page(json.dumps(page).encode())[1] is None


@pytest.mark.parametrize("word", ["file-1", "file-\u00e9", "file/1", 'file"', "file\\", "\n"])
@pytest.mark.parametrize("in_ascii", [True, False])
def test_a_word_that_is_in_a_page_is_never_missed(word: str, *, in_ascii: bool) -> None:
    text = json.dumps({"data": [{"id": word}]}, ensure_ascii=in_ascii).replace("/", "\\/")
    _, pieces = decode_page(text.encode())
    assert pieces is not None
    assert pieces.mentions(word)
    assert not pieces.mentions("file-2")


@pytest.mark.usefixtures("_with_each_parser")
def test_half_of_a_surrogate_pair_is_read_as_python_s_servers_send_it() -> None:
    assert decode(rb'["caf\udce9"]') == ["caf\udce9"]


def test_where_orjson_is_not_installed_the_parser_is_python_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert decoding.__file__
    monkeypatch.setitem(sys.modules, "orjson", None)
    spec = importlib.util.spec_from_file_location("decoding_of_stdlib", decoding.__file__)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module._loads is json.loads
    assert module.decode(b"[1]") == decode(b"[1]") == [1]
