"""Access lists as extended attributes hold them: acl(5), xattr(7), and the kernel's posix_acl_xattr.h."""

import struct

NAME, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_USER_OBJECT, _USER, _GROUP_OBJECT, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_VERSION = 2


def access_list(group: int) -> bytes:
    """Return a list: rw- for the owner and user 4711, `group` for the group, nothing for others; its mask is rw-."""
    entries = [
        (_USER_OBJECT, 6, _NOBODY), (_USER, 6, 4711), (_GROUP_OBJECT, group, _NOBODY), (_MASK, 6, _NOBODY),
        (_OTHER, 0, _NOBODY),
    ]  # fmt: skip
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
