"""A Files API of one's own, in this process or as a server, for tests and for work offline.

What shall go wrong on the way is said by its `faults`.
"""

from aiofiles_api.emulator.fault_files import FaultsFileError, load_faults
from aiofiles_api.emulator.faults import (
    CutJson,
    Delay,
    Drip,
    ErrorReply,
    Fault,
    HtmlReply,
    IgnoreRange,
    Kind,
    LostReply,
    Operation,
    Overlong,
    RefuseConnections,
    RepeatPage,
    Reset,
    Stall,
    Truncate,
    WrongContentRange,
    WrongLength,
)
from aiofiles_api.emulator.limits import RateLimit
from aiofiles_api.emulator.record import ReceivedRequest
from aiofiles_api.emulator.server import Emulator
from aiofiles_api.emulator.store import DataDirInUseError

__all__ = [
    "CutJson",
    "DataDirInUseError",
    "Delay",
    "Drip",
    "Emulator",
    "ErrorReply",
    "Fault",
    "FaultsFileError",
    "HtmlReply",
    "IgnoreRange",
    "Kind",
    "LostReply",
    "Operation",
    "Overlong",
    "RateLimit",
    "ReceivedRequest",
    "RefuseConnections",
    "RepeatPage",
    "Reset",
    "Stall",
    "Truncate",
    "WrongContentRange",
    "WrongLength",
    "load_faults",
]
