"""Names of files that are safe on every system, whatever a server sent."""

from __future__ import annotations

import os
import re
import unicodedata

__all__ = ["safe_filename"]

_LONGEST_NAME = 255
"""Bytes that a file system allows a name to have (POSIX NAME_MAX nearly everywhere)."""

_LONGEST_EXTENSION = 32

_ENOUGH = 1000
"""Characters of a long name's beginning, and of its end, that are looked at: fewer are kept."""

_RESERVED = r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\s|\.|$)"
"""Names of devices on Windows, with anything behind a space or a dot."""

_FORBIDDEN = frozenset('<>:"|?*')
"""What Windows allows in no name."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what does not show, or makes a name show otherwise than it is: control
characters, zero-width and direction marks and tags, surrogates, separators of lines."""

_JOINERS = frozenset("\u200c\u200d")
"""Of those, what Persian and Indic words and composed emoji need."""

_SHOWN = re.compile(
    r"[^\s._\u200c\u200d\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164"
    r"\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U00013441\U00013442\U0001d159\U000e0000-\U000e0fff]"
)
"""What a name must have one of, to be seen: no space, dot or line, and no character that is drawn
as nothing (Unicode's Default_Ignorable_Code_Point, and a few blanks besides)."""


def safe_filename(filename: str, *, fallback: str) -> str:
    """Return a name that is one plain file in a directory, whatever a server sent.

    Directories are cut off, characters that are unsafe on some system become `_`, names of
    devices and hidden files get a `_` in front, and it is cut to 255 bytes before its extension.

    Args:
        filename: What the server sent.
        fallback: The name to use where nothing of `filename` is left; made safe as well.
    """
    return _one_name(filename) or _one_name(fallback) or "file"


def _one_name(filename: str) -> str:
    """Return such a name, empty where it would not be seen."""
    name = _plain(filename)
    if name.startswith(".") or re.match(_RESERVED, name):
        name = f"_{name.lstrip('.')}"
    stem, extension = os.path.splitext(name)
    if len(extension.encode()) > _LONGEST_EXTENSION:
        stem, extension = name, ""
    name = _cut(stem, _LONGEST_NAME - len(extension.encode())) + extension
    return name if _SHOWN.search(name) else ""


def _plain(filename: str) -> str:
    """Return the last part of a path with what is unsafe replaced."""
    last = filename[max(filename.rfind("/"), filename.rfind("\\")) + 1 :]
    if len(last) > 2 * _ENOUGH:  # which would take long, on the loop in places
        last = last[:_ENOUGH] + last[-_ENOUGH:]
    name = "".join("_" if _is_unsafe(character) else character for character in last)
    return _strip_end(name.lstrip())


def _is_unsafe(character: str) -> bool:
    if character in _FORBIDDEN:
        return True
    return character not in _JOINERS and unicodedata.category(character) in _UNSEEN


def _strip_end(name: str) -> str:
    # Windows drops these by itself, and would open another file. Reversed, the search is linear.
    return re.sub(r"\A[\s.]+", "", name[::-1])[::-1]


def _cut(text: str, size: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= size else _strip_end(encoded[:size].decode(errors="ignore"))
