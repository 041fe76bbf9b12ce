"""Accounts for containers whose image has none."""

import pytest

from nri_flox.flox.accounts import User, group, passwd


def parsed(text: str) -> dict[int, list[str]]:
    """The lines by their number; nobody has two."""
    lines = [line.split(":") for line in text.splitlines()]
    assert len({line[2] for line in lines}) == len({line[0] for line in lines}) == len(lines)
    return {int(line[2]): line for line in lines}


@pytest.mark.parametrize("user", [None, User(0, 0), User(65534, 65534), User(1000, 0), User(4242, 100, (7, 100, 0))])
def test_root_and_nobody_are_known_once(user: User | None) -> None:
    users, groups = parsed(passwd(user)), parsed(group(user))
    assert users[0][0] == groups[0][0] == "root"
    assert users[65534][0] == groups[65534][0] == "nobody"
    assert all(len(line) == 7 for line in users.values())
    assert all(len(line) == 4 for line in groups.values())


def test_user_and_its_groups_are_known() -> None:
    alice = User(4242, 100, (7, 100))
    assert parsed(passwd(alice))[4242] == ["user4242", "x", "4242", "100", "", "/tmp", "/bin/sh"]
    assert parsed(group(alice)).keys() == {0, 7, 100, 65534}


def test_without_knowing_the_user_the_usual_ones_are_there() -> None:
    assert {1000, 65532} <= parsed(passwd(None)).keys()
    assert {1000, 65532} <= parsed(group(None)).keys()
