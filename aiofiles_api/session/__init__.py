"""Connections, credentials, timeouts, redirects, errors, and the retry loop.

The only room of the core that knows aiohttp. `SessionManager` sends a `protocol.Request`, gives
back an `Exchange` whose body is still to be read, and turns every exception of aiohttp into one of
ours. What aiohttp would do by itself and we must do otherwise is switched off:

- redirects: it would forward `api-key` to other origins, and turn a POST into a GET;
- the environment's proxies: a netrc entry would clash with our `Authorization`;
- its total timeout: 300 s would end every large transfer; and its bound on silence, which ends with
  the first 1xx and with what it cannot parse;
- decompression of content, cookies, and waiting for a connection (our own slots come first, so
  that the bound on connecting does not count the time in the queue).

Work is registered with the session while it runs, so that `aclose()` can interrupt it from any
task: whoever was interrupted gets `ClientClosedError`, and nothing is left behind.

    manager      requests, redirects, closing
    ├─ retries       the attempts of one operation
    ├─ exchange      a request that was sent, and its reply
    ├─ failures      what an exception of aiohttp becomes
    ├─ payload       what is sent, and whether it moves
    ├─ connector     aiohttp's connections and replies, made stricter
    ├─ slots         which request goes next
    ├─ operations    what is under way, and can be interrupted
    ├─ credentials   the key, and what must not show
    ├─ proxies       the way there
    └─ turn          a fair share of the loop
"""

from aiofiles_api.session.exchange import Exchange
from aiofiles_api.session.manager import Connector, SessionManager, TlsSetting, TraceConfig
from aiofiles_api.session.payload import OpenBody
from aiofiles_api.session.retries import Retries
from aiofiles_api.session.slots import beside_the_queue

__all__ = [
    "Connector",
    "Exchange",
    "OpenBody",
    "Retries",
    "SessionManager",
    "TlsSetting",
    "TraceConfig",
    "beside_the_queue",
]
