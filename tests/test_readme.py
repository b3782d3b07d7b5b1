"""What the README shows is run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import anyio
import pytest
from conftest import KEY

import aiofiles_api
from aiofiles_api.emulator import Emulator, load_faults

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

SETUP = """
import asyncio, os, sys, hashlib
from datetime import timedelta
from pathlib import Path
import aiofiles_api.emulator
from aiofiles_api import *
os.environ["AZURE_OPENAI_API_KEY"] = "azure"

async def generate():
    yield b"x"

async def example(files):
    form_file = open("data.jsonl", "rb")
    file = await files.upload("train.jsonl", purpose="fine-tune")
    try:
        BODY
    finally:
        form_file.close()

async def main():
    async with FilesClient() as files:
        await example(files)

asyncio.run(main())
"""


async def run(program: str, directory: Path, base_url: str) -> None:
    (directory / "train.jsonl").write_bytes(b"{}\n" * 2_000)
    (directory / "data.jsonl").write_bytes(b"{}\n" * 10)
    (directory / "out").mkdir(exist_ok=True)
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": base_url}
    await anyio.run_process(
        [sys.executable, "-W", "error", "-c", program],
        cwd=directory,
        env=environment,
        stderr=None,
    )


async def test_the_lines_at_the_top_are_a_whole_program(server: Emulator, tmp_path: Path) -> None:
    await run(PROGRAMS[0], tmp_path, server.base_url)
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == b"{}\n" * 2_000


@pytest.mark.parametrize("number", range(1, len(PROGRAMS)))
async def test_every_other_piece_of_python_runs(
    server: Emulator, tmp_path: Path, number: int
) -> None:
    # What stands for a value of the reader's own is filled in.
    body = PROGRAMS[number].replace(
        '"9f86d0…"', 'hashlib.sha256(Path("train.jsonl").read_bytes()).hexdigest()'
    )
    body = body.replace('(file, "data.jsonl", overwrite', '(file, "new.jsonl", overwrite')
    body = body.replace('"file-abc"', "file.id")
    await run(SETUP.replace("BODY", body.replace("\n", "\n        ")), tmp_path, server.base_url)


def test_the_file_of_faults_can_be_loaded(tmp_path: Path) -> None:
    [toml] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "faults.toml").write_text(toml)
    assert len(load_faults(tmp_path / "faults.toml")) == toml.count("[[fault]]") == 2


def test_every_error_stands_in_the_readme() -> None:
    errors = [name for name in aiofiles_api.__all__ if name.endswith("Error")]
    assert [name for name in errors if name not in README] == []


def test_the_defaults_in_the_readme_are_the_real_ones() -> None:
    for value in (aiofiles_api.Timeouts(), aiofiles_api.RetryPolicy()):
        shown = repr(value).replace(".0", "")
        assert shown in README.replace(".0", "")


def test_the_changelog_names_this_version_or_what_is_to_come() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{aiofiles_api.__version__}]" in changelog
