"""The running service: one handler for the runtime's requests, and what is built from the config for it to use.

A request is answered from memory on the thread that reads it; whatever has to be fetched goes to workers, and the
request may wait for them a little. Bookkeeping and logging come after the answer.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nri_flox import __version__
from nri_flox.adjust.decide import Question, decide, foreseen
from nri_flox.adjust.decision import (
    Accounts,
    Adjust,
    Decision,
    Fetch,
    NotReady,
    PodTokens,
    Refused,
    Skipped,
    Untouched,
    WritableLayer,
)
from nri_flox.adjust.encode import UNCHANGED, answer
from nri_flox.adjust.mutable import layer_of
from nri_flox.adjust.scaffold import needs_accounts, user_of
from nri_flox.config import Config, ConfigError, Log, LogLevel, load
from nri_flox.environments.supply import StateDir, Supply
from nri_flox.environments.view import remove, unfinished
from nri_flox.flox.annotations import names_environment
from nri_flox.flox.annotations import unknown as unknown_annotations
from nri_flox.flox.environment import Failure, Layer, PodRecord, Want
from nri_flox.flox.wording import clean
from nri_flox.nri.capabilities import Capabilities
from nri_flox.nri.nri_pb2 import Container, FailurePolicy, PodSandbox
from nri_flox.nri.plugin import Plugin, RuntimeInfo, launch_from
from nri_flox.service import logs, notify
from nri_flox.service.waiting import WaitShare
from nri_flox.ttrpc.driver import Call
from nri_flox.ttrpc.status import Code, StatusError

# What the config describes and this version does not do yet; who sets it is told.
_WITHOUT_EFFECT = {
    "environments": ("preload", "keep_unused", "gc_above", "gc_until", "max_size", "pull_memory_max"),
    "telemetry": ("sentry_dsn",),
    "metrics": ("listen", "textfile"),
}

# What is left of a request's time for the answer itself, once waiting ends.
_MARGIN = 0.02  # seconds

# A worker in the middle of Python code keeps the interpreter for this long at most before a request gets it.
_SWITCH_INTERVAL = 0.0005  # seconds

# Until it has configured the plugin, a runtime is taken for the oldest.
_UNKNOWN = Capabilities.of("", "")


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a request works with: replaced whole when the config changes."""

    config: Config
    state: StateDir
    supply: Supply
    waits: WaitShare
    budget: float  # seconds that one request may wait
    tells_all: bool  # whether containers that are none of our business are logged


