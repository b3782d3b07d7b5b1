"""The command line as a whole: what commands there are."""

from __future__ import annotations

from cyclopts import App, Parameter

from aiofiles_api import __version__
from aiofiles_api.cli.commands import info, list_
from aiofiles_api.cli.delete import delete
from aiofiles_api.cli.demo import demo
from aiofiles_api.cli.download import download
from aiofiles_api.cli.journal import journal
from aiofiles_api.cli.screen import NAME
from aiofiles_api.cli.serve import serve
from aiofiles_api.cli.upload import upload

__all__ = ["app"]


def _usage(command: str, arguments: str) -> str:
    # cyclopts itself does not say that there may be several.
    return f"Usage: {NAME} {command} {arguments}"


app = App(
    name=NAME,
    help="""Move files to and from an OpenAI-compatible Files API.

The server and the key come from the environment: `OPENAI_BASE_URL` and `OPENAI_API_KEY`.

To see it work without either, try `aiofiles-api demo`.""",
    version=f"{NAME} {__version__}",
    help_format="markdown",
    default_parameter=Parameter(negative=()),
)
app.command(demo, sort_key=0)
app.command(upload, usage=_usage("upload", "--purpose PURPOSE [OPTIONS] PATH..."), sort_key=1)
app.command(list_, name="list", sort_key=2)
app.command(info, usage=_usage("info", "[OPTIONS] ID..."), sort_key=3)
app.command(download, usage=_usage("download", "[OPTIONS] ID... | --all"), sort_key=4)
app.command(delete, usage=_usage("delete", "[OPTIONS] ID... | --all"), sort_key=5)
app.command(journal, sort_key=6)
app.command(serve, sort_key=7)
