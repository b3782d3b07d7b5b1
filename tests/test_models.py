"""The values of the API, and how tolerantly they are read."""

from __future__ import annotations

import copy
import json
import math
import pickle
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiofiles_api import (
    APIResponseError,
    DeletedFile,
    DownloadedFile,
    ExpiresAfter,
    FileObject,
    FilePage,
    InvalidArgumentError,
)
from aiofiles_api.models import file_id, structure, structure_files

DOCUMENTED: dict[str, object] = {
    "id": "file-abc123",
    "object": "file",
    "bytes": 120_000,
    "created_at": 1_677_610_602,
    "expires_at": 1_677_614_202,
    "filename": "mydata.jsonl",
    "purpose": "fine-tune",
    "status": "processed",
    "status_details": "all is well",
}

SMALLEST: dict[str, object] = {
    "id": "0b7a0d6c-4d1b-4f5e-9a43-1a6c0f8f0d11",
    "bytes": 0,
    "created_at": 0,
    "filename": "",
    "purpose": "",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=6,
)
fields = st.sampled_from([field.name for field in attrs.fields(FileObject)] + ["deleted"])


def test_the_documented_form_is_read() -> None:
    file = structure(DOCUMENTED, FileObject)
    assert attrs.asdict(file) == DOCUMENTED | {"extra": {}}
    assert file.created == datetime(2023, 2, 28, 18, 56, 42, tzinfo=UTC)
    assert file.expires == datetime(2023, 2, 28, 19, 56, 42, tzinfo=UTC)


def test_optional_fields_may_be_missing() -> None:
    file = structure(SMALLEST, FileObject)
    assert file.object == "file"
    assert (file.status, file.status_details, file.expires_at, file.expires) == (None,) * 4
    assert file.extra == {}


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
def test_optional_fields_may_be_null_or_empty(nothing: str | None) -> None:
    optional = ("object", "status", "status_details", "expires_at")
    file = structure(SMALLEST | dict.fromkeys(optional, nothing), FileObject)
    assert file == structure(SMALLEST, FileObject)


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
@pytest.mark.parametrize("field", ["status", "status_details"])
def test_so_they_may_where_all_else_is_as_documented(field: str, nothing: str | None) -> None:
    file = structure(DOCUMENTED | {field: nothing}, FileObject)
    assert attrs.asdict(file) == DOCUMENTED | {field: None, "extra": {}}


def test_files_of_a_page_are_read_one_by_one_and_each_as_if_it_were_alone() -> None:
    page = [DOCUMENTED, DOCUMENTED | {"bytes": "1"}, SMALLEST, DOCUMENTED | {"etag": "x"}]
    files = structure_files([*page, {"id": "file-1"}])
    assert [next(files) for _ in page] == [structure(payload, FileObject) for payload in page]
    with pytest.raises(APIResponseError, match="without the field"):
        next(files)


payloads = st.builds(
    lambda changes, missing: {
        name: value for name, value in (DOCUMENTED | changes).items() if name not in missing
    },
    st.dictionaries(fields, json_values, max_size=1),
    st.sets(fields, max_size=3),
)


@given(st.lists(payloads | json_values, max_size=4))
@example([SMALLEST, DOCUMENTED])
@example([SMALLEST, SMALLEST | {"extra": {}}])
@example([SMALLEST, [DOCUMENTED]])
def test_what_is_on_a_page_does_not_change_how_a_file_is_read(page: list[object]) -> None:
    alone = [_read_alone(payload) for payload in page]
    refused = alone.index(None) if None in alone else len(page)
    files = structure_files(copy.deepcopy(page))
    # The representation has the extra fields too, and NaN is not equal to itself.
    assert [repr(next(files)) for _ in page[:refused]] == [repr(file) for file in alone[:refused]]
    with pytest.raises(StopIteration if refused == len(page) else APIResponseError):
        next(files)


def _read_alone(payload: object) -> FileObject | None:
    with suppress(APIResponseError):
        return structure(payload, FileObject)
    return None


def test_a_file_with_all_documented_fields_is_like_one_that_was_made_by_hand() -> None:
    file = structure(DOCUMENTED, FileObject)
    by_hand = FileObject(**DOCUMENTED)  # type: ignore[arg-type]
    assert (file, repr(file), hash(file)) == (by_hand, repr(by_hand), hash(by_hand))
    assert attrs.evolve(file, id="other") == attrs.evolve(by_hand, id="other")
    assert pickle.loads(pickle.dumps(file)) == by_hand
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        file.id = "other"  # type: ignore[misc]