class Service:
    """The NRI plugin's handler (`nri_flox.nri.plugin.Handler`), and the reporter of its workers."""

    def __init__(self, config_path: str | None, *, debug: bool = False, launched: bool = False) -> None:
        """With `debug` everything is logged, whatever the config says.

        A service that the runtime has `launched` learns only at Configure which directories are its own. Raises
        ConfigError, StateDirInUse, or OSError when a directory can't be had.
        """
        self._config_path = config_path
        self._drop_in = ""
        self._runtime: RuntimeInfo | None = None
        self._synchronized: set[str] = set()  # pods and containers of a synchronisation that is under way
        # One change of the setting at a time; requests only read it.
        self._changing = threading.Lock()
        config = _configured(config_path)
        self.nri = config.nri
        self._debug = debug
        self._outlet = logs.start(self._logging(config))
        self._log = logs.get_logger()
        self._settled = None if launched else self._made(config, None)

    @property
    def _setting(self) -> _Setting:
        # A runtime asks for nothing before Configure.
        assert self._settled is not None
        return self._settled

    # The life of the connection.

    def configure(self, runtime: RuntimeInfo, config: str) -> None:
        self._runtime = runtime
        self._synchronized = set()
        if self._settled is None or config != self._drop_in:
            try:
                self._change(config)
            except (ConfigError, OSError) as error:
                raise StatusError(Code.INVALID_ARGUMENT, str(error)) from None
        else:
            with self._changing:
                self._settled = replace(self._settled, budget=self._budget(self._settled.config))
        self._log.info(
            "configured",
            runtime=str(runtime.capabilities),
            request_timeout=runtime.request_timeout,
            wait_budget=self._setting.budget,
        )

    def registered(self) -> None:
        self._log.info("registered")

    def synchronize(self, pods: Iterable[PodSandbox], containers: Iterable[Container], more: bool) -> None:
        supply = self._setting.supply
        for pod in pods:
            self._synchronized.add(pod.id)
            self._meet(pod)
        for container in containers:
            self._synchronized.add(container.id)
            if layer := layer_of(container):
                supply.catalogue.use_layer(layer, container.id, container.pod_sandbox_id)
        if not more:
            running, self._synchronized = self._synchronized, set()
            supply.catalogue.drop_pods_but(running)
            supply.catalogue.leave_layers(lambda container, _sandbox: container not in running)
            supply.layers.sweep()
            self._log.info("synchronized")
            notify.status("connected to the runtime")

    def disconnected(self, reason: str) -> None:
        self._log.warning("disconnected", reason=reason)
        notify.status(f"not connected to the runtime: {reason}")

    def shutdown(self, reason: str) -> None:
        self._log.info("runtime_shutdown", reason=reason)

    # Pods and containers.

    def run_pod_sandbox(self, pod: PodSandbox) -> None:
        if unknown := unknown_annotations(pod.annotations):
            self._log.warning("unknown_annotation", annotations=[clean(name, 100) for name in unknown], **_of(pod))
        self._meet(pod)

    def remove_pod_sandbox(self, pod: PodSandbox) -> None:
        supply = self._setting.supply
        supply.catalogue.drop_pod(pod.id)
        self._remove_layers(supply.catalogue.leave_layers(lambda _container, sandbox: sandbox == pod.id))

    def remove_container(self, pod: PodSandbox, container: Container) -> None:
        catalogue = self._setting.supply.catalogue
        self._remove_layers(catalogue.leave_layers(lambda one, _sandbox: one == container.id))

    def _remove_layers(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            self._setting.supply.layers.remove(layer)

    def create_container(self, pod: PodSandbox, container: Container, call: Call) -> bytes:
        setting, question = self._setting, Question(pod, container, time.monotonic())
        decision = self._decide(question, setting, call)
        if isinstance(decision, Untouched) and not setting.tells_all:
            return UNCHANGED  # most containers of most nodes: nothing to remember, nothing to say
        seconds = time.monotonic() - question.arrived
        call.after(lambda: self._after(question, decision, setting, seconds))
        match decision:
            case Adjust():
                if decision.layer is not None:
                    setting.supply.catalogue.use_layer(decision.layer, container.id, pod.id)
                return answer(decision)
            case NotReady() | Refused():
                raise StatusError(Code.FAILED_PRECONDITION, decision.text)
        return UNCHANGED

    def _meet(self, pod: PodSandbox) -> None:
        """Remember a pod that names an environment, and begin with what it will need."""
        if not names_environment(pod.annotations):
            return
        setting = self._setting
        config, supply = setting.config, setting.supply
        supply.catalogue.add_pod(pod.id, PodRecord(pod.uid, time.monotonic()))
        if config.environments.prefetch:
            supply.look_at(pod.id, pod.uid, lambda record: foreseen(pod, record, config))
        else:
            supply.look_at(pod.id, pod.uid)

    def _decide(self, question: Question, setting: _Setting, call: Call) -> Decision:
        """The decision, after waiting for what it needs as far as there is time."""
        catalogue, pod = setting.supply.catalogue, question.pod
        news, now = catalogue.news, question.arrived
        runtime = _UNKNOWN if self._runtime is None else self._runtime.capabilities
        decision = decide(question, catalogue, setting.config, runtime, now)
        if not isinstance(decision, NotReady) or decision.need is None:
            return decision
        until = now + min(setting.budget, setting.waits.left(now))
        if call.deadline is not None:
            until = min(until, call.deadline - _MARGIN)
        while isinstance(decision, NotReady) and decision.need is not None:
            match decision.need:
                case PodTokens():
                    catalogue.add_pod(pod.id, PodRecord(pod.uid, question.arrived))
                    setting.supply.look_at(pod.id, pod.uid)
                case Accounts(user):
                    setting.supply.prepare_accounts(user)
                case WritableLayer(environment):
                    setting.supply.layers.ask(environment)
                case Fetch():
                    setting.supply.ask(decision.need)
            now = time.monotonic()
            if now >= until or not catalogue.changed(news, until - now):
                break
            news, now = catalogue.news, time.monotonic()
            decision = decide(question, catalogue, setting.config, runtime, now)
        setting.waits.used(question.arrived, time.monotonic())
        return decision

    def _after(self, question: Question, decision: Decision, setting: _Setting, seconds: float) -> None:
        """What follows an answer, once it is on its way."""
        pod, catalogue = question.pod, setting.supply.catalogue
        match decision:
            case Adjust(want=want, environment=environment):
                catalogue.keep(pod.id, want, environment)
            case NotReady() | Refused() if catalogue.pod(pod.id) is not None:
                # Perhaps over a token that has been replaced since it was read: the next try is to see the new one.
                setting.supply.look_at(pod.id, pod.uid)
                user = user_of(question.container)
                if needs_accounts(question.container, setting.config) and catalogue.accounts(user) is None:
                    # Nor should it fail over what takes no time, because others have used up the time for waiting.
                    setting.supply.prepare_accounts(user)
        about = {**_of(pod), "container": question.container.name, "ms": round(seconds * 1000, 2)}
        self._outlet.later(lambda: self._tell(decision, about))

    def _tell(self, decision: Decision, about: Mapping[str, object]) -> None:
        match decision:
            case Adjust(want=want, environment=environment):
                resolved, path = str(want.reference), str(environment.store_path)
                self._log.info("container", decision="adjusted", environment=resolved, store_path=path, **about)
            case NotReady():
                self._log.warning("container", decision="not_ready", text=decision.text, **about)
            case Refused():
                self._log.warning("container", decision="refused", text=decision.text, **about)
            case Skipped():
                self._log.info("container", decision="skipped", reason=decision.reason.value, **about)
            case _:
                self._log.debug("container", decision="untouched", **about)

    # What workers report.

    def attempt_began(self, want: Want) -> None:
        self._log.info("fetch_began", environment=str(want.reference), mode=want.mode)

    def attempt_ended(self, want: Want, seconds: float, failure: Failure | None) -> None:
        about = {"environment": str(want.reference), "mode": want.mode, "seconds": round(seconds, 3)}
        if failure is None:
            self._log.info("fetch_ended", **about)
        else:
            self._log.warning("fetch_failed", fault=failure.fault.name.lower(), detail=failure.detail, **about)

    def failed(self, where: str, error: Exception) -> None:
        """Something that should not happen did; the request or the worker has gone on."""
        self._log.error("internal_error", where=where, exc_info=error)

    # Config.

    def reload(self) -> None:
        """Use the config as it is now, whole; or keep the old one whole and say why."""
        try:
            self._change(self._drop_in)
        except (ConfigError, OSError) as error:
            self._log.error("reload_failed", error=str(error))
        else:
            self._log.info("reloaded")
            if self._setting.config.nri != self.nri:
                self._log.warning("settings_need_restart", keys=["nri"])

    def _change(self, drop_in: str) -> None:
        with self._changing:
            old = self._settled
            config = _configured(self._config_path, drop_in)
            if old is not None and _supplied_by(config) == _supplied_by(old.config):
                self._settled = self._setting_of(config, old.state, old.supply)
            else:
                self._settled = new = self._made(config, old)
                if old is not None:
                    new.supply.catalogue.adopt(old.supply.catalogue)
                    threading.Thread(target=_retire, args=(old, new.state is not old.state), daemon=True).start()
            self._drop_in = drop_in
            self._outlet.apply(self._logging(config))

    def _made(self, config: Config, old: _Setting | None) -> _Setting:
        """What `config` makes; a state directory that `old` has already is shared with it."""
        if old is not None and old.state.path == config.environments.state_dir:
            state, shared = old.state, True
        else:
            state, shared = StateDir(config.environments.state_dir), False
        try:
            supply = Supply(config, self, self.failed)
            if old is None:
                left = unfinished(config.nix.view_dir)
                threading.Thread(target=self._sweep, args=(left,), daemon=True).start()
        except BaseException:
            if not shared:
                state.release()
            raise
        if keys := _without_effect(config):
            self._log.warning("settings_without_effect", keys=keys)
        return self._setting_of(config, state, supply)

    def _sweep(self, paths: Iterable[str]) -> None:
        """Remove what an earlier process left half built; it can be hundreds of thousands of files."""
        for path in paths:
            try:
                remove(path)
            except OSError as error:
                self.failed("sweep", error)

    def _setting_of(self, config: Config, state: StateDir, supply: Supply) -> _Setting:
        return _Setting(
            config=config,
            state=state,
            supply=supply,
            waits=WaitShare(config.environments.wait_share),
            budget=self._budget(config),
            tells_all=self._logging(config).level is LogLevel.DEBUG,
        )

    def _budget(self, config: Config) -> float:
        budget = config.environments.wait_budget
        # Past half of the request's time too little would be left to other plugins.
        return budget if self._runtime is None else min(budget, self._runtime.request_timeout / 2 - _MARGIN)

    def _logging(self, config: Config) -> Log:
        return replace(config.log, level=LogLevel.DEBUG) if self._debug else config.log

    def close(self) -> None:
        if self._settled is not None:
            _retire(self._settled, release=True)


def _configured(path: str | None, drop_in: str | None = None) -> Config:
    """The config, with what the service's own env says of metrics. Raises ConfigError."""
    config = load(path, drop_in)
    if os.environ.get("FLOX_DISABLE_METRICS", "").lower() in ("", "0", "false"):
        return config
    return replace(config, telemetry=replace(config.telemetry, disable_metrics=True))


def _without_effect(config: Config) -> list[str]:
    """Keys that are set and that this version does nothing with."""
    return [
        f"{section}.{key}"
        for section, keys in _WITHOUT_EFFECT.items()
        for key in keys
        if getattr(getattr(config, section), key) != getattr(getattr(Config(), section), key)
    ]


def _supplied_by(config: Config) -> tuple[object, ...]:
    """The parts of the config that a Supply is made from."""
    return (
        config.environments,
        config.flox,
        config.nix,
        config.token,
        config.telemetry,
        config.activation.mutable_max_size,
    )


def _of(pod: PodSandbox) -> dict[str, str]:
    return {"pod": pod.name, "namespace": pod.namespace}


def _retire(setting: _Setting, release: bool) -> None:
    setting.supply.close()
    if release:
        setting.state.release()


def run(config_path: str | None, debug: bool) -> int:
    """Serve the runtime until a signal ends the service, or the runtime that launched it goes. The exit status.

    Raises ConfigError, or OSError when what the config names can't be had.
    """
    # No memory of this process, which holds tokens, may end up in a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setswitchinterval(_SWITCH_INTERVAL)
    launch = launch_from(os.environ)
    service = Service(config_path, debug=debug, launched=launch is not None)
    nri = service.nri
    plugin = Plugin(
        service,
        name=launch.name if launch else nri.plugin_name,
        index=launch.index if launch else nri.plugin_index,
        socket_path=nri.socket_path,
        connection=launch.connection if launch else None,
        on_error=service.failed,
        # Where the runtime can: rather no container for now than one without its environment.
        failure_policy=FailurePolicy(fail_request=True),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: plugin.stop())
    # Reading a file has no place on the thread that serves requests, which is the one that signals interrupt.
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=service.reload, daemon=True).start())
    log = logs.get_logger()
    log.info("started", version=__version__, config=config_path or "defaults")
    notify.ready("not connected to the runtime yet")
    # What lives now lives as long as the service: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    ending = plugin.run()
    notify.stopping()
    log.info("stopped", reason=ending.value)
    service.close()
    return 0
