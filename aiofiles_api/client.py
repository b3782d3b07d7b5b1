"""`FilesClient`: the façade. It composes the rooms below it and has no logic of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType, TracebackType
from typing import Self

from aiofiles_api.config import ApiKey, Config, Timeouts
from aiofiles_api.download import ContentStream, download, read_content
from aiofiles_api.errors import NotFoundError
from aiofiles_api.listing import list_files, list_pages
from aiofiles_api.models import (
    DeletedFile,
    DownloadedFile,
    ExpiresAfter,
    FileObject,
    FilePage,
    Order,
    file_id,
)
from aiofiles_api.processing import wait_for_processing
from aiofiles_api.progress import ProgressSink
from aiofiles_api.protocol import (
    DeletionReplies,
    ListQuery,
    delete_request,
    read_file,
    retrieve_request,
)
from aiofiles_api.reconcile import Claims, OnUncertain
from aiofiles_api.retry import RetryPolicy
from aiofiles_api.session import Connector, SessionManager, TlsSetting, TraceConfig
from aiofiles_api.sources import UploadSource
from aiofiles_api.upload import upload

__all__ = ["FilesClient"]

_NOTHING: Mapping[str, str] = MappingProxyType({})
_TIMEOUTS = Timeouts()
_RETRY = RetryPolicy()


class FilesClient:
    """Moves files to and from an OpenAI-compatible API.

    Use it as an async context manager, or call `aclose()` at the end. One client serves all tasks
    of an event loop; it opens its connections with the first call.

    Args:
        api_key: The key, or a callable that is awaited for one before each request. By default
            the environment's OPENAI_API_KEY, unless `headers` hold an `Authorization` or `api-key`.
        base_url: The API's address with its `/v1`. By default OPENAI_BASE_URL, else OpenAI's own.
        organization: By default OPENAI_ORG_ID.
        project: By default OPENAI_PROJECT_ID.
        headers: Further headers; sent to the API's own origin alone.
        params: Further parameters of each request's query, such as Azure's `api-version`.
        timeouts: Bounds on silence.
        retry: How often and how patiently to try again.
        max_connections: Requests at one time; further ones wait for their turn. An open `stream()`
            counts as one; the look for an uncertain upload goes past the queue.
        requests_per_minute: How many requests to send, to each endpoint by itself, or a mapping of
            endpoints to numbers, such as `{"POST /files": 1000}`: what OpenAI allows. Retries count
            too. Further requests wait for their turn, in the order in which they came. A burst may
            have 1 % of the number, and 20 at most; what follows comes evenly, at 98 % of the rate,
            so that no minute has more than the number, however the server counts.
        proxy: The URL of a proxy for every request.
        trust_env: Whether HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment are heeded.
        ssl: A context, a fingerprint, or `False` not to check the certificate (tests only).
        connector: An aiohttp connector to use; it is never closed here.
        trace_configs: aiohttp's tracing hooks.

    Raises:
        ConfigurationError: There is no key, or a setting cannot work.
    """

    def __init__(
        self,
        *,
        api_key: ApiKey | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        headers: Mapping[str, str] = _NOTHING,
        params: Mapping[str, str] = _NOTHING,
        timeouts: Timeouts = _TIMEOUTS,
        retry: RetryPolicy = _RETRY,
        max_connections: int = 64,
        requests_per_minute: float | Mapping[str, float] | None = None,
        proxy: str | None = None,
        trust_env: bool = True,
        ssl: TlsSetting | None = None,
        connector: Connector | None = None,
        trace_configs: Sequence[TraceConfig] = (),
    ) -> None:
        config = Config.read(
            api_key=api_key,
            base_url=base_url,
            organization=organization,
            project=project,
            headers=headers,
            params=params,
            timeouts=timeouts,
            retry=retry,
            max_connections=max_connections,
            requests_per_minute=requests_per_minute,
            proxy=proxy,
            trust_env=trust_env,
        )
        self._claims = Claims()
        self._session = SessionManager(
            config,
            tls=True if ssl is None else ssl,
            connector=connector,
            trace_configs=trace_configs,
        )

    def __repr__(self) -> str:
        return f"FilesClient(base_url={self._session.config.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is in flight with `ClientClosedError`, and close every connection.

        It may be called from any task, and more than once. Within an operation, as in an upload's
        own source or in what gives the key, it does not wait for the end: that operation is in
        flight, too. For the same reason a thread that reads a source must not wait for this.
        """
        await self._session.aclose()

    async def upload(
        self,
        source: UploadSource,
        *,
        purpose: str,
        filename: str | None = None,
        content_type: str | None = None,
        expires_after: ExpiresAfter | timedelta | int | None = None,
        on_uncertain: OnUncertain = "reconcile",
        spool: bool = False,
        progress: ProgressSink | None = None,
    ) -> FileObject:
        """Send a file and return it as the server stored it.

        https://platform.openai.com/docs/api-reference/files/create

        Args:
            source: A path, bytes, a binary file object (sync or async), or an iterable of bytes
                (sync or async). A file object is read from where it stands, and never closed.
            purpose: What the file is for, such as "batch"; the server judges it.
            filename: By default the source's own name, else "upload".
            content_type: The file's media type; by default what its name's extension says.
            expires_after: When the server shall delete it: from an hour to 30 days, as a
                `timedelta` or in seconds. By default as the server likes.
            on_uncertain: What to do when the whole body was sent and no usable reply came, so that
                the file may be stored or not. "reconcile" looks for it on the server before it
                is sent again: the listing, and where a file of that purpose and length has
                appeared since, its content against the source, read once more. "resend" sends
                it again at once, which may leave a duplicate. "raise" leaves it to you. What no
                look can tell: the very same bytes that another process stores meanwhile.
            spool: Whether to copy the source to a temporary file first, so that an iterable can be
                sent again.
            progress: Called with a `Progress` some tens of times a second.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            SourceError: The source is missing, or cannot be read.
            SourceNotReplayableError: An attempt failed, and the source cannot be read again.
            UploadUncertainError: It may be stored or not; `.candidates` may be it. Where 5xx came,
                it is an `UncertainServerError`, which is an `InternalServerError` too.
            SourceChangedError: It changed while it was sent; nothing was stored.
            IntegrityError: The server stored another number of bytes, or a file was written to when
                its end was on the way already, and what is stored is not what it begins with now,
                or is not shown; `.file` is what is stored.
            APIError: The server refused it, or could not be reached.
        """
        return await upload(
            self._session,
            self._claims,
            source,
            purpose=purpose,
            filename=filename,
            content_type=content_type,
            expires_after=expires_after,
            on_uncertain=on_uncertain,
            spool=spool,
            progress=progress,
        )

    def list(
        self,
        *,
        purpose: str | None = None,
        order: Order = "desc",
        after: str | FileObject | None = None,
        page_size: int | None = None,
        max_items: int | None = None,
    ) -> AsyncGenerator[FileObject, None]:
        """Yield the files, page after page, in the memory of two pages.

        https://platform.openai.com/docs/api-reference/files/list

        Args:
            purpose: Only files with this purpose.
            order: By time of creation: "desc", the newest first, or "asc".
            after: Begin behind this file.
            page_size: Files a request, 1 to 10,000 (the API's `limit`); by default as
                many as the server allows.
            max_items: Stop after so many files.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            APIResponseError: The server repeats a page, says `has_more` without a file, or sends
                what is no file; then those before it were yielded.
            APIError: The server refused it, or could not be reached.
        """
        return list_files(self._session, _query(purpose, order, after, page_size), max_items)

    def list_pages(
        self,
        *,
        purpose: str | None = None,
        order: Order = "desc",
        after: str | FileObject | None = None,
        page_size: int | None = None,
        max_items: int | None = None,
    ) -> AsyncGenerator[FilePage, None]:
        """Yield the pages of a listing as the server cuts them; otherwise the same as `list`.

        A page's last file says where the next one begins, which is being asked for: do not delete
        it before that has come. `list` sees to that itself.
        """
        return list_pages(self._session, _query(purpose, order, after, page_size), max_items)

    async def retrieve(self, file: str | FileObject) -> FileObject:
        """Return what the server knows of a file now.

        https://platform.openai.com/docs/api-reference/files/retrieve

        Args:
            file: An id, or a `FileObject`; here and below.

        Raises:
            InvalidArgumentError: It is no id; nothing was sent.
            NotFoundError: There is no such file.
            APIError: The server refused it, or could not be reached.
        """
        return await self._session.call(retrieve_request(file_id(file)), read_file)

    async def delete(self, file: str | FileObject, *, missing_ok: bool = False) -> DeletedFile:
        """Delete a file.

        https://platform.openai.com/docs/api-reference/files/delete

        Args:
            file: An id, or a `FileObject`.
            missing_ok: Whether a file that is gone already is fine; `.deleted` is `False` then.

        Raises:
            InvalidArgumentError: It is no id; nothing was sent.
            NotFoundError: There is no such file. Where an answer was lost and the request was made
                again, it may be this call that deleted it.
            APIError: The server refused it, or could not be reached.
        """
        identifier = file_id(file)
        try:
            return await self._session.call(delete_request(identifier), DeletionReplies().read)
        except NotFoundError:
            if not missing_ok:
                raise
            return DeletedFile(identifier, deleted=False)

    async def download(
        self,
        file: str | FileObject,
        destination: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        resume: bool = False,
        durable: bool = False,
        sha256: str | None = None,
        progress: ProgressSink | None = None,
    ) -> DownloadedFile:
        """Put a file's content on disk, all of it or nothing.

        It gathers in a part file beside the destination, and takes its place when its length (and
        digest) are right. Given a `FileObject`, its `bytes` is held against what came.

        https://platform.openai.com/docs/api-reference/files/retrieve-contents

        Args:
            file: An id, or a `FileObject`.
            destination: A file's path, whose missing directories are made, and removed again where
                nothing is left in them; or a directory, which gets the server's filename, made
                safe.
            overwrite: Whether to replace a file that is there.
            resume: Whether to keep the part file when the download fails or the process dies, and
                to continue one that an earlier call has left.
            durable: Whether to return only when the disk itself has it (fsync), for which its
                directory must be readable.
            sha256: The digest in hex that the content must have.
            progress: Called with a `Progress` some tens of times a second.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            DestinationError: There is no space, no permission, or a file with `overwrite=False`.
            IntegrityError: Length or digest are wrong.
            NotFoundError: There is no such file.
            APIError: The server refused it, or could not be reached.
        """
        return await download(
            self._session,
            file,
            destination,
            overwrite=overwrite,
            resume=resume,
            durable=durable,
            sha256=sha256,
            progress=progress,
        )

    def stream(self, file: str | FileObject, *, start: int = 0) -> ContentStream:
        """Return a file's content to be iterated over, as an async context manager.

        A cut connection is resumed unseen. The chunks are as the network brings them.

        Args:
            file: An id, or a `FileObject`.
            start: The offset of the first byte that is wanted.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            IntegrityError: The content is longer or shorter than it must be.
            NotFoundError: There is no such file.
            APIError: The server refused it, or could not be reached.
        """
        return ContentStream(self._session, file, start=start)

    async def read(self, file: str | FileObject, *, max_bytes: int = 64 * 1024 * 1024) -> bytes:
        """Return a small file's content.

        Args:
            file: An id, or a `FileObject`.
            max_bytes: The most that it may be.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            ContentTooLargeError: It is longer; no memory was spent on it.
            NotFoundError: There is no such file.
            APIError: The server refused it, or could not be reached.
        """
        return await read_content(self._session, file, max_bytes=max_bytes)

    async def wait_for_processing(
        self, file: str | FileObject, *, timeout: float = 1800.0, poll_interval: float = 2.0
    ) -> FileObject:
        """Ask for a file again and again until the service has processed it.

        A server that tells no status is taken to be done.

        Args:
            file: An id, or a `FileObject`.
            timeout: Seconds to wait at most; the last question has five more for its answer.
            poll_interval: Seconds between two requests.

        Raises:
            InvalidArgumentError: An argument cannot work; nothing was sent.
            ProcessingError: The service says that it failed; `.file` is what it says.
            APITimeoutError: It is still not done.
            APIError: The server refused it, or could not be reached.
        """
        return await wait_for_processing(
            self._session, file, timeout=timeout, poll_interval=poll_interval
        )


def _query(
    purpose: str | None, order: Order, after: str | FileObject | None, page_size: int | None
) -> ListQuery:
    return ListQuery(purpose, order, None if after is None else file_id(after), page_size)
