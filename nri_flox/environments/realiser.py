"""The realiser turns a wanted environment into one that containers can mount, and publishes it in the catalogue.

It is asked by requests, which it never keeps waiting, and works in lanes of its own: one attempt at a time for each
Want, whoever asks for it meanwhile. An attempt asks the sources in turn for the rendered environment, takes its
closure, lays out its view, reads it and plans its activation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from nri_flox.environments.catalogue import Catalogue
from nri_flox.environments.closure import NoClosure, closure
from nri_flox.environments.lane import Lane
from nri_flox.environments.scripts import place
from nri_flox.environments.source import REFUSALS, Found, Missing, Source, ends_all, fault_of
from nri_flox.environments.view import ViewError, lay_out
from nri_flox.flox.activation import plan
from nri_flox.flox.environment import NOTHING, Environment, Failure, Fault, Standing, Want
from nri_flox.flox.programs import programs
from nri_flox.flox.reference import Mode
from nri_flox.flox.rendered import Rendered, RenderedError, read
from nri_flox.flox.scripts import NoScripts, scripts
from nri_flox.flox.store import Store
from nri_flox.flox.token import Lent
from nri_flox.flox.wording import clean


class Request(Protocol):
    """What a decision says has to be fetched (`nri_flox.adjust.decision.Fetch`)."""

    @property
    def want(self) -> Want: ...
    @property
    def lent(self) -> Lent | None: ...
    @property
    def not_before(self) -> float: ...
    @property
    def local(self) -> bool: ...
    @property
    def metrics(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """Where Nix's things lie on this node, and where views go: `nix.store_dir`, `nix.state_dir`, `nix.view_dir`."""

    store: Store
    state_dir: str
    view_dir: str


@dataclass(slots=True)
class _Attempt:
    request: Request
    began: float | None = None
    again: Request | None = None  # asked for by a pod that came too late for this one


# Threads that look at what lies on this node and lay out its views.
_LOOKS = 2


class Reporter(Protocol):
    """Hears of attempts, for logs and metrics."""

    def attempt_began(self, want: Want) -> None: ...
    def attempt_ended(self, want: Want, seconds: float, failure: Failure | None) -> None: ...


