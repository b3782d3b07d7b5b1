"""The envelope of an upload: exact to the byte, and written as browsers write it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from aiohttp import BodyPartReader, MultipartReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from hypothesis import example, given
from hypothesis import strategies as st

from aiofiles_api import InvalidArgumentError
from aiofiles_api.multipart import Envelope, seal

# Lone surrogates are what os.fsdecode makes of bytes that are no text.
names = st.text(st.characters() | st.sampled_from('"\r\n\\;%\x00\ud800\udcff')) | st.sampled_from(
    ["", "a.txt", "x" * 10_000, '"' * 10_000, "Zeugnis für Ärzte.pdf", "日本語.jsonl", "a\r\nb: c"]
)
field_names = st.text("abcXYZ019_-[]", min_size=1)
contents = st.binary() | st.sampled_from([b"\r\n", b"\r\n--", b"--", b"\r\n\r\n"])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def body_of(envelope: Envelope, content: bytes) -> bytes:
    return envelope.prefix + content + envelope.suffix


def as_browsers_say(name: str) -> bytes:
    # https://html.spec.whatwg.org/#multipart-form-data, written down a second time
    named = "".join({'"': "%22", "\r": "%0D", "\n": "%0A"}.get(one, one) for one in name)
    return b"".join(
        b"\xef\xbf\xbd" if "\ud800" <= one <= "\udfff" else one.encode() for one in named
    )


@given(names, contents)
@example('"\r\n\\%22\ud800', b"\r\n--")
def test_the_announced_length_is_the_number_of_bytes(name: str, content: bytes) -> None:
    envelope = seal({"purpose": "batch"}, filename=name, content_type="text/plain")
    assert envelope.length(len(content)) == len(body_of(envelope, content))


def test_the_length_around_a_file_of_unknown_length_is_unknown() -> None:
    envelope = seal({}, filename="a", content_type="text/plain")
    assert envelope.length(None) is None


@given(names)
@example("\ud800-\udcff")
@example('"\r\n"')
def test_a_filename_is_written_by_the_rule_of_browsers(name: str) -> None:
    envelope = seal({"purpose": "batch"}, filename=name, content_type="text/plain", boundary="B")
    assert envelope.prefix == (
        b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="'
        + as_browsers_say(name)
        + b'"\r\nContent-Type: text/plain\r\n\r\n'
    )
    assert envelope.suffix == b"\r\n--B--\r\n"
    assert envelope.content_type == "multipart/form-data; boundary=B"


@given(names)
def test_no_filename_breaks_out_of_its_line(name: str) -> None:
    envelope = seal({}, filename=name, content_type="text/plain", boundary="B")
    assert envelope.prefix.count(b"\r\n") == envelope.prefix.count(b"\n") == 4
    assert envelope.prefix.count(b"\r") == 4
    assert envelope.prefix.count(b'"') == 4


@given(st.dictionaries(field_names, names), st.text(st.characters(categories=["L", "N"])), contents)
def test_the_reader_of_aiohttp_reads_it_back(
    loop: asyncio.AbstractEventLoop, fields: dict[str, str], filename: str, content: bytes
) -> None:
    envelope = seal(fields, filename=filename, content_type="application/jsonl")
    parts = loop.run_until_complete(read_back(envelope, content))
    assert [part[0] for part in parts] == [*fields, "file"]
    for (_, _, _, sent), value in zip(parts, fields.values(), strict=False):
        normalized = re.sub(r"\r\n|\r|\n", "\r\n", value)
        assert sent == re.sub("[\ud800-\udfff]", "\ufffd", normalized).encode()
    assert parts[-1][2:] == ("application/jsonl", content)


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1))
@example("a b.txt")
def test_the_reader_of_aiohttp_reads_printable_filenames_back(
    loop: asyncio.AbstractEventLoop, filename: str
) -> None:
    envelope = seal({}, filename=filename, content_type="text/plain")
    # It cuts directories off, reads escapes and encoded bytes, which browsers do not write, and
    # cannot read two semicolons.
    if not set(filename) & set('/\\%"') and filename.count(";") < 2:
        part = loop.run_until_complete(read_back(envelope, b""))[-1]
        assert part[:2] == ("file", filename)


async def read_back(
    envelope: Envelope, content: bytes
) -> list[tuple[str | None, str | None, str | None, bytes]]:
    """Return name, filename, media type and bytes of each part."""
    stream = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
    stream.feed_data(body_of(envelope, content))
    stream.feed_eof()
    reader = MultipartReader({"Content-Type": envelope.content_type}, stream)
    parts = []
    while (part := await reader.next()) is not None:
        assert isinstance(part, BodyPartReader)
        content_type = part.headers.get("Content-Type")
        parts.append((part.name, part.filename, content_type, bytes(await part.read())))
    return parts


def test_every_envelope_has_a_boundary_of_its_own_that_no_file_guesses() -> None:
    envelopes = [seal({}, filename="a", content_type="text/plain") for _ in range(100)]
    boundaries = {envelope.content_type for envelope in envelopes}
    assert len(boundaries) == 100
    assert all(re.search(r"boundary=[\w-]{40,70}$", boundary) for boundary in boundaries)


@given(st.text())
def test_newlines_within_a_field_are_those_of_the_network(value: str) -> None:
    envelope = seal({"x": value}, filename="a", content_type="text/plain", boundary="B")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", envelope.prefix)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain\r\nX-Evil: 1", "text/plän", "a\x00", "\n"]
)
def test_a_media_type_that_is_no_line_of_ascii_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is no media type; pass one like 'text/plain'"):
        seal({}, filename="a", content_type=content_type)
