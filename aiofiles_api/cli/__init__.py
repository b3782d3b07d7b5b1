"""The command line, `aiofiles-api`: a thin skin over the public API, with the `cli` extra.

process      the streams, signals and exit status around a command
app          the commands: those in `commands`, `serve` and `demo`
batch        the same for many files, some at a time
screen       what is said, to whom, and in which form
terminal     how a person sees it, with `rows` and `bars`; these three alone know rich
text         how values read
"""

import rich  # noqa: F401 - its absence is to be told now, not when the first bar is drawn

from aiofiles_api.cli.app import app
from aiofiles_api.cli.process import run

__all__ = ["app", "run"]
