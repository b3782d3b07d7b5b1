"""Frozen settings of one client, read from arguments and environment.

The key is kept in a `Secret`, whose repr is masked: it travels through header mappings and local
variables of several libraries, any of which may be printed by a debugger or an error reporter.
"""

from __future__ import annotations

import math
import os
import re
import string
from collections.abc import Awaitable, Callable, Mapping
from typing import SupportsIndex, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import attrs

from aiofiles_api.errors import ConfigurationError
from aiofiles_api.pacing import rate_of_each_endpoint
from aiofiles_api.retry import RetryPolicy

__all__ = ["ApiKey", "Config", "Secret", "Timeouts", "checked_key", "proxy_of_environment"]

ApiKey: TypeAlias = str | Callable[[], Awaitable[str]]
"""A key, or a callable that is awaited for a fresh one before each request."""

_DEFAULT_BASE_URL = "https://api.openai.com/v1"


class Secret(str):
    """A string that goes over the wire as it is and never shows in a repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __getitem__(self, index: SupportsIndex | slice) -> Secret:
        # Those who print a long string shortened take its beginning before its repr.
        return Secret(super().__getitem__(index))


def _none_for_ever(seconds: float | None) -> float | None:
    return None if seconds == math.inf else seconds


@attrs.frozen(kw_only=True)
class Timeouts:
    """Bounds on silence, in seconds, for each attempt; `None` means no bound.

    None of them limits how long a transfer takes as long as it moves, except `total`: a large
    file on a slow line is no error.

    Attributes:
        connect: From the moment a connection slot is free until the connection is made: name
            lookup, TCP and TLS. 10 is more than any network in working order needs.
        read: Silence inside a reply's body.
        write: Bytes wait to be sent and the other side takes none of them (where the system tells
            what it has taken, as Linux does; else the connection takes no more). A slow *source*
            does not count.
        reply: Silence after the whole request was sent. Long, because a server may store and
            check a large file before it answers.
        total: The whole attempt. `None` by default: no fixed time fits every file.

    Raises:
        ConfigurationError: A bound is zero or negative.
    """

    connect: float | None = attrs.field(default=10.0, converter=_none_for_ever)
    read: float | None = attrs.field(default=60.0, converter=_none_for_ever)
    write: float | None = attrs.field(default=60.0, converter=_none_for_ever)
    reply: float | None = attrs.field(default=600.0, converter=_none_for_ever)
    total: float | None = attrs.field(default=None, converter=_none_for_ever)

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, seconds in attrs.asdict(self).items():
            if seconds is not None and not seconds > 0:
                msg = f"Timeouts.{name} is {seconds}; pass seconds above 0, or None for no bound"
                raise ConfigurationError(msg)


@attrs.frozen(kw_only=True)
class Config:
    """The settings of one client; `Config.read` makes them.

    Attributes:
        base_url: The API's address up to and without the last slash, such as `…/v1`.
        api_key: The key, a callable that gives it, or `None` where `headers` hold it.
        headers: Sent with every request to the API's own origin.
        params: Added to the query of every request, such as Azure's `api-version`.
        timeouts: Bounds on silence.
        retry: How often and how patiently to try again.
        max_connections: Requests at one time.
        requests_per_minute: How many to send to each endpoint that has a limit.
        trust_env: Whether proxies are taken from the environment.
        proxy: The URL of a proxy for every request; it may hold a password.
    """

    base_url: str
    api_key: Secret | Callable[[], Awaitable[str]] | None = attrs.field(repr=False)
    headers: Mapping[str, Secret] = attrs.field(repr=False)
    params: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    timeouts: Timeouts
    retry: RetryPolicy
    max_connections: int
    requests_per_minute: Mapping[str, float]
    trust_env: bool
    proxy: str | None = attrs.field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not show in an error, besides the key."""
        named = [value for name, value in self.params if re.search(_SENSITIVE, name)]
        plain = [str.__str__(value) for value in self.headers.values()]
        # Behind the scheme of an Authorization stands the key.
        bare = [value.partition(" ")[2] for value in plain]
        return (*plain, *bare, *named, *secrets_of_proxy(self.proxy))

    @classmethod
    def read(  # one parameter for each setting of the client
        cls,
        *,
        api_key: ApiKey | None,
        base_url: str | None,
        organization: str | None,
        project: str | None,
        headers: Mapping[str, str],
        params: Mapping[str, str],
        timeouts: Timeouts,
        retry: RetryPolicy,
        max_connections: int,
        requests_per_minute: float | Mapping[str, float] | None,
        proxy: str | None,
        trust_env: bool,
        environ: Mapping[str, str] = os.environ,
    ) -> Config:
        """Read the settings from arguments and, where those are absent, from the environment.

        Raises:
            ConfigurationError: There is no key, or a setting cannot work.
        """
        for setting, given_as, kind in (
            ("timeouts", timeouts, Timeouts),
            ("retry", retry, RetryPolicy),
        ):
            if not isinstance(given_as, kind):
                msg = f"{setting}: pass {kind.__name__}(...), not {type(given_as).__name__}"
                raise ConfigurationError(msg)
        if type(max_connections) is not int or max_connections < 1:
            msg = f"max_connections is {max_connections!r}; pass 1 or more"
            raise ConfigurationError(msg)
        given = {
            "OpenAI-Organization": organization or environ.get("OPENAI_ORG_ID"),
            "OpenAI-Project": project or environ.get("OPENAI_PROJECT_ID"),
        }
        merged = {name: value for name, value in given.items() if value}
        for name, value in headers.items():
            merged = {key: kept for key, kept in merged.items() if key.lower() != name.lower()}
            merged[name] = value
        return cls(
            base_url=_checked_base_url(
                # One that is passed and empty is no wish for the default, but a variable unset.
                (environ.get("OPENAI_BASE_URL") or _DEFAULT_BASE_URL)
                if base_url is None
                else base_url
            ),
            api_key=_choose_key(api_key, headers, environ),
            headers={name: _checked_header(name, value) for name, value in merged.items()},
            params=tuple((name, str(value)) for name, value in params.items()),
            timeouts=timeouts,
            retry=retry,
            max_connections=max_connections,
            requests_per_minute=rate_of_each_endpoint(requests_per_minute),
            trust_env=trust_env,
            proxy=None if proxy is None else _checked_proxy(proxy, "proxy"),
        )


