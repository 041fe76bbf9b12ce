"""Scripts directories: what `nri_flox.flox.scripts` says, as files that containers mount, made once for each content.

A directory never changes once it is there, since running containers have it mounted; other texts (of another version
of this program, or for another name of the same environment) become another directory, and so do the same texts where a
power cut has left something else of them.
"""

from __future__ import annotations

import errno
import os
from itertools import count

from nri_flox.environments.view import UNFINISHED, remove
from nri_flox.flox.scripts import Scripts
from nri_flox.flox.store import StorePath


def place(view_dir: str, path: StorePath, scripts: Scripts) -> str:
    """The directory below `view_dir` with the scripts of the environment at `path`, made unless it is there already.

    Raises OSError for what the file system says; nothing is left then.
    """
    for number in count():
        # No store path begins with a dot, so this is never the name of a view.
        directory = os.path.join(view_dir, f".scripts-{path.name[:32]}-{number}")
        if not os.path.isdir(directory):
            _make(view_dir, directory, scripts)
        if _holds(directory, scripts):
            return directory
    raise AssertionError("numbers do not end")


def _make(view_dir: str, directory: str, scripts: Scripts) -> None:
    building = os.path.join(view_dir, f"{UNFINISHED}{os.urandom(4).hex()}-scripts")
    stand_ins = os.path.join(building, "bin")
    try:
        os.makedirs(stand_ins)
        for name, text in scripts.files.items():
            with open(os.path.join(building, name), "x", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o555)
        for name in scripts.stand_ins:
            os.symlink("../attach", os.path.join(stand_ins, name))
        os.chmod(stand_ins, 0o555)  # noqa: S103 - any user of a container may be who runs them
        os.chmod(building, 0o555)  # noqa: S103
        os.rename(building, directory)
    except OSError as error:
        remove(building)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another worker was quicker
            raise


def _holds(directory: str, scripts: Scripts) -> bool:
    for name, text in scripts.files.items():
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
                if file.read() != text:
                    return False
        except FileNotFoundError:
            return False
    return scripts.stand_ins == set(os.listdir(os.path.join(directory, "bin")))
