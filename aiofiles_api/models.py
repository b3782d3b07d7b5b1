"""Frozen values for what the API sends and takes, and the one converter that reads them.

Compatible servers differ from the API's description in small ways, so reading is tolerant: unknown
fields are kept in `extra`, unknown purposes and statuses pass as strings, an optional field that is
absent, null or an empty string has its default, and a number may be a float or a string of digits.
What cannot be repaired is an `APIResponseError` that names the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from operator import itemgetter
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, TypeVar

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

from aiofiles_api.errors import APIResponseError, InvalidArgumentError

__all__ = [
    "DeletedFile",
    "DownloadedFile",
    "ExpiresAfter",
    "FileObject",
    "FilePage",
    "Order",
    "check_text",
    "file_id",
    "structure",
    "structure_files",
]

Order: TypeAlias = Literal["asc", "desc"]
"""By `created_at`: oldest first, or newest first."""

# Within FileObject the name `object` is a field.
_Extra: TypeAlias = Mapping[str, object]

_SHORTEST_LIFE = 3_600
_LONGEST_LIFE = 2_592_000

_UNFIT_FOR_ID = re.compile(r"[/\\?#%\s]")

_EPOCH = datetime.fromtimestamp(0, UTC)


# Without slots, all fields can be set at once, and listings make such objects by the million.
@attrs.frozen(slots=False)
class FileObject:
    """A file as the server describes it.

    Attributes:
        id: The identifier that the other calls take.
        bytes: The file's length.
        created_at: Unix time in seconds; `created` is the same as an aware datetime.
        filename: The name as the server keeps it; it may hold anything, so never use it as a path.
        purpose: What the file is for, such as `"batch"`.
        object: Always `"file"`.
        status: `"uploaded"`, `"processed"` or `"error"`; deprecated, and absent on some servers.
        status_details: Why processing failed; deprecated.
        expires_at: Unix time in seconds after which the file is gone; `expires` as a datetime.
        extra: Every further field that the server sent.
    """

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str | None = None
    status_details: str | None = None
    expires_at: int | None = None
    extra: _Extra = attrs.field(factory=dict, eq=False)

    @property
    def created(self) -> datetime:
        """The time of creation, in UTC.

        Raises:
            APIResponseError: The server sent a number that no calendar knows.
        """
        return _moment("created_at", self.created_at)

    @property
    def expires(self) -> datetime | None:
        """The time of expiry in UTC, or `None` for a file that stays.

        Raises:
            APIResponseError: The server sent a number that no calendar knows.
        """
        return None if self.expires_at is None else _moment("expires_at", self.expires_at)


def _moment(field: str, seconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        msg = f"{field}: {seconds:,} seconds after 1970 are beyond any calendar"
        raise APIResponseError(msg, retryable=False) from error


@attrs.frozen
class FilePage:
    """One page of a listing, as the server sent it.

    Attributes:
        data: The files.
        first_id: The first file's id; `None` where the server leaves it out.
        last_id: The last file's id; `None` where the server leaves it out.
        has_more: Whether another page follows.
    """

    data: tuple[FileObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


@attrs.frozen
class DeletedFile:
    """The server's word that a file is gone.

    Attributes:
        id: The file's id.
        deleted: Whether this call deleted it; `False` where `missing_ok=True` found it gone.
        object: Always `"file"`.
    """

    id: str
    deleted: bool = True
    object: str = "file"


@attrs.frozen
class DownloadedFile:
    """A finished download.

    Attributes:
        file_id: The file's id.
        path: Where the file is now.
        bytes: Its length.
        sha256: The digest in lower-case hex, where one was passed to be compared; else `None`.
        attempts: How many requests for the content it took.
        resumed_from: The offset from which an earlier call's part file was continued; 0 for none.
    """

    file_id: str
    path: Path
    bytes: int
    sha256: str | None
    attempts: int
    resumed_from: int


@attrs.frozen
class ExpiresAfter:
    """When an uploaded file shall expire.

    Attributes:
        seconds: Seconds after the anchor, from 3,600 (an hour) to 2,592,000 (30 days).
        anchor: The API knows only `"created_at"`.

    Raises:
        InvalidArgumentError: `seconds` is out of range.
    """

    seconds: int
    anchor: Literal["created_at"] = "created_at"

    def __attrs_post_init__(self) -> None:
        """Refuse what the API would refuse."""
        in_range = type(self.seconds) is int and _SHORTEST_LIFE <= self.seconds <= _LONGEST_LIFE
        if not in_range or self.anchor != "created_at":
            msg = (
                f"expires_after: {self.seconds!r} seconds after {self.anchor!r} is out of bounds;"
                f" pass whole seconds from {_SHORTEST_LIFE:,} (an hour) to {_LONGEST_LIFE:,}"
                " (30 days) after 'created_at'"
            )
            raise InvalidArgumentError(msg)

    @classmethod
    def of(cls, value: ExpiresAfter | timedelta | int) -> ExpiresAfter:
        """Read the ways in which a caller may say it: as a `timedelta`, or in whole seconds."""
        if isinstance(value, ExpiresAfter):
            return value
        if isinstance(value, timedelta):
            seconds = value.total_seconds()
            return cls(int(seconds) if seconds.is_integer() else seconds)  # type: ignore[arg-type]
        return cls(value)


def file_id(file: str | FileObject) -> str:
    """Return the id of a file, refusing one that would not stay in its place in a URL.

    Raises:
        InvalidArgumentError: It is empty, `.` or `..`, or holds a slash, a backslash, any of
            `? # %`, whitespace, or a control or other character that cannot be printed.
    """
    identifier = file.id if isinstance(file, FileObject) else file
    if not isinstance(identifier, str):
        msg = f"file: pass an id or a FileObject, not {type(identifier).__name__}"
        raise InvalidArgumentError(msg)
    if (
        identifier in {"", ".", ".."}
        or not identifier.isprintable()
        or _UNFIT_FOR_ID.search(identifier)
    ):
        msg = f"file: {identifier[:80]!r} is no file id; pass the id that upload() or list() gave"
        raise InvalidArgumentError(msg)
    return identifier


def check_text(name: str, value: object) -> None:
    """Refuse an argument that is neither a string nor `None`.

    Raises:
        InvalidArgumentError: It is something else.
    """
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(f"{name}: pass a str, not {type(value).__name__}")


T = TypeVar("T")
D = TypeVar("D")
Model = TypeVar("Model", FileObject, DeletedFile)


def structure(payload: object, model: type[Model]) -> Model:
    """Read a decoded JSON value as a model.

    Raises:
        APIResponseError: It is not an object, or a field is missing or of the wrong kind.
    """
    # Messages name kinds, never values: a hostile server could echo the key in any of them.
    if not isinstance(payload, dict):
        msg = f"expected a JSON object for a {model.__name__}, not a {type(payload).__name__}"
        raise APIResponseError(msg)
    if model is FileObject and (file := _file_as_described(payload)) is not None:
        return file  # type: ignore[return-value]  # that is the model
    try:
        return _converter().structure(payload, model)
    except KeyError as error:
        msg = f"a {model.__name__} without the field {error}"
        raise APIResponseError(msg) from error
    except (ValueError, OverflowError) as error:
        msg = f"a {model.__name__} with a field that cannot be read: {error}"
        raise APIResponseError(msg) from error


def _file_as_described(payload: Mapping[str, object]) -> FileObject | None:
    """Return a file at once, if it is one just as the API describes it."""
    fields = {**_OPTIONAL, **payload}
    try:
        values = _fields_of(fields)
    except KeyError:
        return None
    if tuple(map(type, values)) not in _KINDS or len(fields) != len(_FILE_FIELDS) or "" in values:
        return None
    fields["extra"] = {}
    file = object.__new__(FileObject)
    object.__setattr__(file, "__dict__", fields)
    return file


def structure_files(payloads: Sequence[object]) -> Iterator[FileObject]:
    """Read decoded JSON values as files, each when it is asked for; they become a part of them.

    Where all are as the API describes files, that takes a fraction of the time. Where anything at
    all is otherwise, the converter repairs or refuses it.

    Raises:
        APIResponseError: One is not an object, or a field is missing or of the wrong kind.
    """
    extras: Iterator[dict[str, object]] | None = None
    files: Sequence[dict[str, object]] = payloads  # type: ignore[assignment]  # if as described
    if not _are_as_described(payloads):
        completed = _completed(payloads)
        if completed is None:
            yield from map(_structure_of_page, payloads)
            return
        files, extras = completed[0], iter(completed[1])
    # Names of this function are found faster than others, which counts with a million files.
    new, set_attribute = object.__new__, object.__setattr__
    for fields in files:
        fields["extra"] = {} if extras is None else next(extras)
        # All at once: __init__ sets them one by one, which takes several times as long.
        file = new(FileObject)
        set_attribute(file, "__dict__", fields)
        yield file


def _structure_of_page(payload: object) -> FileObject:
    try:
        return structure(payload, FileObject)
    except APIResponseError as error:
        raise APIResponseError(f"listing files: {error}; check base_url") from error


def _completed(
    payloads: Sequence[Any],
) -> tuple[list[dict[str, object]], list[dict[str, object]]] | None:
    """Add to objects what the API leaves out, and take off what it does not know.

    Returns:
        The objects and what was taken off them, or `None` if they are not as described even so.
    """
    try:
        files = [{**_OPTIONAL, **payload} for payload in payloads]
    except TypeError:  # one is no object
        return None
    extras = [_taken_off(file) if len(file) > len(_FILE_FIELDS) else {} for file in files]
    return (files, extras) if _are_as_described(files) else None


def _taken_off(file: dict[str, object]) -> dict[str, object]:
    return {name: file.pop(name) for name in sorted(file.keys() - _FILE_FIELDS)}


def _are_as_described(payloads: Sequence[object]) -> bool:
    """Whether all are objects with the fields of a file, each of its kind and no others.

    They are looked at field by field, not file by file: so the loops are the interpreter's own.
    """
    try:
        columns = zip(*map(_fields_of, payloads), strict=True)
        ids, sizes, times, names, purposes, kinds, statuses, details, expiries = columns
        notes = {*statuses, *details}
        for strings in (ids, names, purposes):
            "".join(strings)  # a TypeError if one is something else
    except (KeyError, TypeError, ValueError):
        return False
    return (
        set(map(type, payloads)) == {dict}
        and set(map(len, payloads)) == {len(_FILE_FIELDS)}  # type: ignore[arg-type]  # dicts
        and set(map(type, sizes)) | set(map(type, times)) == {int}
        and set(map(type, expiries)) <= {int, NoneType}
        and kinds.count("file") == len(kinds)
        and set(map(type, notes)) <= {str, NoneType}
        and "" not in notes
    )


def _string(value: object, _: object) -> str:
    if isinstance(value, str):
        return value
    msg = f"{type(value).__name__} instead of a string"
    raise ValueError(msg)


def _integer(value: object, _: object) -> int:
    if type(value) is int:
        return value
    # Some servers send timestamps as floats, or numbers as strings of digits.
    if isinstance(value, float) or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    msg = f"{type(value).__name__} instead of a whole number"
    raise ValueError(msg)


def _boolean(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    msg = f"{type(value).__name__} instead of true or false"
    raise ValueError(msg)


def _or(default: D, read: Callable[[object, object], T]) -> Callable[[object, object], T | D]:
    def structure_optional(value: object, kind: object) -> T | D:
        return default if value is None or value == "" else read(value, kind)

    return structure_optional


_FILE_FIELDS = frozenset(field.name for field in attrs.fields(FileObject)) - {"extra"}

_OPTIONAL: Mapping[str, object] = {
    field.name: field.default
    for field in attrs.fields(FileObject)
    if field.default is not attrs.NOTHING and field.name in _FILE_FIELDS
}
"""What the fields are that a server may leave out."""

_fields_of: Callable[[Any], tuple[object, ...]] = itemgetter(
    *(field.name for field in attrs.fields(FileObject)[:-1])
)

_KINDS = frozenset(
    (str, int, int, str, str, str, status, details, expiry)
    for status in (str, NoneType)
    for details in (str, NoneType)
    for expiry in (int, NoneType)
)
"""Of which types the values of those fields are."""


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(str | None, _or(None, _string))
    converter.register_structure_hook(int | None, _or(None, _integer))
    object_field = override(struct_hook=_or("file", _string))
    deleted = make_dict_structure_fn(
        DeletedFile,
        converter,
        _cattrs_detailed_validation=False,
        deleted=override(struct_hook=_or(True, _boolean)),
        object=object_field,
    )
    converter.register_structure_hook(DeletedFile, deleted)
    known_fields = make_dict_structure_fn(
        FileObject,
        converter,
        _cattrs_detailed_validation=False,
        object=object_field,
        # Filled below, with values that are kept as they came.
        extra=override(struct_hook=lambda value, _: value),
    )

    def structure_file(payload: dict[str, object], kind: type[FileObject]) -> FileObject:
        unknown = sorted(payload.keys() - _FILE_FIELDS)
        return known_fields({**payload, "extra": {name: payload[name] for name in unknown}}, kind)

    converter.register_structure_hook(FileObject, structure_file)
    return converter
