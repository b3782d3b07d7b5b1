"""A destination in the making: bytes gather in a part file beside it, which takes its place whole.

The part file has a unique name in the destination's own directory, so that the final rename stays
within one file system and is atomic: whoever looks at the destination sees the old file or the
new one, never half of one. Writing happens in a thread, one batch behind whoever brings the bytes;
the last batch, the checks and the rename share one hop, so that a small file costs just that.
"""

from aiofiles_api.partfile.destination import Destination, locate
from aiofiles_api.partfile.filenames import safe_filename
from aiofiles_api.partfile.part import PartFile

__all__ = ["Destination", "PartFile", "locate", "safe_filename"]
