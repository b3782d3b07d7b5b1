"""The command line, `aiofiles-api`: a thin skin over the public API, with the `cli` extra.

    app -> commands, serve, demo -> batch -> screen -> terminal -> text

`process` runs the app as a process; `terminal` is the only one that needs rich.
"""

import rich  # noqa: F401 - its absence is to be told now, not when the first bar is drawn

from aiofiles_api.cli.app import app
from aiofiles_api.cli.process import run

__all__ = ["app", "run"]