@given(
    st.dictionaries(
        st.text().filter(lambda name: name not in DOCUMENTED), json_values, min_size=1, max_size=4
    )
)
@example({"extra": {"extra": 1}})
def test_unknown_fields_are_kept_as_they_came(unknown: dict[str, object]) -> None:
    file = structure(SMALLEST | unknown, FileObject)
    assert repr(dict(sorted(unknown.items()))) == repr(file.extra)  # NaN is not equal to itself
    assert file == structure(SMALLEST, FileObject)


def test_reading_leaves_the_payload_as_it_was() -> None:
    payload = SMALLEST | {"etag": "x"}
    before = copy.deepcopy(payload)
    structure(payload, FileObject)
    assert payload == before


@pytest.mark.parametrize(
    ("sent", "read"),
    [(1_700_000_000.0, 1_700_000_000), (1.9, 1), ("1700000000", 1_700_000_000), (-1, -1)],
)
def test_numbers_may_be_floats_or_strings_of_digits(sent: object, read: int) -> None:
    file = structure(SMALLEST | {"created_at": sent, "bytes": sent, "expires_at": sent}, FileObject)
    assert (file.created_at, file.bytes, file.expires_at) == (read, read, read)
    assert type(file.bytes) is int


def test_unknown_purposes_and_statuses_pass() -> None:
    file = structure(SMALLEST | {"purpose": "batch_output", "status": "pending"}, FileObject)
    assert (file.purpose, file.status) == ("batch_output", "pending")


@pytest.mark.parametrize("field", sorted(SMALLEST))
def test_a_missing_required_field_is_named(field: str) -> None:
    payload = {name: value for name, value in SMALLEST.items() if name != field}
    with pytest.raises(APIResponseError, match=f"a FileObject without the field '{field}'"):
        structure(payload, FileObject)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("id", 7, "int instead of a string"),
        ("id", None, "NoneType instead of a string"),
        ("bytes", None, "NoneType instead of a whole number"),
        ("bytes", True, "bool instead of a whole number"),
        ("bytes", "many", "str instead of a whole number"),
        ("bytes", "-1", "str instead of a whole number"),
        ("bytes", math.nan, "cannot convert float NaN"),
        ("bytes", math.inf, "cannot convert float infinity"),
        ("bytes", "9" * 5_000, "Exceeds the limit"),
        ("filename", {}, "dict instead of a string"),
        ("status", [], "list instead of a string"),
        ("expires_at", "soon", "str instead of a whole number"),
        ("object", 0, "int instead of a string"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(field: str, value: object, reason: str) -> None:
    with pytest.raises(APIResponseError, match=reason):
        structure(SMALLEST | {field: value}, FileObject)


@given(st.dictionaries(fields, json_values).map(lambda changes: DOCUMENTED | changes) | json_values)
def test_whatever_comes_is_read_or_refused_as_a_reply(payload: object) -> None:
    with suppress(APIResponseError):
        file = structure(payload, FileObject)
        texts = (file.id, file.object, file.filename, file.purpose)
        assert all(isinstance(text, str) for text in texts)
        assert type(file.bytes) is type(file.created_at) is int
        assert file.expires_at is None or type(file.expires_at) is int
    with suppress(APIResponseError):
        deleted = structure(payload, DeletedFile)
        assert isinstance(deleted.id, str)
        assert isinstance(deleted.object, str)
        assert isinstance(deleted.deleted, bool)


@pytest.mark.parametrize("payload", [None, [], "file-1", 7, [DOCUMENTED]], ids=repr)
def test_what_is_no_object_is_refused_by_its_kind(payload: object) -> None:
    kind = type(payload).__name__
    with pytest.raises(APIResponseError, match=f"a JSON object for a FileObject, not a {kind}$"):
        structure(payload, FileObject)


@given(json_values)
def test_messages_never_show_a_value(value: object) -> None:
    for field in DOCUMENTED:
        with pytest.raises(APIResponseError) as caught:
            structure(DOCUMENTED | {field: ["sk-secret", value]}, FileObject)
        assert "sk-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("deleted", [True, False])
def test_a_deletion_says_whether_it_deleted(deleted: bool) -> None:  # noqa: FBT001
    payload = {"id": "file-1", "object": "file", "deleted": deleted}
    assert structure(payload, DeletedFile) == DeletedFile("file-1", deleted)


@pytest.mark.parametrize("rest", [{}, {"deleted": None, "object": None}, {"object": ""}], ids=str)
def test_a_deletion_may_say_no_more_than_the_id(rest: dict[str, object]) -> None:
    assert structure({"id": "file-1"} | rest, DeletedFile) == DeletedFile("file-1")


def test_a_deletion_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(APIResponseError, match="str instead of true or false"):
        structure({"id": "file-1", "deleted": "yes"}, DeletedFile)


@given(st.integers(-(10**9), 10**11))
def test_times_are_aware_and_say_the_same_as_the_numbers(seconds: int) -> None:
    file = structure(SMALLEST | {"created_at": seconds, "expires_at": seconds}, FileObject)
    assert file.created.timestamp() == seconds
    assert file.created.tzinfo is UTC
    assert file.expires == file.created


@pytest.mark.parametrize("seconds", [10**12, -(10**12), 10**30])
def test_a_time_beyond_any_calendar_is_refused_only_when_it_is_asked_for(seconds: int) -> None:
    file = structure(SMALLEST | {"created_at": seconds, "expires_at": seconds}, FileObject)
    with pytest.raises(APIResponseError, match=r"created_at: .* beyond any calendar"):
        _ = file.created
    with pytest.raises(APIResponseError, match=r"expires_at: .* beyond any calendar"):
        _ = file.expires


def test_values_are_frozen_hashable_and_travel() -> None:
    file = structure(DOCUMENTED | {"etag": "x"}, FileObject)
    page = FilePage((file,), file.id, file.id, has_more=False)
    downloaded = DownloadedFile(file.id, Path("a"), 1, None, 1, 0)
    for value in (file, page, DeletedFile("file-1"), ExpiresAfter(3_600), downloaded):
        assert pickle.loads(pickle.dumps(value)) == value
        assert hash(copy.copy(value)) == hash(value)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, attrs.fields(type(value))[0].name, "other")
    assert pickle.loads(pickle.dumps(file)).extra == {"etag": "x"}


