"""The types of arguments and options that several commands have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, TypeAlias

from cyclopts import Parameter, Token, validators

from aiofiles_api import ExpiresAfter
from aiofiles_api.cli.text import duration

__all__ = [
    "Age",
    "AsJson",
    "Concurrency",
    "Digest",
    "DryRun",
    "Flag",
    "Globs",
    "Ids",
    "Lifetime",
    "Purpose",
    "RequestsPerMinute",
]


def _age(_: object, tokens: Iterable[Token]) -> timedelta:
    (token,) = tokens
    return duration(token.value)


def _lifetime(_: object, tokens: Iterable[Token]) -> timedelta:
    (token,) = tokens
    lifetime = duration(token.value)
    ExpiresAfter.of(lifetime)
    return lifetime


def _check_digest(_: object, digest: str | None) -> None:
    if digest is not None and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise ValueError("It must be 64 hexadecimal digits.")


Age: TypeAlias = Annotated[timedelta | None, Parameter(converter=_age)]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", show_default=False)]
Concurrency: TypeAlias = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1000))]
Digest: TypeAlias = Annotated[str | None, Parameter(validator=_check_digest)]
DryRun: TypeAlias = Annotated[bool, Parameter(alias="-n", show_default=False)]
Flag: TypeAlias = Annotated[bool, Parameter(show_default=False)]
Globs: TypeAlias = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Ids: TypeAlias = Annotated[list[str], Parameter(name="ID")]
Lifetime: TypeAlias = Annotated[timedelta | None, Parameter(converter=_lifetime)]
Purpose: TypeAlias = Annotated[str | None, Parameter(alias="-p")]
RequestsPerMinute: TypeAlias = Annotated[
    float | None, Parameter(name="--rpm", validator=validators.Number(gt=0))
]
