"""What is done with each item of a bulk run: upload, download or delete it, and write that down.

With a journal, an item that it says is done is not touched again. Every other one is written down
as begun before it is worked on, together with some of those behind it, so that a commit serves many
and nobody waits for it; and as done, or failed, before its outcome is handed out.
"""

from aiofiles_api.trades.deletions import Deletions
from aiofiles_api.trades.downloads import DownloadItem, Downloads, HowToDownload
from aiofiles_api.trades.trade import Trade
from aiofiles_api.trades.uploads import HowToUpload, UploadItem, Uploads

__all__ = [
    "Deletions",
    "DownloadItem",
    "Downloads",
    "HowToDownload",
    "HowToUpload",
    "Trade",
    "UploadItem",
    "Uploads",
]
