"""Programs that scripts expect at a place of the file system where an image has them, found in a closure.

Every script that opens with `#!/bin/sh` or `#!/usr/bin/env` needs one there. What a closure calls `bin/sh` is a symlink
as a rule, and a mount would follow it on the node; so it is resolved here, once for each environment, and never leads
out of the closure. A file that has several names (busybox, coreutils) looks at the one that it is called by.
"""

from __future__ import annotations

from collections.abc import Iterable

from nri_flox.flox import beneath
from nri_flox.flox.store import STORE_DIR, Store, StorePath

# Where a program is wanted, and what it is called in a package.
_WANTED = (("/bin/sh", "bin/sh"), ("/usr/bin/env", "bin/env"))


def programs(store: Store, path: StorePath, closure: Iterable[StorePath]) -> tuple[tuple[str, str], ...]:
    """Each place and the file for it, as a path below the store without any symlink; places without one are left out.

    The environment at `path` goes first, then the packages of its closure by name, so that bash comes before others:
    a rendered environment has one for its own scripts, even if it is not installed. Raises OSError when the file
    system itself fails.
    """
    members = sorted(closure, key=lambda member: (member != path, member.name[33:], member.name))
    names = {member.name for member in members}
    found = []
    for place, called in _WANTED:
        for member in members:
            file = beneath.find_executable(
                store.directory, f"{member.name}/{called}", known_as=STORE_DIR, admits=names.__contains__
            )
            if file is not None:
                found.append((place, file))
                break
    return tuple(found)
