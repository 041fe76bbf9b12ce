"""Account files on disk, for containers of images that have none: one directory for each kind of user, written once."""

from __future__ import annotations

import os

from nri_flox.flox.accounts import User, group, passwd

PASSWD, GROUP = "passwd", "group"


def write(directory: str, user: User | None) -> str:
    """The directory below `directory` with the files for `user`, written unless they are there. Raises OSError."""
    place = os.path.join(directory, _name(user))
    os.makedirs(place, mode=0o755, exist_ok=True)
    for name, text in ((PASSWD, passwd(user)), (GROUP, group(user))):
        file = os.path.join(place, name)
        # Written anew each time that a service starts: containers keep the file that they have, and a version that
        # writes other texts gets its way.
        with open(f"{file}.new", "w", encoding="ascii") as new:
            new.write(text)
            os.fchmod(new.fileno(), 0o444)
        os.replace(f"{file}.new", file)
    return place


def _name(user: User | None) -> str:
    return "unknown" if user is None else "-".join(map(str, (user.uid, user.gid, *user.additional_gids)))
