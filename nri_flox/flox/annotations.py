"""What a pod's annotations ask for one of its containers.

`wish` is the only reader of `flox.dev/` annotations. Its answer is a Wish, or that the container is skipped, or that
no environment is named for it; a value that doesn't fit raises, and only for the containers that it would affect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TypeVar

from nri_flox.flox.reference import REFERENCE_SHAPE, Mode, Reference
from nri_flox.flox.wording import quote

PREFIX = "flox.dev/"
ENVIRONMENT = PREFIX + "environment"
ENVIRONMENT_OF = ENVIRONMENT + "."
SKIP = PREFIX + "skip-containers"
SKIP_EXEC = PREFIX + "skip-containers-exec"
MODE = PREFIX + "activate-mode"
DISABLE_METRICS = PREFIX + "disable-metrics"
NIX_MUTABLE = PREFIX + "nix-mutable"
PULL_POLICY = PREFIX + "pull-policy"

_Choice = TypeVar("_Choice", bound=StrEnum)

# What a pod may make the request path match; real lists have a handful.
_MAX_PATTERNS = 128

# Environments of one pod that are fetched ahead; its annotations could name thousands that no container asks for.
_MAX_FORESEEN = 16

_KNOWN = frozenset({ENVIRONMENT, SKIP, SKIP_EXEC, MODE, DISABLE_METRICS, NIX_MUTABLE, PULL_POLICY})


class PullPolicy(StrEnum):
    """As the pull policies of images."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Absent(Enum):
    """Why a container gets no environment."""

    UNNAMED = "no environment is named for it"
    SKIPPED_BY_POD = f"{SKIP} names it"
    SKIPPED_BY_NODE = "runtime.skip_containers of this node names it"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the pod asks for one container."""

    reference: Reference
    mode: Mode
    policy: PullPolicy
    skip_exec: bool
    disable_metrics: bool
    nix_mutable: bool


class InvalidAnnotation(ValueError):
    """A `flox.dev/` annotation whose value doesn't fit; its text names the annotation, the value, what is allowed."""

    def __init__(self, annotation: str, value: str, allowed: str) -> None:
        super().__init__(f"the annotation {annotation} has the value {quote(value)}; allowed is {allowed}")


def wish(annotations: Mapping[str, str], container: str, skipped_on_node: Iterable[str] = ()) -> Wish | Absent:
    """What `annotations` ask for the container named `container`.

    `skipped_on_node` are the patterns of `runtime.skip_containers`. Raises InvalidAnnotation.
    """
    skipped = annotations.get(SKIP, "").split(",")
    if container in map(str.strip, skipped):
        return Absent.SKIPPED_BY_POD
    annotation, named = ENVIRONMENT_OF + container, annotations.get(ENVIRONMENT_OF + container)
    if named is None:
        if listed(container, skipped_on_node):
            return Absent.SKIPPED_BY_NODE
        annotation, named = ENVIRONMENT, annotations.get(ENVIRONMENT)
    if named is None:
        return Absent.UNNAMED
    if _matched(container, annotations, SKIP):
        return Absent.SKIPPED_BY_POD
    reference = _reference(annotation, named)
    return _wish(reference, annotations, skip_exec=_matched(container, annotations, SKIP_EXEC))


def wishes(annotations: Mapping[str, str]) -> list[Wish]:
    """Every environment that the pod names, for whichever container: what is worth fetching before one is created.

    Values that don't fit are left out here; `wish` refuses them to the container that they concern.
    """
    found: dict[Wish, None] = {}
    for annotation, named in annotations.items():
        if len(found) == _MAX_FORESEEN:
            break
        if annotation == ENVIRONMENT or annotation.startswith(ENVIRONMENT_OF):
            try:
                found[_wish(_reference(annotation, named), annotations, skip_exec=False)] = None
            except InvalidAnnotation:
                continue
    return list(found)


def names_environment(annotations: Mapping[str, str]) -> bool:
    """Whether the pod names an environment for any container."""
    return ENVIRONMENT in annotations or any(name.startswith(ENVIRONMENT_OF) for name in annotations)


def unknown(annotations: Mapping[str, str]) -> list[str]:
    """The `flox.dev/` annotations that mean nothing to us, sorted."""
    return sorted(
        name
        for name in annotations
        if name.startswith(PREFIX) and name not in _KNOWN and not name.startswith(ENVIRONMENT_OF)
    )


def listed(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of `patterns` matches `name` whole; `*` and `?` as in file names, blanks around them ignored."""
    return any(pattern == name or _matches(pattern, name) for pattern in map(str.strip, patterns) if pattern)


def _matches(pattern: str, name: str) -> bool:
    # Each piece between stars is taken at its leftmost place, which is right for patterns of this kind and bounds the
    # work by the product of the lengths: a regular expression made from a pod's text could run for minutes.
    if "*" not in pattern:
        return "?" in pattern and _fits(pattern, name)
    head, *pieces, tail = pattern.split("*")
    start, end = len(head), len(name) - len(tail)
    if start > end or not _fits(head, name[:start]) or not _fits(tail, name[end:]):
        return False
    for piece in filter(None, pieces):
        places = range(start, end - len(piece) + 1)
        place = next((at for at in places if _fits(piece, name[at : at + len(piece)])), None)
        if place is None:
            return False
        start = place + len(piece)
    return True


def _fits(piece: str, text: str) -> bool:
    return len(piece) == len(text) and all(want in ("?", have) for want, have in zip(piece, text, strict=True))


def _matched(container: str, annotations: Mapping[str, str], annotation: str) -> bool:
    value = annotations.get(annotation)
    if not value:
        return False
    names = value.split(",")
    if sum("*" in name or "?" in name for name in names) > _MAX_PATTERNS:
        raise InvalidAnnotation(annotation, value, f"a list with at most {_MAX_PATTERNS} patterns")
    return listed(container, names)


def _wish(reference: Reference, annotations: Mapping[str, str], *, skip_exec: bool) -> Wish:
    policy = _choice(annotations, PULL_POLICY, PullPolicy)
    return Wish(
        reference=reference,
        mode=_choice(annotations, MODE, Mode) or Mode.RUN,
        policy=policy or (PullPolicy.IF_NOT_PRESENT if reference.pinned else PullPolicy.ALWAYS),
        skip_exec=skip_exec,
        disable_metrics=_boolean(annotations, DISABLE_METRICS),
        nix_mutable=_boolean(annotations, NIX_MUTABLE),
    )


def _reference(annotation: str, value: str) -> Reference:
    try:
        return Reference.parse(value)
    except ValueError:
        raise InvalidAnnotation(annotation, value, REFERENCE_SHAPE) from None


def _choice(annotations: Mapping[str, str], annotation: str, kind: type[_Choice]) -> _Choice | None:
    value = annotations.get(annotation)
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise InvalidAnnotation(annotation, value, " or ".join(kind)) from None


def _boolean(annotations: Mapping[str, str], annotation: str) -> bool:
    value = annotations.get(annotation, "false")
    if value.lower() not in ("true", "false"):
        raise InvalidAnnotation(annotation, value, "true or false")
    return value.lower() == "true"
