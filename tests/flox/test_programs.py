"""Which files of a closure stand in for what an image would have at a fixed place."""

from pathlib import Path

import pytest

from nri_flox.demo.render import Executable, Link, Tree, add_path
from nri_flox.flox.programs import programs
from nri_flox.flox.store import Store, StorePath


class Closure:
    def __init__(self, directory: Path) -> None:
        self.store = Store(str(directory / "store"))
        self.members: list[StorePath] = []

    def add(self, name: str, tree: Tree) -> StorePath:
        path = add_path(self.store.directory, name, tree)
        self.members.append(path)
        return path

    def found(self, environment: StorePath) -> dict[str, str]:
        return dict(programs(self.store, environment, self.members))


@pytest.fixture
def closure(tmp_path: Path) -> Closure:
    return Closure(tmp_path)


def test_links_are_followed_to_the_file_itself(closure: Closure) -> None:
    bash = closure.add("bash-5.2", {"bin/bash": Executable(""), "bin/sh": Link("bash")})
    tools = closure.add("coreutils-9", {"bin/coreutils": Executable(""), "bin/env": Link("coreutils")})
    environment = closure.add(
        "environment-run", {"bin/sh": Link(f"{bash}/bin/sh"), "bin/env": Link(f"../../{tools.name}/bin/env")}
    )
    assert closure.found(environment) == {
        "/bin/sh": f"{bash.name}/bin/bash",
        "/usr/bin/env": f"{tools.name}/bin/coreutils",
    }


def test_what_is_installed_goes_before_what_is_only_needed(closure: Closure) -> None:
    closure.add("bash-5.2", {"bin/sh": Executable("")})
    dash = closure.add("dash", {"bin/sh": Executable("dash")})
    environment = closure.add("environment-run", {"bin": Link(f"{dash}/bin")})
    assert closure.found(environment)["/bin/sh"] == f"{dash.name}/bin/sh"


def test_bash_that_is_only_needed_is_taken_before_others(closure: Closure) -> None:
    closure.add("dash", {"bin/sh": Executable("")})
    bash = closure.add("bash-5.2", {"bin/sh": Executable("")})
    environment = closure.add("environment-run", {"activate": Executable("")})
    assert closure.found(environment) == {"/bin/sh": f"{bash.name}/bin/sh"}


@pytest.mark.parametrize("target", ["/etc/passwd", "/bin/sh", "../../../etc/passwd", "/nix/store/../x", "sh", "dir"])
def test_nothing_outside_of_the_closure_is_ever_taken(closure: Closure, target: str) -> None:
    environment = closure.add("environment-run", {"bin/sh": Link(target), "bin/dir/file": ""})
    assert closure.found(environment) == {}


def test_neighbour_in_the_store_is_not_taken(closure: Closure) -> None:
    neighbour = add_path(closure.store.directory, "bash", {"bin/sh": Executable("")})
    environment = closure.add("environment-run", {"bin/sh": Link(f"{neighbour}/bin/sh")})
    assert closure.found(environment) == {}


def test_file_that_cannot_be_run_is_not_taken(closure: Closure) -> None:
    environment = closure.add("environment-run", {"bin/sh": "text"})
    assert closure.found(environment) == {}
