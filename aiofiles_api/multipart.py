"""The envelope of a `multipart/form-data` body: everything but the file's own bytes.

    --boundary CRLF part "purpose" … CRLF --boundary CRLF headers of "file" CRLF CRLF   prefix
    the file's bytes                                                                   (elsewhere)
    CRLF --boundary-- CRLF                                                              suffix

`file` is the last part, so that the body's exact length is known before the first byte of the file
is read. Names are written as browsers write them: UTF-8, with `"`, CR and LF as `%22`, `%0D` and
`%0A` and nothing else touched (https://html.spec.whatwg.org/#multipart-form-data, and RFC 7578
section 4.2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import attrs

from aiofiles_api.errors import InvalidArgumentError

__all__ = ["Envelope", "seal"]


_NEWLINE = re.compile(r"\r\n|\r|\n")


@attrs.frozen
class Envelope:
    """The bytes before and after a file's own.

    Attributes:
        prefix: All fields, and the headers of the file's part.
        suffix: The end of the body.
        content_type: The request's `Content-Type`, with the boundary.
    """

    prefix: bytes
    suffix: bytes
    content_type: str

    def length(self, file_length: int | None) -> int | None:
        """Return the body's length around a file of `file_length` bytes, if that is known."""
        if file_length is None:
            return None
        return len(self.prefix) + file_length + len(self.suffix)


def seal(
    fields: Mapping[str, str],
    *,
    filename: str,
    content_type: str,
    boundary: str | None = None,
) -> Envelope:
    """Make the envelope of a form with `fields` and one file.

    Args:
        fields: The other fields, in their order.
        filename: The file's name, any string.
        content_type: The media type of the file's part.
        boundary: For tests; by default 128 random bits, which no file holds by chance.

    Raises:
        InvalidArgumentError: `content_type` is not a line of printable ASCII.
    """
    if not content_type or not content_type.isascii() or not content_type.isprintable():
        msg = f"content_type: {content_type!r} is no media type; pass one like 'text/plain'"
        raise InvalidArgumentError(msg)
    delimiter = boundary or f"aiofiles-api-{os.urandom(16).hex()}"
    parts = [
        f'--{delimiter}\r\nContent-Disposition: form-data; name="{_quote(name)}"\r\n\r\n'
        f"{_normalize_newlines(value)}\r\n"
        for name, value in fields.items()
    ]
    parts.append(
        f'--{delimiter}\r\nContent-Disposition: form-data; name="file";'
        f' filename="{_quote(filename)}"\r\nContent-Type: {content_type}\r\n\r\n'
    )
    return Envelope(
        prefix=_encode("".join(parts)),
        suffix=f"\r\n--{delimiter}--\r\n".encode(),
        content_type=f"multipart/form-data; boundary={delimiter}",
    )


def _quote(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _normalize_newlines(value: str) -> str:
    return value if value.isprintable() else _NEWLINE.sub("\r\n", value)


def _encode(text: str) -> bytes:
    # A name that is no valid text on disk comes from os.fsdecode with lone surrogates, which UTF-8
    # cannot say; like a browser, write U+FFFD for each.
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()
