"""What a pod's annotations ask for a container."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_flox.flox.annotations import (
    Absent,
    InvalidAnnotation,
    PullPolicy,
    Wish,
    listed,
    unknown,
    wish,
    wishes,
)
from nri_flox.flox.reference import Mode, Reference

TOOLS = {"flox.dev/environment": "acme/tools"}


def test_environment_alone_means_the_defaults() -> None:
    assert wish(TOOLS, "main") == Wish(
        reference=Reference("acme", "tools"),
        mode=Mode.RUN,
        policy=PullPolicy.ALWAYS,
        skip_exec=False,
        disable_metrics=False,
        nix_mutable=False,
    )


@pytest.mark.parametrize(
    ("annotations", "field", "value"),
    [
        ({"flox.dev/activate-mode": "dev"}, "mode", Mode.DEV),
        ({"flox.dev/activate-mode": "run"}, "mode", Mode.RUN),
        ({"flox.dev/disable-metrics": "true"}, "disable_metrics", True),
        ({"flox.dev/disable-metrics": "TRUE"}, "disable_metrics", True),
        ({"flox.dev/disable-metrics": "False"}, "disable_metrics", False),
        ({"flox.dev/nix-mutable": "True"}, "nix_mutable", True),
        ({"flox.dev/pull-policy": "Never"}, "policy", PullPolicy.NEVER),
        ({"flox.dev/skip-containers-exec": "other, main"}, "skip_exec", True),
        ({"flox.dev/skip-containers-exec": "m*"}, "skip_exec", True),
        ({"flox.dev/skip-containers-exec": "other"}, "skip_exec", False),
        ({"flox.dev/environment": "acme/tools:7"}, "policy", PullPolicy.IF_NOT_PRESENT),
        ({"flox.dev/environment": "acme/tools:7", "flox.dev/pull-policy": "Always"}, "policy", PullPolicy.ALWAYS),
        ({"flox.dev/environment.main": "acme/special"}, "reference", Reference("acme", "special")),
        ({"flox.dev/environment.other": "acme/special"}, "reference", Reference("acme", "tools")),
    ],
)
def test_each_annotation_sets_one_thing(annotations: dict[str, str], field: str, value: object) -> None:
    assert getattr(wish(TOOLS | annotations, "main"), field) == value


@pytest.mark.parametrize(
    ("annotations", "absent"),
    [
        ({}, Absent.UNNAMED),
        ({"flox.dev/environment.other": "acme/tools"}, Absent.UNNAMED),
        ({**TOOLS, "flox.dev/skip-containers": "main"}, Absent.SKIPPED_BY_POD),
        ({**TOOLS, "flox.dev/skip-containers": " a , main ,, "}, Absent.SKIPPED_BY_POD),
        ({**TOOLS, "flox.dev/skip-containers": "ma?n"}, Absent.SKIPPED_BY_POD),
        ({**TOOLS, "flox.dev/skip-containers": "*"}, Absent.SKIPPED_BY_POD),
        # A container in both lists is skipped, and one that has an environment of its own as well.
        ({**TOOLS, "flox.dev/skip-containers": "main", "flox.dev/skip-containers-exec": "main"}, Absent.SKIPPED_BY_POD),
        ({"flox.dev/environment.main": "acme/tools", "flox.dev/skip-containers": "main"}, Absent.SKIPPED_BY_POD),
        # A skipped container is never touched, whatever else is wrong.
        ({"flox.dev/environment": "?!", "flox.dev/skip-containers": "main"}, Absent.SKIPPED_BY_POD),
        # Neither is one that the list names, or that has no environment, by a list that is too long to match.
        ({**TOOLS, "flox.dev/skip-containers": "*x," * 200 + "main"}, Absent.SKIPPED_BY_POD),
        ({"flox.dev/skip-containers": "*x," * 200}, Absent.UNNAMED),
        # Without an environment for it, a container is not affected by what is wrong elsewhere.
        ({"flox.dev/activate-mode": "walk"}, Absent.UNNAMED),
    ],
)
def test_container_without_environment(annotations: dict[str, str], absent: Absent) -> None:
    assert wish(annotations, "main") is absent


def test_node_skips_sidecars_that_webhooks_inject() -> None:
    assert wish(TOOLS, "debugger-x7k2p", ["istio-proxy", "debugger-*"]) is Absent.SKIPPED_BY_NODE


def test_pod_may_ask_for_a_container_that_the_node_skips() -> None:
    wished = wish({"flox.dev/environment.istio-proxy": "acme/proxy"}, "istio-proxy", ["istio-proxy"])
    assert isinstance(wished, Wish)


@pytest.mark.parametrize(
    ("annotation", "value", "allowed"),
    [
        ("flox.dev/environment", "tools", "owner/name"),
        ("flox.dev/environment", "", "owner/name"),
        ("flox.dev/environment.main", "acme/tools:0", "positive whole number"),
        ("flox.dev/activate-mode", "Run", "run or dev"),
        ("flox.dev/activate-mode", "", "run or dev"),
        ("flox.dev/disable-metrics", "yes", "true or false"),
        ("flox.dev/disable-metrics", " true", "true or false"),
        ("flox.dev/nix-mutable", "1", "true or false"),
        ("flox.dev/pull-policy", "always", "Always or IfNotPresent or Never"),
        ("flox.dev/skip-containers", "*x," * 200, "at most"),
    ],
)
def test_value_that_does_not_fit_is_refused_with_its_name(annotation: str, value: str, allowed: str) -> None:
    with pytest.raises(InvalidAnnotation) as refusal:
        wish(TOOLS | {annotation: value}, "main")
    assert annotation in str(refusal.value)
    assert value[:20] in str(refusal.value)
    assert allowed in str(refusal.value)


def test_refusal_of_a_hostile_value_is_one_short_line() -> None:
    with pytest.raises(InvalidAnnotation) as refusal:
        wish(TOOLS | {"flox.dev/activate-mode": "\x1b[31m\nred\u202e" + "x" * 100_000}, "main")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("value", "shown"), [("acme/x\n", r'"acme/x\n"'), (" acme/x", '" acme/x"'), ("a\u202e", r'"a\u202e"')]
)
def test_refusal_shows_what_is_too_much(value: str, shown: str) -> None:
    with pytest.raises(InvalidAnnotation) as refusal:
        wish({"flox.dev/environment": value}, "main")
    assert shown in str(refusal.value)


def test_unknown_annotations_are_told_apart() -> None:
    annotations = {"flox.dev/enviroment": "x", "flox.dev/environment.main": "x", "example.com/skip": "x", **TOOLS}
    assert unknown(annotations) == ["flox.dev/enviroment"]


def test_wishes_are_what_is_worth_fetching_before_any_container_exists() -> None:
    annotations = {**TOOLS, "flox.dev/environment.a": "acme/a", "flox.dev/environment.b": "nonsense"}
    assert {str(wished.reference) for wished in wishes(annotations)} == {"acme/tools", "acme/a"}


def test_no_pod_has_thousands_of_environments_fetched() -> None:
    assert len(wishes({f"flox.dev/environment.c{number}": f"acme/e{number}" for number in range(5000)})) == 16


def test_wishes_of_a_pod_with_a_mode_that_does_not_exist_are_none() -> None:
    assert wishes({**TOOLS, "flox.dev/activate-mode": "walk"}) == []


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a*", "a", True),
        ("*a", "ba", True),
        ("*a", "ab", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("?", "", False),
        ("a?c", "abc", True),
        ("*?b", "ab", True),
        ("[ab]", "a", False),
        ("a.c", "abc", False),
        ("", "", False),
        ("  ", "a", False),
    ],
)
def test_patterns_match_as_file_names_do(pattern: str, name: str, matches: bool) -> None:
    assert listed(name, [pattern]) is matches


@given(pattern=st.text("ab?*", max_size=8), name=st.text("ab", max_size=8, min_size=1))
def test_patterns_agree_with_a_plain_definition(pattern: str, name: str) -> None:
    def matches(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(matches(pattern[1:], name[start:]) for start in range(len(name) + 1))
        return bool(name) and pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])

    assert listed(name, [pattern]) is (matches(pattern, name) and pattern != "")


def test_no_list_of_patterns_takes_long() -> None:
    began = time.process_time()
    with pytest.raises(InvalidAnnotation):
        wish({**TOOLS, "flox.dev/skip-containers": ("*a" * 30 + "b,") * 4000}, "a" * 63)
    wish({**TOOLS, "flox.dev/skip-containers": ",".join(["*a" * 30 + "b"] * 100) + ",x" * 50_000}, "a" * 63)
    # Seconds, where a matcher that backtracks would take years.
    assert time.process_time() - began < 5
