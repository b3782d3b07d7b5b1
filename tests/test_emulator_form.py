"""The emulator's reader of forms: whatever the chunks, the same parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiofiles_api.emulator.form import (
    FormError,
    FormParser,
    PartBegin,
    PartData,
    PartEnd,
    boundary_of,
)

BOUNDARY = "a-b"
Part = tuple[str, str | None, bytes]

# Contents that look like a delimiter for as long as they can.
pieces = st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n", b"\r\n--", b"\r\n--a-", b"a", b"b"])
contents = st.lists(pieces, max_size=30).map(b"".join).filter(lambda it: b"\r\n--a-b" not in it)
# In a name, what browsers escape, what they do not, and all the rest of Unicode.
names = st.text(st.sampled_from('"%\r\n\\;=\t\x00/') | st.characters(codec="utf-8"), max_size=20)
parts_of_forms = st.lists(st.tuples(names, st.none() | names, contents), max_size=4)


def escaped(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def unharmed(name: str | None) -> bool:
    """Tell whether browsers' escapes, which do not escape themselves, can carry a name."""
    return name is None or not any(it in name for it in ("%22", "%0D", "%0A"))


def rendered(parts: list[Part], preamble: bytes = b"", epilogue: bytes = b"\r\n") -> bytes:
    body = preamble
    for name, filename, content in parts:
        suffix = "" if filename is None else f'; filename="{escaped(filename)}"'
        disposition = f'Content-Disposition: form-data; name="{escaped(name)}"{suffix}'
        body += b"--a-b\r\n%b\r\n\r\n%b\r\n" % (disposition.encode(), content)
    return body + b"--a-b--" + epilogue


def chunked(body: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:stop] for start, stop in pairwise(places)]


def read(chunks: list[bytes]) -> list[Part]:
    """Read parts and check that their events come in order, and none without data."""
    parser, parts, is_open = FormParser(BOUNDARY), list[Part](), False
    for chunk in chunks:
        for event in parser.feed(chunk):
            match event:
                case PartBegin(name, filename):
                    assert not is_open
                    is_open = True
                    parts.append((name, filename, b""))
                case PartData(data):
                    assert is_open
                    assert len(data)
                    parts[-1] = (*parts[-1][:2], parts[-1][2] + data)
                case PartEnd():
                    assert is_open
                    is_open = False
    parser.close()
    return parts


def outcome(chunks: list[bytes]) -> list[Part] | None:
    try:
        return read(chunks)
    except FormError:
        return None


@given(parts_of_forms, st.lists(st.integers(0, 10_000), max_size=20))
def test_any_chunks_give_back_the_parts_that_were_rendered(
    parts: list[Part], cuts: list[int]
) -> None:
    parts = [part for part in parts if unharmed(part[0]) and unharmed(part[1])]
    assert read(chunked(rendered(parts), cuts)) == parts


@given(parts_of_forms)
def test_single_bytes_give_back_the_parts_that_were_rendered(parts: list[Part]) -> None:
    parts = [part for part in parts if unharmed(part[0]) and unharmed(part[1])]
    body = rendered(parts)
    assert read([body[at : at + 1] for at in range(len(body))]) == parts


@given(
    parts_of_forms.map(rendered),
    st.binary(max_size=20) | st.sampled_from([b"\r\n", b"\r\n--a-b", b"--", b"--a-b--"]),
    st.lists(st.integers(0, 10_000), min_size=2, max_size=20),
)
def test_a_damaged_body_is_judged_alike_whatever_the_chunks(
    body: bytes, damage: bytes, cuts: list[int]
) -> None:
    start, stop = sorted(cut % (len(body) + 1) for cut in cuts[:2])
    body = body[:start] + damage + body[stop:]
    assert outcome(chunked(body, cuts)) == outcome([body])


@given(parts_of_forms.filter(bool), st.integers(1, 10_000))
def test_a_cut_body_is_never_taken_for_a_whole_one(parts: list[Part], cut: int) -> None:
    body = rendered(parts, epilogue=b"")
    assert outcome([body[: len(body) - 1 - cut % len(body)]]) is None


def test_content_is_handed_on_without_a_copy() -> None:
    parser = FormParser(BOUNDARY)
    parser.feed(b'--a-b\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n')
    chunk = b"x" * 100_000 + b"\r\n--a"
    [event] = parser.feed(chunk)
    assert isinstance(event, PartData)
    assert event.data.obj is chunk
    assert len(event.data) == 100_000


