"""The record of bulk runs on disk, so that one that was killed goes on where it was.

A SQLite database in WAL mode, in a thread of its own. Calls that come while a commit is under way
are committed together with the next one, so that a write costs little even though every commit
waits for the disk (`synchronous=FULL`: not even a power cut takes back what was said to be done).

Nothing is guessed: an entry carries a checksum over all its columns, and at the opening the whole
database is looked through. A lock file beside it keeps a second process out; SQLite's own locks
could not, because readers shall come in, and one on the database itself would be lost as soon as
anybody in this process closed another descriptor of it (fcntl(2)).
"""

from aiofiles_api.journal.record import Journal, read_journal
from aiofiles_api.journal.rows import JournalEntry, Kind, Row, State

__all__ = ["Journal", "JournalEntry", "Kind", "Row", "State", "read_journal"]
