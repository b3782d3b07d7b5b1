"""The settings of a client: where they come from, what is refused, and that no key shows."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from typing import TypedDict, Unpack

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from aiofiles_api import ConfigurationError, FilesClient, RetryPolicy, Timeouts
from aiofiles_api.config import (
    ApiKey,
    Config,
    Secret,
    checked_key,
    proxy_of_environment,
)
from aiofiles_api.protocol import spellings

KEY = "sk-proj-0123456789"


class Settings(TypedDict, total=False):
    api_key: ApiKey | None
    base_url: str | None
    organization: str | None
    project: str | None
    headers: Mapping[str, str]
    params: Mapping[str, str]
    timeouts: Timeouts
    retry: RetryPolicy
    max_connections: int
    requests_per_minute: float | Mapping[str, float] | None
    proxy: str | None
    trust_env: bool
    environ: Mapping[str, str]


def read(**settings: Unpack[Settings]) -> Config:
    defaults: Settings = {
        "api_key": KEY,
        "base_url": None,
        "organization": None,
        "project": None,
        "headers": {},
        "params": {},
        "timeouts": Timeouts(),
        "retry": RetryPolicy(),
        "max_connections": 64,
        "requests_per_minute": None,
        "proxy": None,
        "trust_env": True,
        "environ": {},
    }
    defaults.update(settings)
    return Config.read(**defaults)


# --- the key ------------------------------------------------------------------------------------


def test_the_beginning_of_a_secret_is_a_secret() -> None:
    secret = Secret(KEY)
    assert secret[:7] == KEY[:7]
    assert repr(secret[:7]) == repr(secret[0]) == "'***'"


def test_secrets_are_known_in_each_way_in_which_they_are_written() -> None:
    assert set(spellings("a/b+c")) == {
        "a/b+c",
        r"a\/b+c",
        r"a\u002fb\u002bc",
        "a%2Fb%2Bc",
    }
    assert r"a&amp;&lt;b" in spellings("a&<b")
    secrets = read(
        headers={"Authorization": "Bearer own-key"},
        params={"code": "the-code", "api-version": "2026-01-01"},
        proxy="http://user:pass%2Fword@127.0.0.1:1",
    ).secrets
    assert {"own-key", "the-code", "pass/word", "pass%2Fword"} <= set(secrets)
    assert "2026-01-01" not in secrets


def test_the_key_is_taken_from_the_argument_before_the_environment() -> None:
    environ = {"OPENAI_API_KEY": "sk-environment"}
    assert read(api_key=None, environ=environ).api_key == "sk-environment"
    assert read(environ=environ).api_key == KEY


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}], ids=str)
def test_without_a_key_it_says_where_to_put_one(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="no API key: set OPENAI_API_KEY, or pass api_key"):
        read(api_key=None, environ=environ)


@pytest.mark.parametrize("name", ["Authorization", "authorization", "api-key", "API-Key"])
def test_a_header_with_credentials_stands_for_the_key(name: str) -> None:
    environ = {"OPENAI_API_KEY": "sk-environment"}
    config = read(api_key=None, headers={name: "mine"}, environ=environ)
    assert config.api_key is None
    assert config.headers == {name: "mine"}


def test_a_key_that_is_passed_besides_such_a_header_is_kept() -> None:
    assert read(headers={"api-key": "mine"}).api_key == KEY


def test_a_callable_is_kept_as_it_is() -> None:
    async def fresh() -> str:
        return KEY

    assert read(api_key=fresh).api_key is fresh


@pytest.mark.parametrize(
    "key", ["sk-secret\n", "sk-secret\r\n", " sk-secret", "sk-sec ret", "sk-secré", "sk\x00", "\t"]
)
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_shown(key: str) -> None:
    for settings in (
        Settings(api_key=key),
        Settings(api_key=None, environ={"OPENAI_API_KEY": key}),
    ):
        with pytest.raises(ConfigurationError, match=r"use \.strip\(\)") as caught:
            read(**settings)
        assert key.strip() not in repr(caught.value) or not key.strip()


@pytest.mark.parametrize("key", ["", None, b"sk-secret", 7], ids=repr)
def test_a_key_that_is_empty_or_no_string_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match="the API key is empty; set OPENAI_API_KEY"):
        checked_key(key)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_every_key_of_visible_characters_passes_unchanged(key: str) -> None:
    assert checked_key(key) == key


def test_the_key_shows_in_no_repr() -> None:
    config = read(
        headers={"api-key": KEY, "X-Token": KEY},
        params={"token": KEY},
        proxy=f"http://user:{KEY}@proxy.example:3128",
    )
    headers = {"Authorization": Secret(f"Bearer {config.api_key}"), **config.headers}
    shown: list[object] = [
        config,
        attrs.asdict(config)["headers"],
        headers,
        CIMultiDict(headers),
        list(headers.items()),
        config.api_key,
        copy.copy(config),
        pickle.loads(pickle.dumps(config)),
        FilesClient(api_key=KEY, headers={"api-key": KEY}),
    ]
    for thing in shown:
        assert KEY not in repr(thing)
        assert KEY not in f"{[thing]}"


def test_a_secret_goes_over_the_wire_as_it_is() -> None:
    secret = Secret(KEY)
    assert f"Bearer {secret}" == f"Bearer {KEY}"
    assert secret.encode() == KEY.encode()
    assert repr(secret) == "'***'"


# --- the address --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "variable", "address"),
    [
        (None, None, "https://api.openai.com/v1"),
        (None, "", "https://api.openai.com/v1"),
        (None, "http://127.0.0.1:8787/v1", "http://127.0.0.1:8787/v1"),
        ("https://gateway.example/openai/v1/", "http://other", "https://gateway.example/openai/v1"),
        ("http://[::1]:8080", None, "http://[::1]:8080"),
        ("HTTPS://Example/v1//", None, "HTTPS://Example/v1"),
    ],
)
def test_the_address_comes_from_argument_environment_or_default(
    argument: str | None, variable: str | None, address: str
) -> None:
    environ = {} if variable is None else {"OPENAI_BASE_URL": variable}
    assert read(base_url=argument, environ=environ).base_url == address


@pytest.mark.parametrize(
    ("base_url", "problem"),
    [
        ("", "does not begin with http"),
        ("api.openai.com/v1", "does not begin with http"),
        ("localhost:8000/v1", "does not begin with http"),
        ("ftp://example/v1", "does not begin with http"),
        ("file:///etc/passwd", "does not begin with http"),
        ("http://", "names no host"),
        ("http:///v1", "names no host"),
        ("http://example:0/v1", "names no host and port"),
        ("http://example:http/v1", "cannot be read as a URL"),
        ("http://example:99999/v1", "cannot be read as a URL"),
        ("http://[::1/v1", "cannot be read as a URL"),
        ("http://example/v1 ", "holds a space"),
        ("http://example/v1\n", "holds a space, a control"),
        ("http://exämple/v1", "letter outside ASCII"),
        ("http://example/v1?", "has a query or fragment"),
        ("http://example/v1#top", "has a query or fragment"),
        (b"http://example/v1", "is not a string"),
        (7, "is not a string"),
    ],
)
def test_an_address_that_cannot_work_is_refused_with_its_problem(
    base_url: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^base_url.* {problem}.*; pass one like https:"):
        read(base_url=base_url)


@pytest.mark.parametrize(
    ("base_url", "problem"),
    [
        ("https://user:hunter2@example/v1", "user name or password"),
        ("https://user:hunter2@example:port/v1", "cannot be read"),
        ("https://user:hunter2/x@example/v1", "cannot be read"),
        ("https://example/v1?api-key=hunter2", "query"),
        ("https://example:port/v1?api-key=hunter2", "cannot be read"),
    ],
)
def test_a_password_in_an_address_is_not_shown(base_url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^base_url .*{problem}") as caught:
        read(base_url=base_url)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None


@given(st.text() | st.text("htps:/[]@?#.1 "))
def test_whatever_the_address_is_it_works_or_is_refused(base_url: str) -> None:
    for address in (base_url, f"http://{base_url}"):
        try:
            config = read(base_url=address)
        except ConfigurationError:
            continue
        assert config.base_url.isascii()
        assert not config.base_url.endswith("/")
        assert address.startswith(config.base_url)


@pytest.mark.parametrize(
    "proxy", [None, "http://proxy.example:3128", "https://user:pw@proxy.example"]
)
def test_a_proxy_is_kept(proxy: str | None) -> None:
    assert read(proxy=proxy).proxy == proxy


@pytest.mark.parametrize(
    "proxy",
    ["localhost:3128", "socks5://user:hunter2@proxy", "http://user:hunter2@", "", b"http://p"],
)
def test_a_proxy_that_cannot_work_is_refused_and_not_shown(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^proxy: it .*; pass one like http://") as caught:
        read(proxy=proxy)
    assert "hunter2" not in repr(caught.value)


# --- headers and parameters ---------------------------------------------------------------------


def test_organization_and_project_come_from_arguments_before_the_environment() -> None:
    environ = {"OPENAI_ORG_ID": "org-env", "OPENAI_PROJECT_ID": "proj-env"}
    assert read(environ=environ).headers == {
        "OpenAI-Organization": "org-env",
        "OpenAI-Project": "proj-env",
    }
    assert read(organization="org-1", project="proj-1", environ=environ).headers == {
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj-1",
    }
    assert read(environ={"OPENAI_ORG_ID": ""}).headers == {}


def test_a_header_of_the_callers_own_prevails_whatever_its_case() -> None:
    config = read(
        organization="org-1", headers={"openai-organization": "mine", "X-A": "1", "x-a": "2"}
    )
    assert config.headers == {"openai-organization": "mine", "x-a": "2"}


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "X\r\nY", "Ü", "X\x00", "(x)", "x\n"])
def test_what_is_no_header_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no header name"):
        read(headers={name: "1"})


@pytest.mark.parametrize("name", ["X-A", "x_a", "X.A", "-", "!#$%&'*+.^`|~"])
def test_every_token_is_a_header_name(name: str) -> None:
    assert read(headers={name: ""}).headers == {name: ""}


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "hunter2\n", "hünter2", "\x00", 7, None, b"x"])
def test_a_value_that_is_no_line_of_ascii_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ConfigurationError, match="the value of 'X-A' is not a line") as caught:
        read(headers={"X-A": value})
    assert "nter2" not in repr(caught.value)
    with pytest.raises(ConfigurationError, match="the value of 'OpenAI-Project' is not a line"):
        read(project="proj-1\n")


@pytest.mark.parametrize("name", ["Content-Type", "content-length", "Transfer-Encoding", "Range"])
def test_a_header_that_each_request_needs_for_itself_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' is different for each request"):
        read(headers={name: "application/json"})


def test_parameters_are_kept_in_their_order_as_strings() -> None:
    params: dict[str, str] = {"b": "2", "a": 1}  # type: ignore[dict-item]
    assert read(params=params).params == (("b", "2"), ("a", "1"))


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 1.5, math.nan, True, "64", None], ids=repr)
def test_fewer_than_one_connection_is_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match=r"max_connections is .*; pass 1 or more"):
        read(max_connections=count)


@pytest.mark.parametrize("name", ["timeouts", "retry"])
def test_what_holds_several_settings_is_of_its_own_kind(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}: pass \w+\(\.\.\.\), not int$"):
        read(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "proxy"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("//proxy.example", "http://proxy.example"),
        (" HTTPS://proxy.example/\n", "HTTPS://proxy.example/"),
        ("user:p\u00e4 ss@proxy.example", "http://user:p%C3%A4%20ss@proxy.example"),
        ("http://user:a%20b@[::1]:1", "http://user:a%20b@[::1]:1"),
        ("http://user:\udcff@proxy.example", "http://user:%FF@proxy.example"),
    ],
)
def test_a_proxy_of_the_environment_is_taken_as_other_programs_do(
    variable: str, proxy: str
) -> None:
    assert proxy_of_environment(variable, "HTTP_PROXY") == proxy


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Timeouts)])
def test_a_bound_that_cannot_work_is_refused(name: str) -> None:
    refused = [0, -1, math.nan]
    for seconds in refused:
        with pytest.raises(
            ConfigurationError, match=rf"Timeouts\.{name} is .*; pass seconds above"
        ):
            Timeouts(**{name: seconds})
    for bound in (None, 0.001):
        assert getattr(Timeouts(**{name: bound}), name) == bound
    assert getattr(Timeouts(**{name: math.inf}), name) is None


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert attrs.astuple(Timeouts()) == (10, 60, 60, 600, None)
    assert attrs.astuple(RetryPolicy()) == (8, 0.5, 30.0, 120.0, None)


def test_the_environment_of_the_process_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8787/v1")
    assert repr(FilesClient()) == "FilesClient(base_url='http://127.0.0.1:8787/v1')"


def test_the_rate_is_kept_for_each_endpoint_and_can_be_seen() -> None:
    assert read().requests_per_minute == {}
    config = read(requests_per_minute={"POST /files": 1000})
    assert config.requests_per_minute == {"POST /files": 1000}
    assert "requests_per_minute={'POST /files': 1000}" in repr(config)
    with pytest.raises(ConfigurationError, match="requests_per_minute is 0"):
        FilesClient(api_key=KEY, requests_per_minute=0)
