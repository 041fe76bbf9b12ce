"""Which pods may have which environments on this node: `policy.default` and the `[[policy.rule]]` of the config."""

from __future__ import annotations

from nri_flox.config import Policy
from nri_flox.flox.annotations import Wish, listed


def forbidden(policy: Policy, namespace: str, wish: Wish) -> str | None:
    """Why `policy` does not let a pod of `namespace` have what it wishes, or None when it may.

    The first rule whose namespaces match decides.
    """
    for rule in policy.rule:
        if not listed(namespace, rule.namespaces):
            continue
        if not listed(wish.reference.environment, rule.allow):
            return f"pods of namespace {namespace} may have {', '.join(rule.allow) or 'no environment'}"
        if rule.pinned_only and not wish.reference.pinned:
            return f"pods of namespace {namespace} must pin a generation, as in {wish.reference.environment}:1"
        if wish.nix_mutable and not rule.nix_mutable:
            return f"pods of namespace {namespace} may not have a writable /nix"
        return None
    return None if policy.default == "allow" else f"no rule allows pods of namespace {namespace} any environment"
