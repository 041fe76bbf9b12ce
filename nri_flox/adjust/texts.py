"""What people read in the events of a pod when one of its containers can't be created.

Every text starts with `flox: ` and names the container; `contract` words in them are fixed, tools may search for them.
"""

from __future__ import annotations

from nri_flox.flox.environment import Failure, Fault
from nri_flox.flox.reference import Reference
from nri_flox.flox.token import Lent, Unusable
from nri_flox.flox.wording import duration, quote


def about(container: str, named: str | None, text: str) -> str:
    """For a refusal that comes before any environment is understood; `named` is what the pod says, if anything."""
    environment = "" if named is None else f"environment {quote(named)} for "
    return f"flox: {environment}container {quote(container)}: {text}"


def environment(container: str, reference: Reference, text: str) -> str:
    return f"flox: environment {reference} for container {quote(container)} {text}"


def pulling(container: str, reference: Reference, seconds: float, before: str | None = None) -> str:
    """`before` is why the attempt before this one failed (`why`)."""
    last = f"; the attempt before failed: it {before}" if before else ""
    waited = duration(seconds)
    return environment(
        container, reference, f"is being pulled (for {waited} so far); the container is created when it is here{last}"
    )


def unusable_token(container: str, reference: Reference, token: Unusable) -> str:
    return environment(container, reference, f"can't be had with the token in {token.origin}: {token.reason}")


def why(failure: Failure, lent: Lent | None, mount_path: str, *, here: bool) -> str:
    """What an environment is or does that keeps it from containers; `here`: a generation is on the node."""
    match failure.fault:
        case Fault.NOT_FOUND if lent is None:
            return (
                f"was not found {failure.place}; check its name; a private environment needs a token, "
                f"in a secret that the pod mounts at {mount_path}"
            )
        case Fault.NOT_FOUND:
            return (
                f"was not found {failure.place}; check its name; a private environment needs a token, and the one "
                f"in {_origin(lent)} did not open it"
            )
        case Fault.TOKEN_REFUSED:
            return f"can't be had: FloxHub refused the token in {_origin(lent)}; renew it with `flox auth token`"
        case Fault.UNREACHABLE:
            lacking = "can't be checked" if here else "is not on this node"
            return f"{lacking}, and FloxHub could not be reached: {failure.detail}"
        case Fault.NO_SPACE:
            return f"can't be had: there is no space left on this node ({failure.detail})"
        case Fault.UNSUPPORTED_SYSTEM:
            return f"does not support {failure.detail}, the system of this node"
        case Fault.BROKEN:
            return f"can't be used: {failure.detail}"


def _origin(lent: Lent | None) -> str:
    return lent.origin if lent else "no file"
