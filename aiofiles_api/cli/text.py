"""How values read: in a terminal, in a line for scripts, and in what people type.

Names and messages come from servers, and may hold anything. Nothing reaches a terminal before its
control characters, among them escape sequences and line breaks, are made visible.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import attrs

from aiofiles_api import FileObject, FilesError, JournalEntry

__all__ = [
    "Result",
    "Step",
    "complaint",
    "duration",
    "entry_fields",
    "failure_line",
    "file_fields",
    "files_of",
    "in_options",
    "json_line",
    "moment",
    "one_line",
    "printable",
    "size",
    "span",
]

_UNITS = ("kB", "MB", "GB", "TB", "PB")
_AS_A_FILE = "write it to a file first, and upload that"
_IN_OPTIONS = (
    ("pass overwrite=True", "leave out --no-overwrite"),
    ("pass api_key= (or an Authorization header)", "pass --api-key"),
    ("api_key=", "--api-key"),
    ("comes from reading a file: use .strip()", "comes from a file: take it away"),
    ("pass the id that upload() or list() gave", "pass an id that upload or list printed"),
    ("send them again with on_uncertain='resend', which", "begin another journal, which"),
    ("it is for base_url", "it is for this --base-url"),
    ("check base_url, or pass ssl=", "check --base-url, or set SSL_CERT_FILE"),
    (
        "check base_url, and ssl=, connector= and trace_configs= where they are yours",
        "check --base-url",
    ),
    ("heck base_url", "heck --base-url"),
    ("which belong into headers=", "which have no place there"),
    ("which belong into params=", "which have no place there"),
    ("or retry more patiently (RetryPolicy)", "or try again later"),
    (" (Timeouts.reply before its reply, .read within)", ""),
    ("for longer than Timeouts.reply", "for too long"),
    ("no connection within Timeouts.connect", "no connection in time"),
    (" (Timeouts.write)", ""),
    (" and NO_PROXY, or proxy=", " and NO_PROXY"),
    ("upload from a path, from bytes or a seekable file, or pass spool=True", _AS_A_FILE),
    (
        "upload from a path, from bytes or from a seekable file, or pass spool=True",
        _AS_A_FILE,
    ),
    (", or upload with spool=True", f"; the next time {_AS_A_FILE}"),
    ("use stream() to write to pipes and devices", "use -o - to write to pipes and devices"),
    ("without after=, and pass max_items=", "without --after, and pass --max-items"),
)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@attrs.frozen
class Result:
    """What a command has done for one file.

    Attributes:
        fields: The fields of its line for scripts, the id first.
        json: The same as a line of JSON, where that can be asked for.
        detail: What a terminal shows besides.
        is_done: Whether it is done, and not only what would be done.
    """

    fields: tuple[str, ...]
    json: str = ""
    detail: str = ""
    is_done: bool = True


@attrs.frozen
class Step:
    """What one step of several took.

    Attributes:
        name: What was done.
        files: To how many files.
        bytes: How many bytes were moved; 0 where none were.
        seconds: How long it took.
        peak: The most memory that the process held meanwhile, in bytes above its start.
    """

    name: str
    files: int
    bytes: int
    seconds: float
    peak: int


def printable(text: str) -> str:
    r"""Return `text` with every character that would not show as itself escaped, as in `\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if _shows(one) else _escaped(one) for one in text)


def one_line(text: str) -> str:
    """Return a message, which may have several lines, as one that is safe to print.

    Within a line all stays as it is, for it may be in a name; a name that may hold line breaks has
    to be made printable before it becomes a part of a message.
    """
    return printable(" ".join(line.strip() for line in text.split("\n") if line.strip()))


def _shows(character: str) -> bool:
    # Spaces of all kinds show well enough; they are common in the names of screenshots.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def size(count: float) -> str:
    """Return a number of bytes as people say it, in decimal units."""
    if count < 1000:  # noqa: PLR2004 - the first unit
        return f"{count:.0f} B"
    # What would be rounded to 1000.0 is one of the next unit.
    exponent = next((n for n in range(1, len(_UNITS)) if count < 999.95 * 1000**n), len(_UNITS))
    return f"{count / 1000**exponent:.1f} {_UNITS[exponent - 1]}"


def span(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 59.95:  # noqa: PLR2004 - would be rounded to a minute
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(seconds: int) -> str:
    """Return a Unix time as ISO 8601 has it, in UTC; a number that is no time is left as it is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def file_fields(file: FileObject) -> tuple[str, ...]:
    """Return the fields of a file's line for scripts; the last one may hold spaces."""
    return (file.id, str(file.bytes), moment(file.created_at), file.purpose, file.filename)


def entry_fields(entry: JournalEntry) -> tuple[str, ...]:
    """Return the fields of a journal entry's line for scripts; the last one may hold spaces."""
    return (
        entry.state,
        entry.kind,
        entry.key,
        entry.file_id or "",
        str(entry.attempts),
        moment(int(entry.updated_at)),
        one_line(entry.reason or ""),
    )


def json_line(value: attrs.AttrsInstance, **more: object) -> str:
    """Return a value of the API as one line of JSON, in ASCII: safe in every terminal and pipe.

    Raises:
        FilesError: It is nested more deeply than Python can write it.
    """
    # What else the server sent is JSON already, and may be nested deeply.
    fields = attrs.asdict(value, recurse=False)
    extra = fields.pop("extra", None)
    if isinstance(extra, Mapping):
        fields = {**extra, **fields}
    fields |= more
    try:
        return _dumped(fields)
    except RecursionError as error:
        raise FilesError("what the server sent is nested too deeply to be written") from error


def _dumped(fields: Mapping[str, object]) -> str:
    try:
        return json.dumps(fields, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(fields), default=str)


def _finite(value: object) -> object:
    """Return a value with null for the numbers that JSON cannot say, such as 1e999."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def files_of(count: int) -> str:
    """Return a number of files as people say it."""
    return "1 file" if count == 1 else f"{count:,} files"


def in_options(message: str) -> str:
    """Return a message of the library with options where that names arguments."""
    for argument, option in _IN_OPTIONS:
        message = message.replace(argument, option)
    return message


def complaint(name: str, error: FilesError) -> str:
    """Return what is wrong with a file, with its name in it."""
    message, shown = in_options(str(error)), printable(name)
    return message if shown in message else f"{shown}: {message}"


def failure_line(kind: str, name: str, error: FilesError, attempts: int) -> str:
    """Return what became of a file that came to nothing as one line of JSON."""
    fields = {kind: name, "error": type(error).__name__, "message": in_options(str(error))}
    return json.dumps({**fields, "attempts": attempts})


def duration(text: str) -> timedelta:
    """Read a duration: a number of seconds, or with a unit, as in `90s`, `45m`, `12h` or `30d`.

    Raises:
        ValueError: It is nothing of that kind.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write seconds, or 90s, 45m, 12h, 30d")
    number, unit = match.groups()
    return timedelta(seconds=int(number) * _SECONDS[unit])