class Realiser:
    def __init__(
        self,
        catalogue: Catalogue,
        sources: Sequence[Source],
        layout: Layout,
        reporter: Reporter,
        *,
        width: int,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._catalogue = catalogue
        self._sources = sources
        self._layout = layout
        self._reporter = reporter
        # What this node knows by itself must not wait for pulls, which can take minutes and hang.
        self._looks = Lane("look", _LOOKS, on_error)
        self._pulls = Lane("pull", width, on_error)
        # Held to look at and change `_attempts`, never while anything is worked on.
        self._lock = threading.Lock()
        self._attempts: dict[Want, _Attempt] = {}

    def ask(self, request: Request) -> None:
        """See to it that what `request` wants is realised. Returns at once; the catalogue tells when it is done."""
        with self._lock:
            attempt = self._attempts.get(request.want)
            if attempt is None:
                self._begin(request)
            elif attempt.began is None:
                attempt.request = _stricter(attempt.request, request)
            elif attempt.began < request.not_before or (attempt.request.local and not request.local):
                attempt.again = request if attempt.again is None else _stricter(attempt.again, request)

    def close(self, timeout: float) -> None:
        for source in self._sources:
            source.stop()
        self._looks.close(timeout)
        self._pulls.close(timeout)

    def _begin(self, request: Request) -> None:
        attempt = self._attempts[request.want] = _Attempt(request)
        since = time.monotonic()
        self._catalogue.publish(request.want, lambda standing: replace(standing, since=since))
        self._looks.put(lambda: self._attempt(attempt, self._look_first))

    def _attempt(self, attempt: _Attempt, stage: Callable[[_Attempt], bool]) -> None:
        """One stage of an attempt, which says whether it was the last."""
        attempt.began = time.monotonic()
        last = True
        try:
            last = stage(attempt)
        except Exception as error:
            detail = f"internal error: {type(error).__name__}"
            self._publish_failure(attempt.request.want, Failure(Fault.BROKEN, detail, "", time.monotonic()))
            raise
        finally:
            if last:
                self._end(attempt)

    def _end(self, attempt: _Attempt) -> None:
        want = attempt.request.want
        with self._lock:
            del self._attempts[want]
            if attempt.again is not None:
                self._begin(attempt.again)
            else:
                self._catalogue.publish(want, lambda standing: replace(standing, since=None))

    def _look_first(self, attempt: _Attempt) -> bool:
        request = attempt.request
        want = request.want
        if request.local or self._sources[0].is_local or self._catalogue.standing(want).looked == NOTHING.looked:
            self._look(request)
        with self._lock:
            request = attempt.request
            if request.local or self._catalogue.standing(want).checked >= request.not_before:
                return True
            attempt.began = None  # queued once more: what is asked for meanwhile joins it
        self._pulls.put(lambda: self._attempt(attempt, self._fetch_then))
        return False

    def _fetch_then(self, attempt: _Attempt) -> bool:
        with self._lock:
            request = attempt.request
        want = request.want
        if self._catalogue.standing(want).checked >= request.not_before:
            return True
        began = time.monotonic()
        self._reporter.attempt_began(want)
        failure: Failure | None = None
        try:
            found, source = self._fetch(request)
            environment = self._environment(want, found, source)
        except _Failed as failed:
            failure = failed.failure
            self._publish_failure(want, failure)
        else:
            self._publish_found(want, found, environment)
        self._reporter.attempt_ended(want, time.monotonic() - began, failure)
        return True

    def _look(self, request: Request) -> None:
        want, here = request.want, self._on_this_node(request)
        looked = time.monotonic()

        def seen(standing: Standing) -> Standing:
            if here is None or here[0].checked < standing.checked:
                return replace(standing, looked=looked)
            found, environment = here
            return replace(standing, looked=looked, environment=environment, checked=found.checked, failure=None)

        self._catalogue.publish(want, seen)

    def _on_this_node(self, request: Request) -> tuple[Found, Environment] | None:
        want = request.want
        for source in self._sources:
            # What lies here and is of no use is passed over: fetching it anew will say why, or mend it.
            with suppress(Missing, _Failed):
                if found := source.look(want.reference, want.mode, request.lent):
                    return found, self._environment(want, found, source)
            if not (source.is_local or request.local):
                return None  # It may have more than lies here, and goes before those that come after it.
        return None

    def _publish_found(self, want: Want, found: Found, environment: Environment) -> None:
        self._catalogue.publish(
            want,
            lambda standing: replace(standing, environment=environment, checked=found.checked, failure=None),
        )

    def _publish_failure(self, want: Want, failure: Failure) -> None:
        if failure.fault in REFUSALS:
            self._catalogue.refuse(want, everywhere=ends_all(failure.fault, want.reference))
        self._catalogue.publish(want, lambda standing: replace(standing, failure=failure))

    def _fetch(self, request: Request) -> tuple[Found, Source]:
        want = request.want
        for source in self._sources:
            try:
                return source.fetch(want.reference, want.mode, request.lent, metrics=request.metrics), source
            except Missing as missing:
                fault, place = missing.fault, source.place
                detail = clean(str(missing))
                if fault is not Fault.NOT_FOUND:
                    break
        raise _Failed(Failure(fault, detail, place, time.monotonic()))

    def _environment(self, want: Want, found: Found, source: Source) -> Environment:
        """Raises _Failed."""
        layout, path = self._layout, found.store_path
        reference = want.reference.at(found.generation)
        try:
            members = closure(layout.store, layout.state_dir, path, listed=source.closure_listed)
            view = lay_out(layout.view_dir, layout.store, path, members)
            known = self._catalogue.standing(want).environment
            if known is not None and (known.store_path, known.reference) == (path, reference):
                return known
            rendered = read(layout.store, path, members)
            return Environment(
                reference,
                want.mode,
                path,
                view,
                plan(rendered, want.mode, reference.environment),
                _scripts(layout, rendered, want.mode, reference.environment),
                programs(layout.store, path, members),
            )
        except (NoClosure, ViewError, RenderedError) as error:
            fault, detail = Fault.BROKEN, str(error)
        except OSError as error:
            fault, detail = fault_of(error), str(error)
        raise _Failed(Failure(fault, clean(detail), source.place, time.monotonic()))


def _scripts(layout: Layout, rendered: Rendered, mode: Mode, description: str) -> str | NoScripts:
    made = scripts(rendered, mode, description)
    return made if isinstance(made, NoScripts) else place(layout.view_dir, rendered.path, made)


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def _stricter(one: Request, other: Request) -> Request:
    """Of two requests for the same Want, the one whose fulfilment serves both, without metrics if either asks so."""
    if one.local != other.local:
        return other if one.local else one
    return other if one.metrics and not other.metrics else one