def checked_key(key: str) -> Secret:
    """Refuse a key that cannot stand in a header, without showing it.

    Raises:
        ConfigurationError: It is empty, or holds anything but visible ASCII characters.
    """
    if not isinstance(key, str) or not key:
        msg = "the API key is empty; set OPENAI_API_KEY or pass api_key="
        raise ConfigurationError(msg)
    if not all("!" <= character <= "~" for character in key):
        msg = (
            "the API key holds a line break, a space or another character that no key has;"
            " look for one at its end, where it often comes from reading a file: use .strip()"
        )
        raise ConfigurationError(msg)
    return Secret(key)


def _choose_key(
    api_key: ApiKey | None, headers: Mapping[str, str], environ: Mapping[str, str]
) -> Secret | Callable[[], Awaitable[str]] | None:
    if callable(api_key):
        return api_key
    if api_key is not None:
        return checked_key(api_key)
    if any(name.lower() in {"authorization", "api-key"} for name in headers):
        return None
    if not environ.get("OPENAI_API_KEY"):
        msg = "no API key: set OPENAI_API_KEY, or pass api_key= (or an Authorization header)"
        raise ConfigurationError(msg)
    return checked_key(environ["OPENAI_API_KEY"])


def _checked_base_url(base_url: str) -> str:
    problem = _problem_of_address(base_url) or _problem_of_base_url(base_url)
    if problem:
        # Not shown where it may hold a password, or a key in its query.
        shown = "" if re.search("[@?]", str(base_url)) else f" {base_url!r}"
        msg = f"base_url{shown} {problem}; pass one like {_DEFAULT_BASE_URL}"
        raise ConfigurationError(msg)
    return base_url.rstrip("/")


_PRINTED = string.digits + string.ascii_letters + string.punctuation


def _checked_proxy(proxy: str, where: str) -> str:
    """Return a proxy's URL, if it is one.

    Args:
        proxy: The URL.
        where: Where it is from, for the message.

    Raises:
        ConfigurationError: It is not the URL of an HTTP proxy.
    """
    problem = _problem_of_address(proxy)
    if problem:
        # Not shown: it may hold a password.
        msg = f"{where}: it {problem}; pass one like http://proxy.example:3128"
        raise ConfigurationError(msg)
    return proxy


def secrets_of_proxy(proxy: str | None) -> tuple[str, ...]:
    """Return the password in a proxy's URL, as it is written there and as it is meant."""
    password = "" if proxy is None else urlsplit(proxy).password or ""
    return password, unquote(password)


_SENSITIVE = "(?i)key|token|code|sig|secret|password|auth"
"""What is in the names of parameters whose values are secrets."""


def proxy_of_environment(proxy: str, where: str) -> str:
    """Return a proxy's URL, as other programs understand a variable that names one.

    It may be just a host and a port, and hold a password with letters that a URL has not.

    Raises:
        ConfigurationError: It is not the URL of an HTTP proxy.
    """
    proxy = quote(proxy.strip(), safe=_PRINTED, errors="surrogateescape")
    if not re.match(r"(?i)[a-z][a-z0-9+.-]*://", proxy):
        proxy = f"http://{proxy.removeprefix('//')}"
    return _checked_proxy(proxy, where)


def _problem_of_address(url: str) -> str | None:
    if not isinstance(url, str):
        return "is not a string"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "holds a space, a control character or a letter outside ASCII"
    try:
        parts = urlsplit(url)
        port_is_zero = parts.port == 0
    except ValueError:
        return "cannot be read as a URL"
    if parts.scheme not in {"http", "https"}:
        return "does not begin with http:// or https://"
    if not parts.hostname or port_is_zero:
        return "names no host and port that one can connect to"
    return None


def _problem_of_base_url(base_url: str) -> str | None:
    if "@" in urlsplit(base_url).netloc:
        return "holds a user name or password, which belong into headers="
    if re.search("[?#]", base_url):
        return "has a query or fragment, which belong into params="
    return None


_HEADER_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
"""What RFC 9110 calls a token (section 5.6.2)."""

_OUR_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "if-range",
        "range",
        "transfer-encoding",
    }
)


def _checked_header(name: str, value: str) -> Secret:
    if not re.fullmatch(_HEADER_NAME, name):
        msg = f"headers: {name!r} is no header name; use letters, digits and '-'"
        raise ConfigurationError(msg)
    if name.lower() in _OUR_HEADERS:
        msg = f"headers: {name!r} is different for each request and set by the client; leave it out"
        raise ConfigurationError(msg)
    if not isinstance(value, str) or not value.isprintable() or not value.isascii():
        msg = f"headers: the value of {name!r} is not a line of printable ASCII characters"
        raise ConfigurationError(msg)
    return Secret(value)
