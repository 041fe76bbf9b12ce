"""Reading a rendered environment, as Flox lays it out and as somebody hostile does."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from nri_flox.demo.render import Executable, Link, Package, add_path, render
from nri_flox.flox import rendered
from nri_flox.flox.rendered import Rendered, RenderedError
from nri_flox.flox.store import Store, StorePath


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def closure(store: str, path: StorePath) -> frozenset[StorePath]:
    lines = Path(Store(store).locate(path), "requisites.txt").read_text().splitlines()
    return frozenset(map(StorePath.parse, lines))


def read(store: str, path: StorePath) -> Rendered:
    return rendered.read(Store(store), path, closure(store, path))


def hostile(store: str, files: Mapping[str, str | Link], *closure: StorePath) -> Rendered:
    """An environment of a good activate and paths script, and of these files."""
    tree = {
        "activate": 'LONGOPTS="env:,mode:"\n',
        "etc/profile.d/0100_common-run-mode-paths.sh": "",
        **files,
    }
    path = add_path(store, "environment-run", tree)
    return rendered.read(Store(store), path, frozenset({path, *closure}))


def test_an_environment_is_read_through_its_links(store: str) -> None:
    path = render(store, "acme", "web", vars={"GREETING": "hello $USER"})
    environment = read(store, path)
    assert environment.path == path
    assert 'export GREETING="hello $USER"\n' in environment.envrc
    assert "XDG_DATA_DIRS" in environment.run_paths
    assert not environment.has_hook


@pytest.mark.parametrize("hook", ["", "echo hello"])
def test_a_hook_is_seen_even_if_it_is_empty(store: str, hook: str) -> None:
    assert read(store, render(store, "acme", "web", hook=hook)).has_hook


@pytest.mark.parametrize("target", ["/etc/passwd", "nowhere", "hook-on-activate", "/nix/store/x"])
def test_a_hook_is_seen_whatever_it_is(store: str, target: str) -> None:
    assert hostile(store, {"activate.d/hook-on-activate": Link(target)}).has_hook


def test_an_environment_needs_no_envrc(store: str) -> None:
    assert hostile(store, {}).envrc == ""


def test_what_is_no_flox_environment_is_said_so(store: str) -> None:
    path = add_path(store, "hello-2.12", {"bin/hello": ""})
    with pytest.raises(RenderedError, match=f"^{path} .*is no rendered Flox environment"):
        rendered.read(Store(store), path, frozenset({path}))


def test_search_paths_of_run_mode_are_the_usual_ones_without_their_script(store: str) -> None:
    path = add_path(store, "environment-run", {"activate.d/envrc": ""})
    assert "XDG_DATA_DIRS" in rendered.read(Store(store), path, frozenset({path})).run_paths


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/etc/passwd", "out of its directory"),
        ("/nix/store/../../../../../../../etc/passwd", "out of its directory"),
        ("../../../../../../../etc/passwd", "out of its directory"),
        ("/proc/self/environ", "out of its directory"),
        ("/dev/zero", "out of its directory"),
        ("envrc", "too many symlinks"),
        ("../etc", "it is a directory"),
    ],
)
def test_an_envrc_that_is_no_file_of_the_closure_is_refused(store: str, target: str, words: str) -> None:
    with pytest.raises(RenderedError, match=rf"activate.d/envrc cannot be read: .*{words}"):
        hostile(store, {"activate.d/envrc": Link(target)})


def test_an_envrc_in_a_path_of_the_closure_is_read_and_in_another_refused(store: str) -> None:
    other = add_path(store, "other", {"envrc": "# text"})
    assert hostile(store, {"activate.d/envrc": Link(f"{other}/envrc")}, other).envrc == "# text"
    with pytest.raises(RenderedError, match="does not belong to it"):
        hostile(store, {"activate.d/envrc": Link(f"{other}/envrc")})


def test_an_envrc_over_4_mib_is_refused(store: str) -> None:
    assert len(hostile(store, {"activate.d/envrc": "#" * (4 << 20)}).envrc) == 4 << 20
    with pytest.raises(RenderedError, match="larger than 4194304 bytes"):
        hostile(store, {"activate.d/envrc": "#" * ((4 << 20) + 1)})


def test_bytes_that_are_no_text_do_not_stop_the_reading(store: str) -> None:
    path = add_path(
        store,
        "environment-run",
        {
            "activate": b"\xff",
            "activate.d/envrc": b"\xff",
            "etc/profile.d/0100_common-run-mode-paths.sh": b"\xff",
        },
    )
    assert rendered.read(Store(store), path, frozenset({path})).envrc == "\udcff"


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ('LONGOPTS="command:,\\\nenv:,\\\nmode:,\\\nadd-sbin"\n', {"command", "env", "mode", "add-sbin"}),
        ('LONGOPTS="set-vars,env:,command:"', {"set-vars", "env", "command"}),
        ("#!/bin/sh\n", set()),
        ('LONGOPTS="', set()),
    ],
)
def test_the_options_are_those_that_activate_declares(store: str, script: str, options: set[str]) -> None:
    assert hostile(store, {"activate": script}).options == options


@pytest.mark.parametrize("variable", ["_interpreter_profile_d", "_profile_d", "export _profile_d"])
def test_the_paths_script_is_the_one_that_activate_would_source(store: str, variable: str) -> None:
    script = "etc/profile.d/0100_common-run-mode-paths.sh"
    interpreter = add_path(store, "flox-interpreter", {script: "# the interpreter's"})
    activate = f'LONGOPTS="mode:"\n{variable}="{interpreter}/etc/profile.d"\n'
    files = {"activate": activate, script: "# the environment's"}
    assert hostile(store, files, interpreter).run_paths == "# the interpreter's"
    files["activate"] = 'LONGOPTS="mode:"\n_profile_d="$_FLOX_ENV/etc/profile.d"\n'
    assert hostile(store, files, interpreter).run_paths == "# the environment's"


def test_an_interpreter_outside_the_closure_is_refused(store: str) -> None:
    interpreter = add_path(store, "flox-interpreter", {"etc/profile.d/0100_common-run-mode-paths.sh": ""})
    with pytest.raises(RenderedError, match="does not belong to it"):
        hostile(store, {"activate": f'_profile_d="{interpreter}/etc/profile.d"\n'})


class TestRendering:
    def test_the_same_content_is_the_same_path(self, store: str) -> None:
        assert render(store, "acme", "web") == render(store, "acme", "web")
        assert render(store, "acme", "web") != render(store, "acme", "web", vars={"A": "b"})
        assert render(store, "acme", "web") != render(store, "acme", "other")

    def test_requisites_name_all_that_belongs_to_it(self, store: str) -> None:
        odd = add_path(store, "odd", Link("/"))
        tool = Package("tool", {"bin/tool": "x"})
        path = render(store, "acme", "web", packages=[tool], closure=[odd], extra_paths=30)
        assert {path, odd} < closure(store, path)
        assert len(closure(store, path)) == 38
        assert all(os.path.lexists(Store(store).locate(member)) for member in closure(store, path))

    def test_packages_are_linked_side_by_side(self, store: str) -> None:
        one = add_path(store, "one", {"bin/one": Executable("#!/bin/sh\n"), "share/one": "1"})
        two = add_path(store, "two", {"bin/two": Executable("#!/bin/sh\n")})
        path = Store(store).locate(render(store, "acme", "web", packages=[one, two]))
        assert os.readlink(f"{path}/bin/one") == f"{one}/bin/one"
        assert os.readlink(f"{path}/bin/two") == f"{two}/bin/two"
        assert os.readlink(f"{path}/share") == f"{one}/share"
        assert os.access(f"{Store(store).locate(one)}/bin/one", os.X_OK)

    @pytest.mark.parametrize("flox", ["1.9", "1.12", "1.14.1"])
    def test_its_activate_is_bash_and_declares_its_options(self, store: str, flox: str) -> None:
        path = render(store, "acme", "web", flox=flox)
        assert ("add-sbin" in read(store, path).options) is (flox == "1.14.1")
        assert read(store, path).options >= {"env", "env-project", "mode", "skip-hook-on-activate"}
        script = os.readlink(f"{Store(store).locate(path)}/activate")
        text = Path(store, *Path(script).parts[3:]).read_text()
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
