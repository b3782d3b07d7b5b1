"""`python -m aiofiles_api`, and the command `aiofiles-api`: the door to the `cli` extra."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line, or say which extra it needs; return the exit status."""
    try:
        from aiofiles_api.cli import run  # noqa: PLC0415 - its libraries may not be there
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        print(  # noqa: T201 - the one line that this command can say without its extra
            f"aiofiles-api: the command line needs {error.name}, which is not installed;"
            " run: pip install 'aiofiles_api[cli]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # while libraries were loaded: nothing has begun
    return run()


if __name__ == "__main__":
    sys.exit(main())
