"""Read a multipart/form-data body, whatever the chunks it comes in.

Sans I/O: bytes go in, events come out. Inside a part only the next delimiter is looked for, by one
`bytes.find` over the whole chunk; all that cannot be the beginning of a delimiter is handed on at
once and uncopied. How the body was cut into chunks never changes what is read from it.
"""

import enum
import re
from typing import Final

import attrs

__all__ = [
    "FormError",
    "FormEvent",
    "FormParser",
    "PartBegin",
    "PartData",
    "PartEnd",
    "boundary_of",
]

MAX_HEAD_BYTES: Final = 128 * 1024
"""The most that the headers of one part may take: a filename of 32 KiB fits even if escaped."""

_MAX_DELIMITER_LINE_BYTES: Final = 256  # what follows the boundary on its line: white space
_MAX_BOUNDARY_CHARS: Final = 70  # RFC 2046, section 5.1.1

# WHATWG: a value in quotes ends at the next quote, and a backslash is just a backslash.
_PARAMETER: Final = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"([^"]*)"|([^\s;"]*))\s*')

# The three escapes of browsers, in just this spelling; every other per cent sign is a literal one.
_ESCAPE: Final = re.compile("%22|%0D|%0A")
_UNESCAPED: Final = {"%22": '"', "%0D": "\r", "%0A": "\n"}


class FormError(ValueError):
    """The body is not a well-formed multipart/form-data body."""


@attrs.frozen
class PartBegin:
    """A part begins: the name of its field, and its filename where it has one."""

    name: str
    filename: str | None


@attrs.frozen
class PartData:
    """Some of the part's content, never empty."""

    data: memoryview


@attrs.frozen
class PartEnd:
    """The part is complete."""


FormEvent = PartBegin | PartData | PartEnd


class _State(enum.Enum):
    PREAMBLE = enum.auto()  # before the first delimiter
    DELIMITER = enum.auto()  # behind a boundary, on its line
    HEAD = enum.auto()  # in the headers of a part
    BODY = enum.auto()  # in the content of a part
    EPILOGUE = enum.auto()  # behind the last delimiter


def boundary_of(content_type: str) -> str:
    """Take the boundary out of a Content-Type header.

    Raises:
        FormError: It is not multipart/form-data, or has no boundary of 1 to 70 ASCII characters.
    """
    kind, parameters = _read_parameters(content_type)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/form-data":
        raise FormError("The body must be multipart/form-data.")
    if not (0 < len(boundary) <= _MAX_BOUNDARY_CHARS and boundary.isascii()):
        raise FormError("The Content-Type must name a boundary of 1 to 70 ASCII characters.")
    return boundary


class FormParser:
    """Turn the chunks of one body into events."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # Received, but not to be judged before more is known. This CRLF belongs to the first
        # delimiter, which lacks one of its own where nothing stands before it.
        self._held = b"\r\n"
        self._state = _State.PREAMBLE

    def feed(self, chunk: bytes) -> list[FormEvent]:
        """Take the next chunk and give the events that it completes.

        Raises:
            FormError: The body is malformed; the parser is then of no further use.
        """
        data = self._held + chunk if self._held else chunk
        events: list[FormEvent] = []
        start, more_is_needed = 0, False
        while not more_is_needed:
            start, more_is_needed = self._step(data, start, events)
        self._held = data[start:]
        return events

    def close(self) -> None:
        """Check, where the body ends, that its last delimiter has come.

        Raises:
            FormError: The body was cut.
        """
        if self._state is not _State.EPILOGUE:
            raise FormError("The body ends before its last boundary.")

    def _step(self, data: bytes, start: int, events: list[FormEvent]) -> tuple[int, bool]:
        """Read one element; tell where the next one starts and whether that needs more data."""
        match self._state:
            case _State.DELIMITER:
                return self._read_delimiter_line(data, start)
            case _State.HEAD:
                return self._read_head(data, start, events)
            case _State.EPILOGUE:
                return len(data), True
            case _:
                return self._read_content(data, start, events)

    def _read_content(self, data: bytes, start: int, events: list[FormEvent]) -> tuple[int, bool]:
        found = data.find(self._delimiter, start)
        end = found if found >= 0 else self._possible_delimiter(data, start)
        if self._state is _State.BODY:
            if end > start:
                events.append(PartData(memoryview(data)[start:end]))
            if found >= 0:
                events.append(PartEnd())
        if found < 0:
            return end, True
        self._state = _State.DELIMITER
        return found + len(self._delimiter), False

    def _possible_delimiter(self, data: bytes, start: int) -> int:
        """Find where a delimiter may have begun that goes on in the next chunk, or the end."""
        start = max(start, len(data) - len(self._delimiter) + 1)
        while (start := data.find(b"\r", start)) >= 0:
            if self._delimiter.startswith(data[start:]):
                return start
            start += 1
        return len(data)

    def _read_delimiter_line(self, data: bytes, start: int) -> tuple[int, bool]:
        if data.startswith(b"--", start):
            self._state = _State.EPILOGUE
            return start, False
        end = _find(b"\r\n", data, start, _MAX_DELIMITER_LINE_BYTES, "The line of a boundary")
        if end < 0:
            return start, True
        if data[start:end].strip(b" \t"):
            raise FormError("A boundary is followed by something else on its line.")
        # The line's own CRLF is left to the head, which thus ends in CRLF CRLF even when empty.
        self._state = _State.HEAD
        return end, False

    def _read_head(self, data: bytes, start: int, events: list[FormEvent]) -> tuple[int, bool]:
        end = _find(b"\r\n\r\n", data, start, MAX_HEAD_BYTES, "The head of a part")
        if end < 0:
            return start, True
        events.append(_read_disposition(data[start:end].decode("utf-8", "replace")))
        self._state = _State.BODY
        return end + len(b"\r\n\r\n"), False


def _find(mark: bytes, data: bytes, start: int, limit: int, what: str) -> int:
    """Find a mark within so many bytes, or give -1 while it may still come."""
    end = data.find(mark, start, start + limit)
    if end < 0 and len(data) - start >= limit:
        raise FormError(f"{what} is longer than {limit} bytes.")
    return end


def _read_disposition(head: str) -> PartBegin:
    values: list[str] = []
    for line in head.split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise FormError("A line in the head of a part is not a header.")
        if name.strip().lower() == "content-disposition":
            values.append(value)
    if len(values) != 1:
        raise FormError("Each part needs one Content-Disposition.")
    kind, parameters = _read_parameters(values[0])
    if kind != "form-data" or "name" not in parameters:
        raise FormError("A part's Content-Disposition must be form-data and name its field.")
    filename = parameters.get("filename")
    return PartBegin(
        _unescape(parameters["name"]), None if filename is None else _unescape(filename)
    )


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda it: _UNESCAPED[it[0]], value)


def _read_parameters(header: str) -> tuple[str, dict[str, str]]:
    """Take a header apart into its value, in lower case, and that value's parameters."""
    value, semicolon, rest = header.partition(";")
    rest = (semicolon + rest).rstrip("; \t")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(rest):
        parameter = _PARAMETER.match(rest, position)
        if parameter is None or parameter[1].lower() in parameters:
            raise FormError("A header's parameters are malformed.")
        quoted, token = parameter[2], parameter[3]
        parameters[parameter[1].lower()] = token if quoted is None else quoted
        position = parameter.end()
    return value.strip().lower(), parameters
