"""The command line as a whole: what commands there are."""

from __future__ import annotations

from cyclopts import App, Parameter

from aiofiles_api import __version__
from aiofiles_api.cli.commands import delete, download, info, list_, upload
from aiofiles_api.cli.demo import demo
from aiofiles_api.cli.screen import NAME
from aiofiles_api.cli.serve import serve

__all__ = ["app"]

app = App(
    name=NAME,
    help="""Move files to and from an OpenAI-compatible Files API.

The server and the key come from the environment: OPENAI_BASE_URL and OPENAI_API_KEY.
To see it work without either: aiofiles-api demo""",
    version=f"{NAME} {__version__}",
    help_format="plaintext",
    default_parameter=Parameter(negative=(), show_default=False),
)
app.command(demo, sort_key=0)
app.command(upload, sort_key=1)
app.command(list_, name="list", sort_key=2)
app.command(info, sort_key=3)
app.command(download, sort_key=4)
app.command(delete, sort_key=5)
app.command(serve, sort_key=6)
