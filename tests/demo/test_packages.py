"""Where the programs of a private node come from, with an apt-get, a dpkg-deb and a go that only play along."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nri_flox.demo import packages

# Answers for the machine's sources: its own archive, its security archive, and somebody else's.
_INDEX = """\
http://archive.example/debian/ bookworm main
http://archive.example/debian/ bookworm-updates main
http://archive.example/security/ bookworm-security main
http://elsewhere.example/tools nodistro main
"""

# Downloads "packages" whose content is the version that containerd is to have.
_APT_GET = """\
#!/bin/sh
case "$*" in
  *indextargets*) cat "$STAGE/index" ;;
  *update*) cp "$(sed -n 's/^Dir::Etc::SourceList "\\(.*\\)";/\\1/p' "$APT_CONFIG")" "$STAGE/sources"
            echo "E: somebody's archive is not signed" >&2; exit "$(cat "$STAGE/update")" ;;
  *download*) [ -e "$STAGE/version" ] || { echo "E: Unable to locate package" >&2; exit 100; }
              shift 2; for name; do cp "$STAGE/version" "$name.deb"; done ;;
esac
"""
_DPKG_DEB = """\
#!/bin/sh
echo unpacked >> "$STAGE/unpacked"
mkdir -p "$3/usr/bin"
mkdir -p "$3/usr/lib/go-1.24/bin"
cp "$(command -v go)" "$3/usr/lib/go-1.24/bin/"
for name in containerd runc busybox bash-static; do
  printf '#!/bin/sh\\necho "containerd example v%s.4 abc"\\n' "$(cat "$2")" > "$3/usr/bin/$name"
  chmod 755 "$3/usr/bin/$name"
done
"""
_GO = """\
#!/bin/sh
[ "$1" != version ] || { echo "go version go$(cat "$STAGE/go-version") linux/amd64"; exit; }
echo "$GOROOT $@" > "$STAGE/go"
printf '#!/bin/sh\\necho built\\n' > "$GOBIN/containerd"
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which files say what the stand-ins do: `version` of the archive's containerd, and so on."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"apt-get": _APT_GET, "dpkg-deb": _DPKG_DEB, "go": _GO}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "index").write_text(_INDEX)
    (tmp_path / "update").write_text("0")
    (tmp_path / "go-version").write_text("1.26.1")
    monkeypatch.setenv("STAGE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("NRI_FLOX_CACHE", str(tmp_path / "cache"))
    _distribution(monkeypatch, "debian", "bookworm")
    return tmp_path


def _distribution(monkeypatch: pytest.MonkeyPatch, name: str, codename: str) -> None:
    release = {"ID": name, "VERSION_CODENAME": codename}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)


def test_a_release_comes_from_its_suite_in_the_machines_own_archive(stage: Path) -> None:
    (stage / "version").write_text("1.7")
    directory = packages.containerd("1.7")
    assert packages.version(directory / "containerd") == (1, 7)
    sources = [line.split()[-3:] for line in (stage / "sources").read_text().splitlines()]
    assert sources == [["http://archive.example/debian/", "trixie", "main"]]


def test_what_is_there_is_not_fetched_again(stage: Path) -> None:
    (stage / "version").write_text("1.7")
    assert packages.containerd("1.7") == packages.containerd("1.7")
    assert (stage / "unpacked").read_text() == "unpacked\n"


def test_tools_come_from_the_distributions_own_suites(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage / "version").write_text("1.1")
    assert packages.busybox().is_file()
    assert packages.bash().is_file()
    sources = [line.split()[-2] for line in (stage / "sources").read_text().splitlines()]
    assert sources == ["bookworm", "bookworm-updates", "bookworm-security"]


def test_an_archive_of_somebody_else_that_fails_does_no_harm(stage: Path) -> None:
    (stage / "version").write_text("1.7")
    (stage / "update").write_text("100")
    assert packages.containerd("1.7").is_dir()


def test_a_release_that_the_suite_has_left_is_built_from_its_module(stage: Path) -> None:
    (stage / "version").write_text("2.9")
    directory = packages.containerd("2.1")
    assert [path.name for path in directory.iterdir()] == ["containerd"], "what was unpacked in vain is still there"
    assert "github.com/containerd/containerd/v2/cmd/containerd@v2.1." in (stage / "go").read_text()


def test_go_that_is_too_old_to_fetch_a_newer_one_gives_way(stage: Path) -> None:
    (stage / "version").write_text("2.9")
    (stage / "go-version").write_text("1.19.8")
    packages.containerd("2.3")
    assert (stage / "go").read_text().startswith(f"{stage}/cache/go/usr/lib/go-1.24 install ")


def test_any_release_is_the_distributions_if_that_is_new_enough(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _distribution(monkeypatch, "ubuntu", "bookworm")
    (stage / "version").write_text("2.2")
    assert packages.version(packages.containerd() / "containerd") == (2, 2)


def test_an_installed_containerd_is_used_as_it_is(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = stage / "installed"
    installed.mkdir()
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        (installed / name).write_text("#!/bin/sh\necho containerd example 1.7.2\n")
        (installed / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{installed}:{os.environ['PATH']}")
    assert packages.containerd() == installed


@pytest.mark.parametrize(
    ("release", "version", "text"),
    [("1.7", "1.6", "trixie has containerd 1.6"), ("1.7", None, "Unable to locate package"), ("0.9", "1.7", "not 0.9")],
)
def test_what_cannot_be_had_is_said_and_leaves_nothing(
    stage: Path, release: str, version: str | None, text: str
) -> None:
    if version is not None:
        (stage / "version").write_text(version)
    with pytest.raises(packages.Unavailable, match=text):
        packages.containerd(release)
    assert [path.name for path in (stage / "cache").iterdir()] == [f".containerd-{release}.lock"]


def test_without_apt_the_reason_is_said(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stage))
    with pytest.raises(packages.Unavailable, match="no apt-get"):
        packages.busybox()


def test_processes_that_ask_at_the_same_time_unpack_once(stage: Path) -> None:
    (stage / "version").write_text("1.7")
    script = textwrap.dedent("""\
        import platform
        platform.freedesktop_os_release = lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"}
        from nri_flox.demo import packages
        print(packages.containerd("1.7"))
    """)
    asking = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate()[0] for process in asking}
    assert said == {f"{stage}/cache/containerd-1.7/usr/bin\n"}
    assert (stage / "unpacked").read_text() == "unpacked\n"
