"""What `/etc/passwd` and `/etc/group` say in a container whose image has neither: root, nobody, and its own user.

Text from numbers, nothing else; where the files lie is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

_NOBODY = 65534

# Users for a container of which nobody says whom it runs as: those that images and charts usually take.
_USUAL = (1000, 1001, 10000, 10001, 65532)


@dataclass(frozen=True, slots=True)
class User:
    """Whom a container's processes run as."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()


def passwd(user: User | None) -> str:
    """`/etc/passwd` for a container that runs as `user`, None: nobody knows as whom."""
    lines = ["root:x:0:0:root:/:/bin/sh", f"nobody:x:{_NOBODY}:{_NOBODY}:nobody:/:/bin/sh"]
    users = [User(uid, uid) for uid in _USUAL] if user is None else [user]
    # Their home is the one directory that is sure to be there and theirs to write.
    lines += [f"user{one.uid}:x:{one.uid}:{one.gid}::/tmp:/bin/sh" for one in users if one.uid not in (0, _NOBODY)]
    return "".join(f"{line}\n" for line in lines)


def group(user: User | None) -> str:
    """`/etc/group`, likewise."""
    gids = _USUAL if user is None else (user.gid, *user.additional_gids)
    others = dict.fromkeys(gid for gid in gids if gid not in (0, _NOBODY))
    return f"root:x:0:\nnobody:x:{_NOBODY}:\n" + "".join(f"group{gid}:x:{gid}:\n" for gid in others)
