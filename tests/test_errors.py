"""The tree of exceptions: its shape, its attributes, and that errors travel whole."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

import aiofiles_api
from aiofiles_api import errors
from aiofiles_api.models import FileObject

FILE = FileObject(
    id="file-1", bytes=3, created_at=1, filename="a", purpose="batch", extra={"etag": "x"}
)

PARENTS = {
    "FilesError": Exception,
    "ConfigurationError": errors.FilesError,
    "InvalidArgumentError": errors.FilesError,
    "ClientClosedError": errors.FilesError,
    "APIError": errors.FilesError,
    "APIConnectionError": errors.APIError,
    "APITimeoutError": errors.APIConnectionError,
    "APIResponseError": errors.APIError,
    "ContentTooLargeError": errors.APIResponseError,
    "APIStatusError": errors.APIError,
    "BadRequestError": errors.APIStatusError,
    "AuthenticationError": errors.APIStatusError,
    "PermissionDeniedError": errors.APIStatusError,
    "NotFoundError": errors.APIStatusError,
    "ConflictError": errors.APIStatusError,
    "RequestTooLargeError": errors.APIStatusError,
    "UnprocessableEntityError": errors.APIStatusError,
    "RateLimitError": errors.APIStatusError,
    "QuotaExceededError": errors.RateLimitError,
    "InternalServerError": errors.APIStatusError,
    "SourceError": errors.FilesError,
    "SourceChangedError": errors.SourceError,
    "SourceNotReplayableError": errors.SourceError,
    "DestinationError": errors.FilesError,
    "IntegrityError": errors.FilesError,
    "UploadUncertainError": errors.FilesError,
    "UncertainServerError": errors.UploadUncertainError,
    "ProcessingError": errors.FilesError,
    "JournalError": errors.FilesError,
}

RETRYABLE_BY_DEFAULT = {
    "APIConnectionError",
    "APITimeoutError",
    "APIResponseError",
    "IntegrityError",
}


def make(name: str) -> errors.FilesError:
    kind = getattr(errors, name)
    error: object
    if name == "UncertainServerError":
        failed = make("InternalServerError")
        error = kind("perhaps", error=failed, candidates=(FILE,))
    elif issubclass(kind, errors.APIStatusError):
        error = kind(
            "deleting file-1: 400 no",
            status_code=400,
            message="no",
            code="c",
            type="t",
            param="p",
            request_id="req_1",
            retry_after=1.5,
            body="{}",
            retryable=True,
        )
    elif name in {"IntegrityError", "ProcessingError"}:
        error = kind("something about a file", file=FILE)
    elif name == "UploadUncertainError":
        error = kind("perhaps", candidates=(FILE,))
    else:
        error = kind("something failed")
    assert isinstance(error, errors.FilesError)
    return error


def test_the_tree_is_as_it_is_drawn() -> None:
    assert set(PARENTS) == set(errors.__all__)
    for name, parent in PARENTS.items():
        assert getattr(errors, name).__bases__[0] is parent


def test_the_drawing_shows_every_class_below_its_parent() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        branch = re.match(r"    [ │├└─]*", line)
        if branch is None:
            continue
        names = [name for name in re.findall(r"\w+Error\b", line) if name != "ValueError"]
        while above and above[-1][0] >= branch.end():
            above.pop()
        parent = above[-1][1] if above else "Exception"
        drawn.update(dict.fromkeys(names, parent))
        above.append((branch.end(), names[0]))
    assert drawn == {name: parent.__name__ for name, parent in PARENTS.items()}


def test_a_refused_argument_is_also_a_value_error() -> None:
    assert issubclass(errors.InvalidArgumentError, ValueError)


def test_every_class_is_public() -> None:
    for name in errors.__all__:
        assert getattr(aiofiles_api, name) is getattr(errors, name)
        assert name in aiofiles_api.__all__


@pytest.mark.parametrize("name", errors.__all__)
def test_every_class_has_a_docstring_of_its_own(name: str) -> None:
    assert getattr(errors, name).__dict__.get("__doc__")


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"APIStatusError"}))
def test_an_error_is_retryable_only_where_trying_again_may_help(name: str) -> None:
    error = make(name)
    if isinstance(error, errors.APIStatusError):
        return  # told by the reply
    assert error.retryable is (name in RETRYABLE_BY_DEFAULT)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_pickled_with_all_that_it_knows(name: str) -> None:
    error = make(name)
    error.add_note("This was attempt 3.")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_copied_with_all_that_it_knows(name: str) -> None:
    error = make(name)
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)


def assert_same(other: errors.FilesError, error: errors.FilesError) -> None:
    assert type(other) is type(error)
    assert other is not error
    assert str(other) == str(error)
    assert other.args == error.args
    assert other.__dict__ == error.__dict__
    for attribute in ("file", "candidates"):
        files = getattr(other, attribute, None)
        if isinstance(files, FileObject):
            assert files.extra == FILE.extra


def test_an_uncertain_server_error_is_both() -> None:
    error = make("UncertainServerError")
    assert isinstance(error, errors.InternalServerError)
    assert (str(error), error.status_code, error.code) == ("perhaps", 400, "c")
    assert isinstance(error, errors.UploadUncertainError)
    assert error.candidates == (FILE,)
    assert error.retryable is False


def test_a_status_error_has_all_that_the_server_said() -> None:
    error = make("BadRequestError")
    assert vars(error) == {
        "retryable": True,
        "status_code": 400,
        "message": "no",
        "code": "c",
        "type": "t",
        "param": "p",
        "request_id": "req_1",
        "retry_after": 1.5,
        "body": "{}",
    }


def test_a_status_error_without_details_has_none() -> None:
    error = errors.NotFoundError("retrieving file-1: 404", status_code=404, message="Not Found")
    assert str(error) == "retrieving file-1: 404"
    assert (error.code, error.type, error.param) == (None, None, None)
    assert (error.request_id, error.retry_after, error.body) == (None, None, "")
    assert error.retryable is False


def test_an_integrity_error_of_a_download_has_no_file() -> None:
    assert errors.IntegrityError("too short").file is None


def test_an_uncertain_upload_may_have_no_candidates() -> None:
    assert errors.UploadUncertainError("perhaps").candidates == ()
