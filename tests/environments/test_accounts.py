"""Account files on disk."""

import os
from pathlib import Path

from nri_flox.environments.accounts import write
from nri_flox.flox.accounts import User, passwd


def test_files_are_written_for_everybody_to_read(tmp_path: Path) -> None:
    directory = Path(write(str(tmp_path / "accounts"), User(4242, 100, (7,))))
    assert (directory / "passwd").read_text() == passwd(User(4242, 100, (7,)))
    assert "group100" in (directory / "group").read_text()
    assert {file.name: file.stat().st_mode & 0o777 for file in directory.iterdir()} == {"passwd": 0o444, "group": 0o444}


def test_users_that_differ_have_files_of_their_own(tmp_path: Path) -> None:
    users = [None, User(1, 2), User(1, 2, (3,)), User(2, 1), User(12, 3)]
    assert len({write(str(tmp_path), user) for user in users}) == len(users)


def test_file_that_a_container_has_mounted_is_never_changed_under_it(tmp_path: Path) -> None:
    file = Path(write(str(tmp_path), None)) / "passwd"
    held = os.open(file, os.O_RDONLY)
    file.chmod(0o644)
    file.write_text("of an older version")
    write(str(tmp_path), None)
    assert os.read(held, 100) == b"of an older version"
    assert file.read_text() == passwd(None)
    os.close(held)
