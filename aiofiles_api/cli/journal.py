"""`journal`: what the journal of a bulk run says, for people and for scripts."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import Literal

from aiofiles_api import JournalEntry, read_journal
from aiofiles_api.cli.options import AsJson
from aiofiles_api.cli.screen import Screen

__all__ = ["journal"]

_AT_A_TIME = 100
_STATES = ("done", "failed", "started", "planned")


async def journal(
    file: str,
    /,
    *,
    state: Literal["planned", "started", "done", "failed"] | None = None,
    as_json: AsJson = False,
) -> int:
    """Show what a journal says of each file.

    It can be read while another process writes it. To a pipe it prints lines of state, kind, path
    or id, the file's id, attempts, time and reason, with tabs between them.

    Args:
        file: The journal.
        state: Only files in this state.
        as_json: Print a line of JSON for each file.
    """
    screen = Screen(as_json=as_json)
    counts: Counter[str] = Counter()
    waiting: list[JournalEntry] = []
    with screen.told_if_interrupted(lambda: f"{sum(counts.values()):,} entries read"):
        async with aclosing(read_journal(file)) as entries:
            async for entry in entries:
                counts[entry.state] += 1
                if state in {None, entry.state}:
                    waiting.append(entry)
                if len(waiting) == _AT_A_TIME:
                    await screen.entries(waiting)
                    waiting.clear()
        await screen.entries(waiting)
    told = ", ".join(f"{counts[one]:,} {one}" for one in _STATES if counts[one])
    screen.remark(told or "nothing is in it")
    return 0
