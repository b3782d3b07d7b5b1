"""What can go wrong on the way, as values: a `Fault` says what happens, to what, and when.

What happens is of one kind, or of several to draw from. The kinds are plain values too: how they
act upon a connection stands in `injection`, which request they befall is decided in `schedule`.

Words that kinds share: `body` is the body of the request or that of the response. `at` is a place
in it: its "start", "middle" or "end", or the number of bytes that pass before; a shorter body is
befallen at its end, and the middle of one whose length nobody told is its start. `moment` is when
a wrong reply comes in the place of the right one: "early", before the request's body was read,
"instead" of doing what was asked for, or "afterwards", when it is done all the same.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs
from attrs.validators import optional

__all__ = [
    "KINDS",
    "OPERATIONS",
    "Body",
    "CutJson",
    "Delay",
    "Drip",
    "ErrorReply",
    "Fault",
    "HtmlReply",
    "IgnoreRange",
    "Kind",
    "LostReply",
    "Moment",
    "Operation",
    "Overlong",
    "Place",
    "RefuseConnections",
    "RepeatPage",
    "Reset",
    "RetryAfterForm",
    "Stall",
    "Truncate",
    "WrongContentRange",
    "WrongLength",
    "operations_of",
]

Operation = Literal["upload", "list", "retrieve", "delete", "content"]
Body = Literal["request", "response"]
Place: TypeAlias = int | Literal["start", "middle", "end"]
Moment = Literal["early", "instead", "afterwards"]
RetryAfterForm = Literal["seconds", "date", "milliseconds"]

OPERATIONS: Final[frozenset[Operation]] = frozenset(get_args(Operation))

_YEAR: Final = 366 * 24 * 3600

_Validator: TypeAlias = "Callable[[Any, attrs.Attribute[Any], Any], None]"


def _must_be(what: str, holds: Callable[[Any], bool]) -> _Validator:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if not holds(value):
            raise ValueError(f"{attribute.name!r} must be {what}, not {value!r}")

    return check


def _must_be_one_of(*names: str) -> _Validator:
    return _must_be(" or ".join(map(repr, names)), lambda it: it in names)


def _is_integer(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


_count = _must_be("an integer above 0", lambda it: _is_integer(it, 1))
_shift = _must_be("an integer other than 0", lambda it: _is_integer(it) and it != 0)
_status = _must_be("a status from 400 to 599", lambda it: _is_integer(it, 400, 599))
_integer = _must_be("an integer", _is_integer)
_seconds = _must_be("a number from 0 on", lambda it: _is_number(it, math.inf))
_seconds_to_a_date = _must_be("a number from 0 to a year", lambda it: _is_number(it, _YEAR))
_share = _must_be("a number from 0 to 1", lambda it: _is_number(it, 1))
_text = _must_be("a string", lambda it: isinstance(it, str))
_flag = _must_be("true or false", lambda it: isinstance(it, bool))
_body = _must_be_one_of(*get_args(Body))
_moment = _must_be_one_of(*get_args(Moment))
_place = _must_be(
    "'start', 'middle', 'end' or a number of bytes",
    lambda it: it in ("start", "middle", "end") or _is_integer(it, 0),
)


@attrs.frozen
class RefuseConnections:
    """Reset the connection, and refuse new ones for some seconds, as a server that restarts does.

    The listening socket is closed, and opened again on the same port. Other connections are closed
    too, each as soon as it has no request under way.
    """

    seconds: float = attrs.field(default=1.0, validator=_seconds)


@attrs.frozen
class Reset:
    """Reset the connection (TCP's RST) at a place in a body.

    Nothing is done then of what a request asks for whose own body this is. Bytes that went before
    are sent, but a client that reads slowly may lose some of them.
    """

    body: Body = attrs.field(default="response", validator=_body)
    at: Place = attrs.field(default="start", validator=_place)


@attrs.frozen
class LostReply:
    """Do what was asked for, and reset the connection instead of replying.

    With `orderly` it is closed in good order, as by a server that ends.
    """

    orderly: bool = attrs.field(default=False, kw_only=True, validator=_flag)


@attrs.frozen
class Delay:
    """Do what was asked for, and reply some seconds later: a slow page, for instance."""

    seconds: float = attrs.field(default=1.0, validator=_seconds)


@attrs.frozen
class Stall:
    """Let nothing pass for some seconds at a place in a body; `math.inf` is for ever."""

    body: Body = attrs.field(default="response", validator=_body)
    at: Place = attrs.field(default="middle", validator=_place)
    seconds: float = attrs.field(default=math.inf, validator=_seconds)


@attrs.frozen
class Drip:
    """Let a body pass in pieces of some bytes, with a pause of some seconds after each."""

    body: Body = attrs.field(default="response", validator=_body)
    size: int = attrs.field(default=1, validator=_count)
    pause: float = attrs.field(default=0.01, validator=_seconds)


@attrs.frozen
class Truncate:
    """Close the connection in good order at a place in the response, which promised more.

    What it promises is its Content-Length or, with `chunked`, the last chunk that never comes.
    """

    at: Place = attrs.field(default="middle", validator=_place)
    chunked: bool = attrs.field(default=False, kw_only=True, validator=_flag)


@attrs.frozen
class Overlong:
    """Send some bytes more than the response's Content-Length, which is right, says."""

    extra: int = attrs.field(default=1, validator=_count)


@attrs.frozen
class WrongLength:
    """Send all of the response under a Content-Length that is wrong by some bytes.

    Where it says more than there is, the connection is closed in good order behind the body; where
    it says less (`by` is negative), the connection stays open, with the rest of the body on it.
    """

    by: int = attrs.field(default=1, validator=_shift)


@attrs.frozen
class WrongContentRange:
    """Say of a part that it lies some bytes further on, or back, than it does."""

    shift: int = attrs.field(default=1, validator=_shift)


@attrs.frozen
class IgnoreRange:
    """Answer a request for a part with the whole, and 200."""


@attrs.frozen
class ErrorReply:
    """Answer with an error as the API documents it.

    `retry_after` counts seconds, which are told in a Retry-After header, as a number or a date, or
    as a number in `retry-after-ms`. `code` is the error's; `None` is the service's own for this
    status. 429 with "insufficient_quota" is how the service says that nothing was paid for.
    """

    status: int = attrs.field(default=503, validator=_status)
    retry_after: float | None = attrs.field(default=None, validator=optional(_seconds_to_a_date))
    retry_after_form: RetryAfterForm = attrs.field(
        default="seconds", validator=_must_be_one_of(*get_args(RetryAfterForm))
    )
    code: str | None = attrs.field(default=None, validator=optional(_text))
    moment: Moment = attrs.field(default="instead", validator=_moment)


@attrs.frozen
class HtmlReply:
    """Answer with an error as a gateway words it: a page of HTML."""

    status: int = attrs.field(default=502, validator=_status)
    moment: Moment = attrs.field(default="instead", validator=_moment)


@attrs.frozen
class RepeatPage:
    """Answer a request for a further page with the first one."""


@attrs.frozen
class CutJson:
    """Cut the JSON of a reply in half, under a Content-Length that fits."""


Kind: TypeAlias = (
    RefuseConnections
    | Reset
    | LostReply
    | Delay
    | Stall
    | Drip
    | Truncate
    | Overlong
    | WrongLength
    | WrongContentRange
    | IgnoreRange
    | ErrorReply
    | HtmlReply
    | RepeatPage
    | CutJson
)

KINDS: Final[tuple[type[Kind], ...]] = get_args(Kind)


def operations_of(kind: Kind) -> frozenset[Operation]:
    """Tell which operations a kind can befall."""
    match kind:
        case Reset("request") | Stall("request") | Drip("request"):
            return frozenset({"upload"})
        case WrongContentRange() | IgnoreRange():
            return frozenset({"content"})
        case RepeatPage():
            return frozenset({"list"})
        case CutJson():
            return OPERATIONS - {"content"}
        case _:
            return OPERATIONS


def _as_tuple(kinds: Kind | Iterable[Kind]) -> tuple[Kind, ...]:
    return tuple(kinds) if isinstance(kinds, Iterable) else (kinds,)


@attrs.frozen
class Fault:
    """Let something go wrong: one of `kinds`, in the operation `on`, at the requests that are due.

    Only requests that it could befall count. From the `nth` of them on, counted from 1, it befalls
    each with a `probability`, until that has happened so many `times`: without a limit, but once
    where `nth` is given. A request has one fault, the first that befalls it; the others then wait
    for the next request.

    What is drawn, whether and which kind, comes from `seed` and the fault's place among the faults:
    the same requests in the same order have the same faults.

    Raises:
        TypeError: What is given for a kind is none.
        ValueError: A value is out of its bounds, or a kind can never befall `on`.
    """

    kinds: tuple[Kind, ...] = attrs.field(converter=_as_tuple)
    on: Operation | Literal["any"] = attrs.field(
        default="any", kw_only=True, validator=_must_be_one_of("any", *get_args(Operation))
    )
    nth: int | None = attrs.field(default=None, kw_only=True, validator=optional(_count))
    times: int | None = attrs.field(default=None, kw_only=True, validator=optional(_count))
    probability: float = attrs.field(default=1.0, kw_only=True, validator=_share)
    seed: int = attrs.field(default=0, kw_only=True, validator=_integer)

    def __attrs_post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("'kinds' must name at least one kind of fault")
        for kind in self.kinds:
            if not isinstance(kind, Kind):
                raise TypeError(f"{kind!r} is not a kind of fault")
            if self.on not in {"any", *operations_of(kind)}:
                raise ValueError(f"{kind!r} cannot befall {self.on!r}")