def test_a_file_as_a_dict_is_json() -> None:
    file = structure(DOCUMENTED, FileObject)
    assert structure(json.loads(json.dumps(attrs.asdict(file))), FileObject) == file


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identifier",
    [
        "file-abc_DEF-123",
        "0b7a0d6c-4d1b-4f5e-9a43-1a6c0f8f0d11",
        "...",
        "a.b",
        "~",
        "datei-ä",
        "1:2",
    ],
)
def test_an_id_that_stays_in_its_place_passes(identifier: str) -> None:
    assert file_id(identifier) == identifier


@pytest.mark.parametrize(
    "identifier",
    [
        *("", ".", "..", "a/b", "a\\b", "a?b", "a#b", "a%2fb"),
        *("a b", "a\tb", "a\n", "a\u00a0b", "a\u2028b"),
        *("\x00", "a\x7f", "a\u0085b", "\ud800", "a\u202eb"),
    ],
)
def test_an_id_that_would_lead_elsewhere_is_refused(identifier: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^file: .* is no file id; pass the id that"):
        file_id(identifier)
    file = attrs.evolve(structure(SMALLEST, FileObject), id=identifier)
    with pytest.raises(InvalidArgumentError, match="is no file id"):
        file_id(file)


@given(st.text(st.characters() | st.sampled_from("./\\?#% \t\n")))
def test_exactly_what_is_listed_is_refused(identifier: str) -> None:
    listed = (
        identifier in {"", ".", ".."}
        or not identifier.isprintable()
        or bool(set(identifier) & set("/\\?#% "))
    )
    try:
        assert file_id(identifier) == identifier
    except InvalidArgumentError:
        assert listed
    else:
        assert not listed


@pytest.mark.parametrize("thing", [None, 7, b"file-1", ["file-1"]], ids=repr)
def test_what_is_no_id_is_refused_by_its_kind(thing: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"FileObject, not {type(thing).__name__}$"):
        file_id(thing)  # type: ignore[arg-type]


def test_the_message_about_a_long_id_is_short() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        file_id("?" * 10_000)
    assert len(str(caught.value)) < 200


# --- expiry -------------------------------------------------------------------------------------


@given(st.integers(3_600, 2_592_000))
def test_an_expiry_is_said_in_three_ways(seconds: int) -> None:
    expiry = ExpiresAfter(seconds)
    assert ExpiresAfter.of(seconds) == expiry
    assert ExpiresAfter.of(timedelta(seconds=seconds)) == expiry
    assert ExpiresAfter.of(expiry) is expiry
    assert expiry.anchor == "created_at"


@pytest.mark.parametrize(
    "value",
    [
        3_599,
        2_592_001,
        0,
        -3_600,
        True,
        3_600.0,
        math.nan,
        "3600",
        None,
        timedelta(minutes=59),
        timedelta(days=31),
        timedelta(hours=1, milliseconds=1),
        timedelta.max,
    ],
    ids=repr,
)
def test_an_expiry_out_of_bounds_is_refused(value: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expires_after: .* out of bounds; pass whole"):
        ExpiresAfter.of(value)


def test_another_anchor_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="after 'last_active_at' is out of bounds"):
        ExpiresAfter(3_600, "last_active_at")  # type: ignore[arg-type]
