"""What is known on this node, in memory: where each wanted environment stands, and the pods that want them.

Requests read it without waiting: a value is immutable and replaced whole, and reading a dict needs no lock. Workers
publish here what they have finished. A request that may wait a little does so on `changed`, for any news at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from dataclasses import replace

from nri_flox.flox.accounts import User
from nri_flox.flox.environment import NOTHING, Environment, Failure, Layer, PodRecord, Standing, Want
from nri_flox.flox.store import StorePath
from nri_flox.flox.token import Tokens


class Catalogue:
    def __init__(self) -> None:
        self._standings: dict[Want, Standing] = {}
        self._pods: dict[str, PodRecord] = {}
        self._accounts: dict[User | None, str] = {}
        self._ready_layers: dict[StorePath, Layer | Failure] = {}
        self._layers_in_use: dict[str, tuple[str, Layer]] = {}  # by container, with its sandbox
        # Held for an assignment only, never while anything is worked on.
        self._lock = threading.Condition()
        self._news = 0

    def standing(self, want: Want) -> Standing:
        return self._standings.get(want, NOTHING)

    def pod(self, sandbox_id: str) -> PodRecord | None:
        return self._pods.get(sandbox_id)

    def accounts(self, user: User | None) -> str | None:
        return self._accounts.get(user)

    def layer(self, path: StorePath) -> Layer | Failure | None:
        """A layer for the next container in the environment at `path`; or why there is none, as of the last try."""
        return self._ready_layers.get(path)

    def layers(self) -> list[Layer]:
        """All that are in use or ready."""
        with self._lock:
            ready = [layer for layer in self._ready_layers.values() if isinstance(layer, Layer)]
            return ready + [layer for _, layer in self._layers_in_use.values()]

    def publish_layer(self, path: StorePath, outcome: Layer | Failure) -> None:
        with self._lock:
            self._ready_layers[path] = outcome
            self._tell()

    def use_layer(self, layer: Layer, container_id: str, sandbox_id: str) -> None:
        """The container has `layer` from now on, and nobody else gets it."""
        with self._lock:
            self._ready_layers = {path: ready for path, ready in self._ready_layers.items() if ready != layer}
            self._layers_in_use[container_id] = (sandbox_id, layer)

    def leave_layers(self, gone: Callable[[str, str], bool]) -> list[Layer]:
        """The layers of all containers that are `gone`, which is told the container and its sandbox; used no more."""
        with self._lock:
            found = [one for one, (sandbox, _) in self._layers_in_use.items() if gone(one, sandbox)]
            return [self._layers_in_use.pop(container)[1] for container in found]

    def add_pod(self, sandbox_id: str, record: PodRecord) -> None:
        with self._lock:
            self._pods.setdefault(sandbox_id, record)

    def keep(self, sandbox_id: str, want: Want, environment: Environment) -> None:
        """The pod runs a container in `environment`, and keeps to that one for its life."""
        record = self._pods.get(sandbox_id)
        if record is None or want.public in record.kept:
            return
        with self._lock:
            record = self._pods.get(sandbox_id)
            if record is not None:
                self._pods[sandbox_id] = replace(record, kept={want.public: environment, **record.kept})

    def adopt(self, other: Catalogue) -> None:
        """Take over the pods of `other`, with what they keep, and all layers."""
        with self._lock:
            self._pods = {**other._pods, **self._pods}
            self._ready_layers = {**other._ready_layers, **self._ready_layers}
            self._layers_in_use = {**other._layers_in_use, **self._layers_in_use}

    def drop_pod(self, sandbox_id: str) -> None:
        with self._lock:
            self._pods.pop(sandbox_id, None)

    def drop_pods_but(self, sandbox_ids: Container[str]) -> None:
        """Forget pods that are gone; their events may never have come."""
        with self._lock:
            self._pods = {one: record for one, record in self._pods.items() if one in sandbox_ids}

    def publish(self, want: Want, change: Callable[[Standing], Standing]) -> None:
        """Replace the standing of `want` by what `change` makes of it."""
        with self._lock:
            self._standings[want] = change(self._standings.get(want, NOTHING))
            self._tell()

    def refuse(self, want: Want, *, everywhere: bool) -> None:
        """Take away what an earlier check had allowed; `everywhere` in all generations and modes, for its credential.

        What pods run in already, they keep.
        """
        with self._lock:
            for other, standing in self._standings.items():
                same = (other.reference.environment, other.credential) == (want.reference.environment, want.credential)
                if other == want or (everywhere and same):
                    self._standings[other] = replace(standing, environment=None, checked=NOTHING.checked)
            self._tell()

    def publish_tokens(self, sandbox_id: str, tokens: Tokens) -> None:
        with self._lock:
            record = self._pods.get(sandbox_id)
            if record is not None:
                self._pods[sandbox_id] = replace(record, tokens=tokens)
            self._tell()

    def publish_accounts(self, user: User | None, directory: str) -> None:
        with self._lock:
            self._accounts[user] = directory
            self._tell()

    @property
    def news(self) -> int:
        """Counts publications."""
        return self._news

    def changed(self, since: int, timeout: float) -> bool:
        """Wait at most `timeout` seconds for a publication after the count `since`; whether there was one."""
        with self._lock:
            return self._lock.wait_for(lambda: self._news != since, timeout)

    def _tell(self) -> None:
        self._news += 1
        self._lock.notify_all()
