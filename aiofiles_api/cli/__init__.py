"""The command line, `aiofiles-api`: a thin skin over the public API, with the `cli` extra.

process      the streams, signals and exit status around a command
app          the commands: `upload`, `download`, `delete`, `journal`, `serve`, `demo`, `commands`
gathering    which local files are meant, held by `preflight` against what the service takes
selection    which of the server's files are meant; `existing`: what to leave out of an upload
outcomes     what becomes of many files, told as it happens and in the end
spool        what was found, in any number
screen       what is said, to whom, and in which form
terminal     how a person sees it, with `rows` and `bars`; these three alone know rich
text         how values read
"""

import rich  # noqa: F401 - its absence is to be told now, not when the first bar is drawn

from aiofiles_api.cli.app import app
from aiofiles_api.cli.process import run

__all__ = ["app", "run"]
