"""A Files API of one's own, in this process or as a server, for tests and for work offline."""

from aiofiles_api.emulator.server import Emulator
from aiofiles_api.emulator.store import DataDirInUseError

__all__ = ["DataDirInUseError", "Emulator"]
