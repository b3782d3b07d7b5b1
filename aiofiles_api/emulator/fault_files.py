"""Read faults from a TOML file."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import attrs

from aiofiles_api.emulator.faults import KINDS, Fault, Kind

__all__ = ["FaultsFileError", "load_faults"]


def _name(kind: type[Kind]) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


_KINDS: Final[Mapping[str, type[Kind]]] = {_name(kind): kind for kind in KINDS}
_SHARED: Final = frozenset(field.name for field in attrs.fields(Fault)) - {"kinds"}


class FaultsFileError(ValueError):
    """A file of faults is not what it has to be."""


def load_faults(path: str | PathLike[str]) -> tuple[Fault, ...]:
    """Read the faults of a TOML file, each a table `[[fault]]`.

    A table has the fields of `Fault`, of which `kinds` is an array of tables: in each the `kind` is
    named, "lost-reply" for `LostReply`, beside its own fields. Where there is but one kind, its
    name and fields may stand in the fault's table itself.

    Raises:
        FaultsFileError: It is not TOML, or something in it is unknown, missing or out of bounds.
        OSError: It cannot be read.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        _refuse_unknown(document, ["fault"], "the file")
        tables = _tables(document.get("fault", []), "fault")
    except ValueError as error:
        raise FaultsFileError(f"{path}: {error}") from error
    faults: list[Fault] = []
    for number, table in enumerate(tables, 1):
        try:
            faults.append(_fault(table))
        except ValueError as error:
            raise FaultsFileError(f"{path}: fault {number}: {error}") from error
    return tuple(faults)


def _fault(table: Mapping[str, Any]) -> Fault:
    shared = {name: value for name, value in table.items() if name in _SHARED}
    rest = {name: value for name, value in table.items() if name not in _SHARED}
    if "kinds" not in rest:
        return Fault(_kind(rest), **shared)
    _refuse_unknown(rest, ["kinds", *_SHARED], "a fault of several kinds")
    return Fault([_kind(one) for one in _tables(rest["kinds"], "kinds")], **shared)


def _kind(table: Mapping[str, Any]) -> Kind:
    name = table.get("kind")
    if name is None:
        raise ValueError("no 'kind' is given")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"there is no kind {name!r}, but {_listed(_KINDS)}")
    values = {name: value for name, value in table.items() if name != "kind"}
    _refuse_unknown(values, [field.name for field in attrs.fields(kind)], repr(name))
    return kind(**values)


def _tables(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{name!r} must be an array of tables")
    return value


def _refuse_unknown(table: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in sorted(set(table) - set(known)):
        raise ValueError(f"{what} has no field {name!r}, but {_listed(known) or 'none at all'}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
