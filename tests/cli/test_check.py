"""What `nri-flox check` sees on a node, and what it advises."""

import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from nri_flox.cli import probes
from nri_flox.cli.containerd_pb2 import Plugin, PluginsRequest, PluginsResponse, Status, VersionRequest, VersionResponse
from nri_flox.cli.findings import Finding, Level, as_json, as_text, fault, ok, warning
from nri_flox.cli.main import main
from nri_flox.config import Config, Environments, Flox, Nix, Source

REMEDY = "do something"


@pytest.fixture
def nix(tmp_path: Path) -> Nix:
    """A store with one path, its database, and no view directory yet."""
    path = tmp_path / "store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-hello"
    path.mkdir(parents=True)
    (path / "hello").write_text("hello")
    (tmp_path / "var/db").mkdir(parents=True)
    database = sqlite3.connect(tmp_path / "var/db/db.sqlite")
    database.executescript(
        "CREATE TABLE ValidPaths(id INTEGER PRIMARY KEY, path TEXT);"
        "CREATE TABLE Refs(referrer INTEGER, reference INTEGER)"
    )
    database.close()
    return Nix(str(tmp_path / "store"), str(tmp_path / "var"), str(tmp_path / "views/of/containers"))


@contextmanager
def containerd(version: str, plugins: list[Plugin], path: Path) -> Iterator[str]:
    """A server that answers as containerd does; gives its socket."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    for service, method, request, response, answer in (
        ("version.v1.Version", "Version", VersionRequest, VersionResponse, VersionResponse(version=version)),
        (
            "introspection.v1.Introspection",
            "Plugins",
            PluginsRequest,
            PluginsResponse,
            PluginsResponse(plugins=plugins),
        ),
    ):
        handler = grpc.unary_unary_rpc_method_handler(
            lambda _request, _context, answer=answer: answer,
            request.FromString,
            response.SerializeToString,
        )
        name = f"containerd.services.{service}"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {method: handler}),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield str(path)
    finally:
        server.stop(None)


NRI = Plugin(type="io.containerd.nri.v1", id="nri")


def test_a_containerd_with_nri_is_fine(tmp_path: Path) -> None:
    with containerd("1.7.24~ds1", [NRI], tmp_path / "socket") as path:
        assert list(probes.containerd(path)) == [ok("containerd", "1.7.24~ds1, NRI 0.6.1")]


def test_a_containerd_with_nri_among_its_disabled_plugins_is_a_fault(tmp_path: Path) -> None:
    with containerd("2.1.9+unknown", [], tmp_path / "socket") as path:
        version, nri = probes.containerd(path)
    assert version.level is Level.OK
    assert nri.level is Level.FAULT
    assert "disabled_plugins" in nri.remedy


def test_a_containerd_whose_nri_did_not_start_is_a_fault(tmp_path: Path) -> None:
    broken = Plugin(type="io.containerd.nri.v1", id="nri", init_err=Status(code=2, message="address in use"))
    with containerd("2.1.9", [broken], tmp_path / "socket") as path:
        _, nri = probes.containerd(path)
    assert nri.level is Level.FAULT
    assert "address in use" in nri.text


def test_without_containerd_its_socket_is_asked_for(tmp_path: Path) -> None:
    (found,) = probes.containerd(str(tmp_path / "none"))
    assert (found.level, "--containerd-socket" in found.remedy) == (Level.WARNING, True)


def test_a_socket_where_nobody_answers_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    (found,) = probes.containerd(str(path))
    assert (found.level, "no answer" in found.text) == (Level.WARNING, True)


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("1.6.36", Level.FAULT),
        ("1.7.0", Level.OK),
        ("1.7.24~ds1", Level.OK),
        ("v2.3.1", Level.OK),
        ("10.0.0", Level.OK),
        ("unknown", Level.WARNING),
    ],
)
def test_containerd_is_supported_from_1_7(version: str, level: Level) -> None:
    assert probes.containerd_version(version).level is level


def test_a_runtime_that_listens_for_plugins_is_fine(tmp_path: Path) -> None:
    path = str(tmp_path / "nri.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert probes.nri_socket(path).level is Level.OK


def test_a_missing_nri_socket_comes_with_how_to_enable_nri(tmp_path: Path) -> None:
    found = probes.nri_socket(str(tmp_path / "nri.sock"))
    assert (found.level, "disable = false" in found.remedy) == (Level.FAULT, True)


def test_an_nri_socket_that_nobody_serves_is_a_fault(tmp_path: Path) -> None:
    path = str(tmp_path / "nri.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
    assert "nobody listens" in probes.nri_socket(path).text


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_flox_cli_is_found_on_the_path_and_says_its_version(tmp_path: Path) -> None:
    program(tmp_path / "flox", "echo 1.14.1")
    assert probes.flox_cli("flox", str(tmp_path)) == ok("flox", f"{tmp_path}/flox, version 1.14.1")


def test_the_flox_cli_gets_a_home_of_its_own_and_sends_no_metrics(tmp_path: Path) -> None:
    program(tmp_path / "flox", 'echo "1.14.1 $HOME $FLOX_DISABLE_METRICS $SECRET"')
    text = probes.flox_cli(str(tmp_path / "flox"), "/bin").text
    assert os.environ.get("HOME", "unset") not in text.split()
    assert text.endswith("true")


@pytest.mark.parametrize(
    ("script", "said"), [("echo broken >&2; exit 1", "failed: broken"), ("exec sleep 60", "took over 0 s")]
)
def test_a_flox_cli_that_does_not_work_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setattr(probes, "CLI_TIMEOUT", 0.3)
    program(tmp_path / "flox", script)
    found = probes.flox_cli("flox", f"{tmp_path}:/usr/bin:/bin")
    assert (found.level, said in found.text) == (Level.FAULT, True), found


@pytest.mark.parametrize("said", ["", "true (GNU coreutils) 9.1", "Python 3.11.2", "ok"])
def test_a_program_with_a_version_that_is_not_floxs_is_a_fault(tmp_path: Path, said: str) -> None:
    program(tmp_path / "flox", f"echo '{said}'")
    found = probes.flox_cli("flox", str(tmp_path))
    assert (found.level, "flox.executable" in found.remedy) == (Level.FAULT, True), found


@pytest.mark.parametrize(("user", "levels"), [("", []), ("root", []), ("nosuch", [Level.FAULT])])
def test_a_user_for_the_flox_cli_must_be_there(user: str, levels: list[Level]) -> None:
    found = list(probes.flox_user(user))
    assert [each.level for each in found] == levels
    assert all(user in each.text and "flox.user" in each.remedy for each in found)


def test_the_user_of_the_flox_cli_matters_only_where_the_cli_is_used(nix: Nix, tmp_path: Path) -> None:
    for source, told in ((Source.FLOXHUB, True), (Source.DIRECTORY, False)):
        config = Config(
            environments=Environments(source=(source,), directory=str(tmp_path)), flox=Flox(user="nosuch"), nix=nix
        )
        found = probes.everything(config, str(tmp_path / "none"), str(tmp_path))
        assert any("nosuch" in each.text for each in found) is told


def test_a_missing_flox_cli_is_a_fault(tmp_path: Path) -> None:
    assert probes.flox_cli("flox", str(tmp_path)).level is Level.FAULT


def test_a_whole_store_is_fine(nix: Nix) -> None:
    found = [probes.store(nix), probes.database(nix, (Source.FLOXHUB,)), probes.view_directory(nix)]
    assert [each.level for each in found] == [Level.OK] * 3, found


def test_trying_the_view_directory_leaves_nothing_behind(nix: Nix, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    probes.view_directory(nix)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_view_directory_on_another_file_system_is_a_fault(nix: Nix) -> None:
    found = probes.view_directory(Nix(nix.store_dir, nix.state_dir, "/dev/shm/nri-flox-views"))
    assert (found.level, "another file system" in found.text) == (Level.FAULT, True), found


def test_a_missing_store_is_a_fault(tmp_path: Path) -> None:
    assert probes.store(Nix(store_dir=str(tmp_path / "none"))).level is Level.FAULT


@pytest.mark.parametrize(
    ("sources", "level"),
    [((Source.FLOXHUB,), Level.FAULT), ((Source.DIRECTORY,), Level.WARNING), (tuple(Source), Level.FAULT)],
)
def test_only_the_directory_source_can_do_without_a_database(
    tmp_path: Path, sources: tuple[Source, ...], level: Level
) -> None:
    assert probes.database(Nix(state_dir=str(tmp_path)), sources).level is level


def test_a_database_of_something_else_is_a_fault(nix: Nix) -> None:
    Path(nix.state_dir, "db/db.sqlite").write_text("no database")
    assert probes.database(nix, (Source.DIRECTORY,)).level is Level.FAULT


def test_a_state_directory_is_fine_before_it_exists(tmp_path: Path) -> None:
    assert probes.state_directory(str(tmp_path / "a/b")).level is Level.OK


def test_a_state_directory_below_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert probes.state_directory(str(tmp_path / "a/b")).level is Level.FAULT


@pytest.mark.parametrize(
    ("free", "level"), [(0.5, Level.OK), (0.16, Level.OK), (0.1, Level.WARNING), (0.04, Level.WARNING)]
)
def test_room_in_the_store_is_judged_by_the_limits_of_the_config(free: float, level: Level) -> None:
    assert probes.store_share_free("bytes", free, Environments()).level is level


def test_too_little_room_for_writable_layers_is_a_warning() -> None:
    assert not list(probes.state_share_free(0.06, Environments()))
    (found,) = probes.state_share_free(0.04, Environments())
    assert (found.level, "writable /nix" in found.text) == (Level.WARNING, True)


def test_an_empty_directory_of_environments_is_a_warning(tmp_path: Path) -> None:
    assert probes.environment_directory(str(tmp_path)).level is Level.WARNING
    (tmp_path / "acme").mkdir()
    assert probes.environment_directory(str(tmp_path)).level is Level.OK


def test_what_nobody_has_tried_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "kata-runtime", "")
    (tmp_path / "enforce").write_text("1")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = probes.untested(probes.Traces(crio=str(tmp_path), selinux=str(tmp_path / "enforce")))
    assert [(each.subject, each.level) for each in found] == [
        (subject, Level.WARNING) for subject in ("cri-o", "selinux", "sandbox")
    ]


def test_a_node_without_any_of_that_gets_no_such_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enforce").write_text("0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not list(probes.untested(probes.Traces(crio=str(tmp_path / "none"), selinux=str(tmp_path / "enforce"))))


# How findings are shown, and the command as a whole.


def test_a_finding_is_one_line_with_its_remedy() -> None:
    assert as_text([ok("store", "/nix/store"), fault("nri", "no socket", REMEDY)]) == (
        "ok       store         /nix/store\nfault    nri           no socket: do something\n"
    )


@pytest.mark.parametrize(
    ("findings", "ready"),
    [([ok("a", "b")], True), ([warning("a", "b", REMEDY)], True), ([ok("a", "b"), fault("a", "b", REMEDY)], False)],
)
def test_json_says_whether_the_node_is_ready(findings: list[Finding], ready: bool) -> None:
    assert json.loads(as_json(findings))["ready"] is ready


@pytest.fixture
def ready_node(tmp_path: Path, nix: Nix) -> Iterator[list[str]]:
    """The arguments of a check of a node on which nothing is wrong."""
    (tmp_path / "environments/acme").mkdir(parents=True)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[nri]\nsocket_path = "{tmp_path}/nri.sock"\n'
        f'[nix]\nstore_dir = "{nix.store_dir}"\nstate_dir = "{nix.state_dir}"\nview_dir = "{nix.view_dir}"\n'
        f'[environments]\nsource = "directory"\ndirectory = "{tmp_path}/environments"\nstate_dir = "{tmp_path}/state"\n'
        "gc_above = 1\nmin_free = 0\n"
    )
    with (
        socket.socket(socket.AF_UNIX) as nri,
        containerd("2.1.9", [NRI], tmp_path / "containerd.sock") as containerd_socket,
    ):
        nri.bind(str(tmp_path / "nri.sock"))
        nri.listen()
        yield ["check", "--config", str(config), "--containerd-socket", containerd_socket]


def test_a_ready_node_is_ready(ready_node: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ready_node) == 0
    assert "fault" not in capsys.readouterr().out
    assert main([*ready_node, "--ready"]) == 0
    assert capsys.readouterr().out == "ready\n"
    assert main([*ready_node, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True


def test_a_fault_ends_with_status_1_and_is_all_that_ready_shows(
    ready_node: list[str], nix: Nix, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(nix.state_dir, "db/db.sqlite").write_text("no database")
    assert main([*ready_node, "--ready"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("fault    database")


def test_a_wrong_config_ends_with_status_2_and_is_the_only_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[nri]\nsocket = 1")
    assert main(["check", "--config", str(config)]) == 2
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    problem = f"{config}: nri.socket: there is no such key"
    assert line.startswith(f"fault    config        {problem}")
    assert shown.err.startswith(f"nri-flox: {problem}")
    assert shown.err.count("\n") == 1
    assert main(["check", "--config", str(config), "--output", "json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["ready"] is False
    assert shown.err.startswith(f"nri-flox: {problem}")
