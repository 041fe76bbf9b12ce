"""All of this room in one: what fills the catalogue, built from the config, from a pod's volumes to its environments.

Made anew when the parts of the config that it rests on change, and otherwise for the life of the service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from nri_flox.config import Config, Source
from nri_flox.environments import accounts
from nri_flox.environments.catalogue import Catalogue
from nri_flox.environments.credentials import Credentials
from nri_flox.environments.directory import DirectorySource
from nri_flox.environments.floxhub import Cli, FloxHubSource
from nri_flox.environments.lane import Lane
from nri_flox.environments.layers import Layers
from nri_flox.environments.realiser import Layout, Realiser, Reporter, Request
from nri_flox.environments.source import Source as EnvironmentSource
from nri_flox.environments.view import prepare
from nri_flox.flox.accounts import User
from nri_flox.flox.environment import PodRecord
from nri_flox.flox.store import Store

_CLOSE_TIMEOUT = 5.0  # seconds for workers to end

# What a pod will need, given its record; asked once its tokens are known.
Foresight = Callable[[PodRecord], Iterable[Request]]


class Supply:
    """The catalogue and the workers that fill it. No method but `close` waits for anything."""

    def __init__(self, config: Config, reporter: Reporter, on_error: Callable[[str, Exception], None]) -> None:
        """`environments.state_dir` must belong to this process. Raises OSError when directories can't be had."""
        self.catalogue = Catalogue()
        prepare(config.nix.view_dir)
        store = Store(config.nix.store_dir)
        layout = Layout(store, config.nix.state_dir, config.nix.view_dir)
        self._credentials = Credentials(config.environments.state_dir, config.token.kubelet_root, config.token.file)
        self.layers = Layers(
            os.path.join(config.environments.state_dir, "mutable"),
            layout,
            config.flox.executable,
            config.activation.mutable_max_size,
            config.environments.min_free,
            self.catalogue,
            on_error,
        )
        self._accounts_dir = os.path.join(config.environments.state_dir, "accounts")
        self._pods = Lane("pods", 1, on_error)
        self._looking: set[str] = set()
        self._realiser = Realiser(
            self.catalogue,
            [_source(source, config, store) for source in config.environments.source],
            layout,
            reporter,
            width=config.environments.max_parallel_pulls,
            on_error=on_error,
        )
        # Most containers run as root, or on a runtime that doesn't say as whom: these are there before they are needed.
        for user in (None, User(0, 0, ())):
            self.prepare_accounts(user)

    def ask(self, request: Request) -> None:
        """Have an environment realised; the catalogue tells when it is."""
        self._realiser.ask(request)

    def look_at(self, sandbox_id: str, pod_uid: str, foresee: Foresight = lambda _record: ()) -> None:
        """Have the tokens of a pod read, then what it will need by them realised."""
        if sandbox_id not in self._looking:
            self._looking.add(sandbox_id)
            self._pods.put(lambda: self._look_at(sandbox_id, pod_uid, foresee))

    def _look_at(self, sandbox_id: str, pod_uid: str, foresee: Foresight) -> None:
        # Before the volumes are read, so that who asks from now on gets a look that comes after.
        self._looking.discard(sandbox_id)
        self.catalogue.publish_tokens(sandbox_id, self._credentials.read(pod_uid))
        record = self.catalogue.pod(sandbox_id)
        if record is not None:
            for request in foresee(record):
                self._realiser.ask(request)

    def prepare_accounts(self, user: User | None) -> None:
        """Have the account files written for containers that run as `user`."""
        self._pods.put(lambda: self.catalogue.publish_accounts(user, accounts.write(self._accounts_dir, user)))

    def close(self) -> None:
        """End the workers; a pull under way is stopped."""
        self._realiser.close(_CLOSE_TIMEOUT)
        self._pods.close(_CLOSE_TIMEOUT)
        self.layers.close(_CLOSE_TIMEOUT)


def _source(source: Source, config: Config, store: Store) -> EnvironmentSource:
    if source is Source.DIRECTORY:
        return DirectorySource(config.environments.directory, store)
    metrics_off = {"FLOX_DISABLE_METRICS": "1"} if config.telemetry.disable_metrics else {}
    return FloxHubSource(
        config.environments.state_dir,
        store,
        Cli(
            executable=config.flox.executable,
            user=config.flox.user or None,
            environment=dict(config.flox.environment) | metrics_off,
            timeout=config.environments.pull_timeout,
        ),
    )


class StateDir:
    """The service's own directory, which belongs to one process at a time."""

    def __init__(self, path: str) -> None:
        """Raises StateDirInUse, or OSError when it can't be had."""
        import fcntl

        os.makedirs(path, mode=0o711, exist_ok=True)
        # The user that runs the Flox CLI passes through to directories of its own. Nobody else's business is listed.
        os.chmod(path, 0o711)  # noqa: S103
        self.path = path
        self._lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StateDirInUse(f"{path} is in use by another nri-flox service") from None

    def release(self) -> None:
        os.close(self._lock)


class StateDirInUse(OSError):
    """Another service has the state directory."""
