"""The keys, by section: what can be set, its default, what it means. Users rely on their names."""

import re
from dataclasses import dataclass
from enum import StrEnum

from nri_flox.config import kinds
from nri_flox.config.kinds import Address, Kind, MisfitError, key
from nri_flox.flox.reference import Reference


class Source(StrEnum):
    """Where rendered environments come from."""

    FLOXHUB = "floxhub"
    DIRECTORY = "directory"


class OnPullError(StrEnum):
    """What pull policy `Always` does when FloxHub is out of reach and a generation is on the node."""

    USE_CACHED = "use-cached"
    FAIL = "fail"


class Verdict(StrEnum):
    """What becomes of a pod that no policy rule is for."""

    ALLOW = "allow"
    DENY = "deny"


class LogLevel(StrEnum):
    """The least level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """One JSON object a line, or lines for people."""

    JSON = "json"
    CONSOLE = "console"


def _owner_name_pattern(text: str) -> str:
    if not re.fullmatch(r"\*|[A-Za-z0-9._*?-]+/[A-Za-z0-9._*?-]+", text):
        raise ValueError
    return text


def _cli_environment(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ValueError
    for name, text in value.items():
        if re.search("TOKEN|SECRET|PASSWORD", name, re.IGNORECASE):
            raise MisfitError(
                f".{name}",
                "no secret belongs into the config, where every pod of the node would use it; "
                "pods bring their FloxHub token along as a secret volume",
            )
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise MisfitError(f".{name}", "must be the name of an environment variable")
        if not isinstance(text, str) or "\0" in text:
            raise MisfitError(f".{name}", "must be a string")
    return tuple(value.items())


_REFERENCES = kinds.listing(
    'a list of environments such as "owner/name" or "owner/name:2"',
    Reference.parse,
)
_OWNER_NAME_PATTERNS = kinds.listing('a list of patterns such as "acme/*"', _owner_name_pattern)
_CLI_ENVIRONMENT = Kind("a table of strings", _cli_environment, shown=False)


# What is open says so where it is described.
_NOT_YET = "Not yet: this version does nothing with it."
_NO_EVICTION = "Not yet: nothing leaves the node."


@dataclass(frozen=True, slots=True)
class Nri:
    """The connection to the container runtime."""

    socket_path: str = key(kinds.SOCKET_PATH, "/var/run/nri/nri.sock", "The runtime's NRI socket.")
    plugin_name: str = key(kinds.NAME, "flox", "The name under which the plugin registers.")
    plugin_index: str = key(
        kinds.TWO_DIGITS,
        "50",
        "Its place among the plugins of the node: those with lower digits are asked first.",
    )


@dataclass(frozen=True, slots=True)
class Runtime:
    """Which pods and containers are the plugin's business."""

    handlers: tuple[str, ...] = key(kinds.PATTERNS, ["flox"], "Runtime handlers whose pods must name an environment.")
    require_handler: bool = key(
        kinds.SWITCH, False, "Refuse a pod that names an environment under any other runtime handler."
    )
    skip_containers: tuple[str, ...] = key(
        kinds.PATTERNS,
        ["istio-proxy", "istio-init", "istio-validation", "linkerd-proxy", "linkerd-init", "debugger-*"],
        "Containers left alone in every pod, unless `flox.dev/environment.<container>` asks for one. "
        "`*` and `?` match as in file names.",
    )


@dataclass(frozen=True, slots=True)
class Environments:
    """Where environments come from, how long a container may wait for one, and when one leaves the node."""

    source: tuple[Source, ...] = key(
        kinds.choice_list(Source),
        "floxhub",
        "`floxhub`: through the Flox CLI. `directory`: rendered environments that lie on the node already. "
        "A list tries one after the other.",
    )
    directory: str = key(
        kinds.PATH,
        "/etc/nri-flox/environments",
        "For `directory`: `<owner>/<name>/live` and `<owner>/<name>/<N>`, links to rendered environments; "
        "`live-dev` and `<N>-dev` for dev mode where it differs.",
    )
    state_dir: str = key(kinds.PATH, "/var/lib/nri-flox", "What the service remembers between restarts.")
    wait_budget: float = key(
        kinds.DURATION,
        "1s",
        "Longest time a CreateContainer may wait for an environment, or for the check that it is the latest; "
        "never more than half of the runtime's request timeout. `0s`: answers come at once.",
    )
    wait_share: float = key(
        kinds.SHARE,
        0.1,
        "Most of any 10 s that all such waits together may take, since the runtime serves no other pod "
        "meanwhile; past it, answers come at once.",
    )
    fresh_for: float = key(
        kinds.DURATION, "10s", "A check that began this recently also serves a pod that comes later."
    )
    pull_timeout: float = key(kinds.SOME_DURATION, "10m", "A pull that takes longer has failed.")
    max_parallel_pulls: int = key(
        kinds.COUNT, 2, "Pulls at the same time. Not yet: shared fairly between namespaces; the first to ask is first."
    )
    prefetch: bool = key(kinds.SWITCH, True, "Start pulling when the pod's sandbox is created.")
    preload: tuple[Reference, ...] = key(
        _REFERENCES, [], f"Environments that are pulled at start and never evicted. {_NOT_YET}"
    )
    on_pull_error: OnPullError = key(
        kinds.choice(OnPullError),
        "use-cached",
        "What pull policy `Always` does when FloxHub can't be reached and a generation is on the node.",
    )
    keep_unused: float = key(
        kinds.DURATION, "72h", f"How long an environment stays that no container uses. {_NO_EVICTION}"
    )
    gc_above: float = key(
        kinds.SHARE,
        0.85,
        "Share in use of the store's file system, of bytes or inodes, above which unused environments go, "
        f"oldest first. {_NO_EVICTION} `nri-flox check` warns.",
    )
    gc_until: float = key(kinds.SHARE, 0.75, f"Share in use at which that stops. {_NO_EVICTION}")
    min_free: float = key(
        kinds.SHARE,
        0.05,
        "Share free below which nothing is pulled, and no container gets a writable `/nix`. Not yet: pulls; "
        "so far only writable `/nix`, by what is free below `state_dir`.",
    )
    max_size: int = key(kinds.SIZE, "20GiB", f"An environment with a larger closure is refused. {_NOT_YET}")
    pull_memory_max: int = key(kinds.SIZE, "2GiB", f"Memory for each pull, where cgroups can limit it. {_NOT_YET}")


