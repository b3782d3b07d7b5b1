"""A FastAPI service that passes files on in both directions, in constant memory.

    uvicorn --app-dir examples fastapi_app:app

The client lives as long as the app. An upload goes on to the API while it is read from the form;
a download goes out to the caller while it comes in, and when the caller goes away, so does the
connection to the API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse

from aiofiles_api import (
    APIStatusError,
    ContentStream,
    FilesClient,
    FilesError,
    InvalidArgumentError,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the client with the app, and close it with the app."""
    async with FilesClient() as files:
        app.state.files = files
        yield


app = FastAPI(lifespan=lifespan)


def files_client(request: Request) -> FilesClient:
    """Return the app's client."""
    client: FilesClient = request.app.state.files
    return client


Files = Annotated[FilesClient, Depends(files_client)]


async def open_content(file_id: str, files: Files) -> AsyncIterator[ContentStream]:
    """Open a file's content; it is closed when the response is sent, or its caller gone.

    (So it is from FastAPI 0.118 on; before, it was closed too early.)
    """
    async with files.stream(file_id) as content:
        yield content


Content = Annotated[ContentStream, Depends(open_content)]


@app.post("/files")
async def upload(file: UploadFile, files: Files) -> dict[str, str | int]:
    """Pass an uploaded file on to the API."""
    stored = await files.upload(file, purpose="user_data")
    return {"id": stored.id, "bytes": stored.bytes, "filename": stored.filename}


@app.get("/files/{file_id}/content")  # noqa: FAST003 - open_content() takes the id
async def download(content: Content) -> StreamingResponse:
    """Stream a file's content from the API to the caller."""
    headers = {} if content.length is None else {"Content-Length": str(content.length)}
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)


@app.exception_handler(FilesError)
async def explain(_request: Request, error: FilesError) -> JSONResponse:
    """Answer with the API's own status where it gave one."""
    if isinstance(error, APIStatusError):
        status = error.status_code
    else:
        status = 400 if isinstance(error, InvalidArgumentError) else 502
    return JSONResponse({"detail": str(error)}, status_code=status)
