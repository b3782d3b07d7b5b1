"""Which proxy a request goes through: the caller's, the environment's, or none."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from aiofiles_api.config import Config, proxy_of_environment, secrets_of_proxy
from aiofiles_api.protocol import origin
from aiofiles_api.session.credentials import Credentials

__all__ = ["Proxies"]


class Proxies:
    """The proxy for each origin; the environment is asked once for each.

    aiohttp is not left to ask it: a netrc entry would clash with our `Authorization`.

    Args:
        config: The caller's proxy, and whether the environment is to be asked.
        credentials: Told of the secrets in what the environment says.
    """

    def __init__(self, config: Config, credentials: Credentials) -> None:
        self._proxy = config.proxy
        self._asks_environment = config.proxy is None and config.trust_env
        self._credentials = credentials
        self._found: dict[str, str | None] = {}

    def for_url(self, url: str) -> str | None:
        """Return the proxy for a URL.

        Raises:
            ConfigurationError: The environment names what is no HTTP proxy.
        """
        if not self._asks_environment:
            return self._proxy
        where = "/".join(url.split("/", 3)[:3])
        if where not in self._found:
            self._found[where] = self._find(url)
        return self._found[where]

    def _find(self, url: str) -> str | None:
        scheme, host, port = origin(url)
        named = getproxies().get(scheme)
        if named is None or (host and _is_bypassed(host, port)):
            return None
        proxy = proxy_of_environment(named, f"{scheme.upper()}_PROXY")
        self._credentials.hide(secrets_of_proxy(proxy))
        return proxy


def _is_bypassed(host: str, port: int | None) -> bool:
    """Return whether NO_PROXY names a host, by itself or with its port."""
    place = f"[{host}]" if ":" in host else host
    return bool(proxy_bypass(host) or proxy_bypass(f"{place}:{port}"))
