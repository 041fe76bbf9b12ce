"""What a runtime can do, from what it says of itself. Tables from the NRI project's own map and the runtimes'
sources.
"""

import pytest

from nri_flox.nri.capabilities import OLDEST, Capabilities


@pytest.mark.parametrize(
    ("name", "version", "nri"),
    [
        ("containerd", "1.7.0", (0, 3, 0)),
        ("containerd", "v1.7.6", (0, 3, 0)),
        ("containerd", "1.7.7", (0, 4, 0)),
        ("containerd", "1.7.14", (0, 6, 0)),
        ("containerd", "1.7.16", (0, 6, 1)),
        ("containerd", "1.7.24~ds1", (0, 6, 1)),
        ("containerd", "1.7.25", (0, 6, 1)),
        ("containerd", "1.7.26", (0, 8, 0)),
        ("containerd", "2.0.0", (0, 8, 0)),
        ("containerd", "2.1.9+unknown", (0, 8, 0)),
        ("containerd", "2.2.0", (0, 10, 0)),
        ("containerd", "v2.2.1", (0, 11, 0)),
        ("containerd", "2.2.0-225-ge9dc15b7a.m", (0, 10, 0)),
        ("containerd", "v2.3.4", (0, 12, 0)),
        ("containerd", "3.0.0", (0, 12, 0)),
        ("cri-o", "1.26.0", (0, 2, 0)),
        ("cri-o", "1.33.8", (0, 9, 0)),
        ("cri-o", "1.34.0", (0, 10, 0)),
        ("cri-o", "1.35.2", (0, 11, 0)),
    ],
)
def test_nri_version_follows_from_the_release(name: str, version: str, nri: tuple[int, int, int]) -> None:
    assert Capabilities.of(name, version).nri == nri


@pytest.mark.parametrize("version", ["2.2.0-rc.1", "v2.2.0-beta.0", "2.2.0~rc1"])
def test_pre_release_is_not_trusted_with_what_its_release_brings(version: str) -> None:
    assert not Capabilities.of("containerd", version).rewrites_args


def test_what_the_runtime_says_goes_before_what_its_release_suggests() -> None:
    assert Capabilities.of("containerd", "1.7.24", "v0.12.1").nri == (0, 12, 1)


@pytest.mark.parametrize("said", ["", "(devel)", "0.0.0-unknown", "unknown"])
def test_nri_version_that_says_nothing_is_inferred(said: str) -> None:
    assert Capabilities.of("containerd", "2.1.9", said).nri == (0, 8, 0)


@pytest.mark.parametrize(("name", "version"), [("", ""), ("podman", "9.9.9"), ("containerd", "main")])
def test_unknown_runtime_is_trusted_with_nothing(name: str, version: str) -> None:
    runtime = Capabilities.of(name, version)
    assert runtime.nri == OLDEST
    assert (runtime.rewrites_args, runtime.own_event_methods, runtime.splits_synchronize) == (False,) * 3


@pytest.mark.parametrize(
    ("nri", "args", "events", "methods", "split"),
    [
        ("0.6.1", False, 11, False, False),
        ("0.7.0", False, 11, False, True),
        ("0.9.0", False, 11, False, True),
        ("0.10.0", True, 14, False, True),
        ("0.11.0", True, 14, False, True),
        ("0.12.0", True, 14, True, True),
        ("0.13.0", True, 14, True, True),
        ("1.0.0", True, 14, True, True),
    ],
)
def test_what_each_nri_version_brought(nri: str, args: bool, events: int, methods: bool, split: bool) -> None:
    runtime = Capabilities.of("containerd", "", nri)
    assert runtime.rewrites_args is args
    assert runtime.events == set(range(1, events + 1))
    assert runtime.own_event_methods is methods
    assert runtime.splits_synchronize is split


@pytest.mark.parametrize(
    ("name", "version", "said", "text"),
    [
        ("containerd", "1.7.24~ds1", "", "containerd 1.7.24 (NRI 0.6)"),
        ("containerd", "v2.3.4", "v0.12.0", "containerd 2.3.4 (NRI 0.12)"),
        ("containerd", "2.2.0-rc.1", "", "containerd 2.2.0-rc (NRI 0.8)"),
        ("podman", "main", "", "podman main (NRI 0.2)"),
        ("", "", "", "an unknown runtime (NRI 0.2)"),
    ],
)
def test_runtime_is_named_for_people(name: str, version: str, said: str, text: str) -> None:
    assert str(Capabilities.of(name, version, said)) == text


def test_messages_can_say_which_release_would_rewrite_args() -> None:
    assert Capabilities.of("containerd", "1.7.24").release_with_args == "containerd 2.2"
    assert Capabilities.of("cri-o", "1.30.0").release_with_args == "cri-o 1.34"
