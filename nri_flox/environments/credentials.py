"""The tokens that a pod lends, read from its volumes, and the keyed hash that stands for each.

The hash names directories and proofs, so it must be the same after a restart and worthless to whoever sees it without
the key; the key lies in the state directory and never leaves it.
"""

from __future__ import annotations

import os

from nri_flox.flox.token import Lent, NoToken, Token, Tokens, Unusable, origin, read_token, volumes
from nri_flox.flox.wording import clean

_KEY_SIZE = 32  # bytes


class Credentials:
    def __init__(self, state_dir: str, kubelet_root: str, file: str) -> None:
        """`state_dir` must exist and belong to this service alone; the key is made in it when it has none."""
        self._key = _key(os.path.join(state_dir, "credentials.key"))
        self._kubelet_root = kubelet_root
        self._file = file

    def read(self, pod_uid: str) -> Tokens:
        """What the pod's secret and projected volumes hold, by volume name. Touches the disk, never blocks."""
        return {name: self._lent(name, path) for name, path in volumes(self._kubelet_root, pod_uid).items()}

    def _lent(self, volume: str, path: str) -> Lent | Unusable | None:
        where = origin(volume, self._file)
        try:
            token = read_token(path, self._file)
        except FileNotFoundError:
            return None
        except NoToken as error:
            return Unusable(where, str(error))
        except OSError as error:
            return Unusable(where, clean(error.strerror or "it can't be read"))
        return Lent(self._hash(token), token, where)

    def _hash(self, token: Token) -> str:
        import hashlib  # It loads OpenSSL, which a node without tokens has no use for.

        return hashlib.blake2b(token.reveal().encode(), key=self._key, digest_size=20).hexdigest()


def _key(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            key = file.read()
        if len(key) == _KEY_SIZE:
            return key
    except FileNotFoundError:
        pass
    # A key of the wrong size was cut short by a crash; what it named is pulled anew.
    key = os.urandom(_KEY_SIZE)
    fresh = path + ".new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    return key