@pytest.mark.parametrize(
    ("sent", "filename"),
    [
        ('"plain.txt"', "plain.txt"),
        ('""', ""),
        ('"a %22quoted%22 name"', 'a "quoted" name'),
        ('"two%0D%0Alines"', "two\r\nlines"),
        # Nothing else is an escape: not in lower case, not of other characters, not of itself.
        ('"%0d%0a"', "%0d%0a"),
        ('"100%25.txt"', "100%25.txt"),
        ('"%2F%2e%2E"', "%2F%2e%2E"),
        ('"%250A"', "%250A"),
        ('"C:\\new\\"', "C:\\new\\"),
        ('"semi;colon=1"', "semi;colon=1"),
        ('"\x00\x01\x7f\t"', "\x00\x01\x7f\t"),
        ('"naïve 文件 🗎"', "naïve 文件 🗎"),
        ("token.txt", "token.txt"),
        ("", ""),
        ('"a.txt";', "a.txt"),
        ("\"a.txt\"; filename*=UTF-8''b.txt", "a.txt"),
        ('"' + "é" * 32_768 + '"', "é" * 32_768),
    ],
)
def test_a_filename_is_read_as_browsers_write_it(sent: str, filename: str) -> None:
    head = f'--a-b\r\ncontent-disposition : Form-Data ; NAME = "file" ; FileName = {sent}\r\n'
    body = head.encode() + b"Content-Type: text/plain\r\n\r\n\r\n--a-b--"
    assert read([body]) == [("file", filename, b"")]


def test_a_filename_that_is_not_utf_8_is_read_with_replacements() -> None:
    body = b'--a-b\r\nContent-Disposition: form-data; name="f"; filename="\xff"\r\n\r\n\r\n--a-b--'
    assert read([body]) == [("f", "\ufffd", b"")]


def test_what_stands_around_the_parts_is_passed_over() -> None:
    parts: list[Part] = [("a", None, b"1"), ("b", None, b"2")]
    body = rendered(parts, preamble=b"Hello\r\n--a-\r\n", epilogue=b" \r\n--a-b\r\nnothing")
    assert read([body.replace(b"--a-b\r\nContent", b"--a-b \t\r\nContent")]) == parts


HEAD = b'--a-b\r\nContent-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--a-b",
        b"--a-b-",
        HEAD,
        HEAD + b"\r\n\r\ncontent",
        HEAD + b"\r\n\r\ncontent\r\n--a-b",
        b"--a-bc\r\n\r\n\r\n--a-b--",
        b"--a-b" + b" " * 300 + b"\r\n\r\n\r\n--a-b--",
        b"--a-b\r\n\r\ncontent\r\n--a-b--",
        b"--a-b\r\nContent-Type: text/plain\r\n\r\ncontent\r\n--a-b--",
        b'--a-b\r\nContent-Disposition: attachment; name="a"\r\n\r\n\r\n--a-b--',
        b'--a-b\r\nContent-Disposition: form-data; filename="a"\r\n\r\n\r\n--a-b--',
        b'--a-b\r\nContent-Disposition: form-data; name="a\r\n\r\n\r\n--a-b--',
        b'--a-b\r\nContent-Disposition: form-data; name="a\\"b"\r\n\r\n\r\n--a-b--',
        HEAD + b'; name="b"\r\n\r\n\r\n--a-b--',
        HEAD + b"; nonsense\r\n\r\n\r\n--a-b--",
        HEAD + b"\r\nnonsense\r\n\r\n\r\n--a-b--",
        HEAD + b'\r\nContent-Disposition: form-data; name="b"\r\n\r\n\r\n--a-b--',
        HEAD + b"\r\nX: " + b"x" * 200_000 + b"\r\n\r\n\r\n--a-b--",
    ],
)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    assert outcome([body]) is None
    assert outcome([body[at : at + 99] for at in range(0, len(body), 99)]) is None


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", "abc"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="a b:c"', "a b:c"),
        ("multipart/form-data;boundary=abc;", "abc"),
        ("multipart/form-data; boundary=" + "x" * 70, "x" * 70),
    ],
)
def test_the_boundary_is_read_from_the_content_type(content_type: str, boundary: str) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=abc",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=é",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary",
    ],
)
def test_a_content_type_without_a_usable_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(FormError):
        boundary_of(content_type)