@dataclass(frozen=True, slots=True)
class Flox:
    """The Flox CLI."""

    executable: str = key(kinds.EXECUTABLE, "flox", "Its name on the service's PATH, or its absolute path.")
    user: str = key(kinds.USER, "", "The user that runs it; empty: the service's own.")
    environment: tuple[tuple[str, str], ...] = key(
        _CLI_ENVIRONMENT,
        {},
        "More environment variables for it (proxies, a FloxHub of one's own). A token in here is an error.",
        quiet=True,
    )


@dataclass(frozen=True, slots=True)
class Nix:
    """Where the Nix store lies on this node; containers see it at `/nix/store` wherever that is."""

    store_dir: str = key(kinds.PATH, "/nix/store", "The store.")
    state_dir: str = key(kinds.PATH, "/nix/var/nix", "Nix's own state: its database and GC roots.")
    view_dir: str = key(
        kinds.PATH,
        "/nix/var/nri-flox",
        "What containers mount; must be on the same file system as the store.",
    )


@dataclass(frozen=True, slots=True)
class Token:
    """FloxHub tokens, which pods bring along as a secret volume."""

    mount_path: str = key(kinds.PATH, "/var/run/secrets/flox.dev", "Where a container mounts the secret.")
    file: str = key(kinds.FILE_NAME, "floxhub-token", "The file in it that holds the token.")
    kubelet_root: str = key(kinds.PATH, "/var/lib/kubelet", "Where the kubelet keeps the volumes of pods.")
    proof_lifetime: float = key(
        kinds.DURATION,
        "24h",
        "How long a token that has opened an environment counts for new pods while FloxHub can't be reached.",
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """What the pods of some namespaces may ask for; a rule forbids only what it says."""

    namespaces: tuple[str, ...] = key(kinds.SOME_PATTERNS, ["*"], "The namespaces it is for, as patterns.")
    allow: tuple[str, ...] = key(
        _OWNER_NAME_PATTERNS, ["*"], "The environments they may have, as patterns of `owner/name`."
    )
    pinned_only: bool = key(kinds.SWITCH, False, "Only with a generation, as in `owner/name:2`.")
    nix_mutable: bool = key(kinds.SWITCH, True, "Whether they may ask for a writable `/nix`.")


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may have what on this node. The first rule whose namespaces match decides."""

    default: Verdict = key(kinds.choice(Verdict), "allow", "What pods may have that no rule is for.")
    rule: tuple[Rule, ...] = key(
        kinds.tables("a list of tables, each written [[policy.rule]]", Rule),
        [],
        "`[[policy.rule]]` tables: the keys are below.",
    )


@dataclass(frozen=True, slots=True)
class Activation:
    """How containers get their environment."""

    scaffold_images: tuple[str, ...] = key(
        kinds.PATTERNS,
        ["flox/empty"],
        "Images that hold nothing and get `/tmp`, `/etc/passwd` and the like; any registry, tag or digest.",
    )
    mutable_max_size: int = key(kinds.SIZE, "10GiB", "How much a container with a writable `/nix` may write to it.")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is told to others."""

    disable_metrics: bool = key(
        kinds.SWITCH,
        False,
        "No Flox metrics for any pod. `FLOX_DISABLE_METRICS` in the service's environment does the same.",
    )
    sentry_dsn: str = key(
        kinds.SECRET,
        "",
        f"Where crashes are reported; empty: nowhere. {_NOT_YET}",
        quiet=True,
    )


@dataclass(frozen=True, slots=True)
class Log:
    """The service's log, on stderr."""

    level: LogLevel = key(kinds.choice(LogLevel), "info", "The least level that is logged.")
    format: LogFormat = key(kinds.choice(LogFormat), "json", "`json`, or `console` for people.")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Prometheus metrics."""

    listen: Address | None = key(kinds.ADDRESS, "", f"Serve them over HTTP at this address. {_NOT_YET}")
    textfile: str | None = key(kinds.OPTIONAL_PATH, "", f"Write them to this file, for node_exporter. {_NOT_YET}")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Durations are seconds, sizes bytes, shares numbers from 0 to 1."""

    nri: Nri = Nri()
    runtime: Runtime = Runtime()
    environments: Environments = Environments()
    flox: Flox = Flox()
    nix: Nix = Nix()
    token: Token = Token()
    policy: Policy = Policy()
    activation: Activation = Activation()
    telemetry: Telemetry = Telemetry()
    log: Log = Log()
    metrics: Metrics = Metrics()
