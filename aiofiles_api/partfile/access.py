"""Who may read a file: its mode, its group and its access control list."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

__all__ = ["take_over_access"]

_ACL = "system.posix_acl_access"

_NO_ACL = {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def take_over_access(descriptor: int, target: str, *, besides: int = 0) -> None:
    """See that whoever could not read a file cannot read the one that will replace it.

    Args:
        descriptor: Of the new one.
        target: The path of the old one, if it is still there.
        besides: Bits of the mode that the new one needs meanwhile.
    """
    with suppress(FileNotFoundError):
        old = os.stat(target)
        mode = old.st_mode & 0o777 | besides
        allowed = stat.S_IRWXU
        try:
            acl = _acl(target)
            if acl is None:  # else a list, which may refuse some of the others
                allowed |= mode >> 3 & stat.S_IRWXO
            os.fchown(descriptor, -1, old.st_gid)
            _set_acl(descriptor, acl)
        except OSError:
            # We are not in that group, say: ours has no right to it, and whoever is in that
            # one, or on the list, is one of the others now.
            mode &= allowed
        os.fchmod(descriptor, mode)


def _set_acl(descriptor: int, acl: bytes | None) -> None:
    """Give a part file this access control list, or see that it has none.

    Where a file has one, the group's bits of its mode are what the list allows at most: with the
    same bits and another list, others may read it.

    Raises:
        OSError: It cannot be given, or not be taken away.
    """
    if acl is not None:
        os.setxattr(descriptor, _ACL, acl)
    elif _acl(descriptor) is not None:  # the directory's, or that of what was there earlier
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        os.removexattr(descriptor, _ACL)


def _acl(file: str | int) -> bytes | None:
    """Return a file's access control list, if it has one, and its file system such lists."""
    if not hasattr(os, "getxattr"):  # Linux alone has it
        return None
    try:
        return os.getxattr(file, _ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        return None
