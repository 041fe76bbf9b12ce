"""What an administrator may write, what it becomes, and what is said about a mistake."""

import re
from pathlib import Path

import pytest

from nri_flox.config import (
    DROP_IN,
    Address,
    Config,
    ConfigError,
    OnPullError,
    Rule,
    Source,
    Verdict,
    load,
)
from nri_flox.config.__main__ import example, tables
from nri_flox.flox.reference import Reference

TREE = Path(__file__).parent.parent


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return str(file)


def problem(text: str) -> str:
    """What `load` says about a drop-in, without the part that names the file."""
    with pytest.raises(ConfigError) as caught:
        load(None, text)
    origin, _, rest = str(caught.value).partition(": ")
    assert origin == DROP_IN
    return rest


@pytest.fixture(autouse=True)
def _no_config_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nri_flox.config.loading.DEFAULT_FILE", "/nonexistent/config.toml")


def test_the_example_in_the_tree_is_the_generated_one() -> None:
    assert (TREE / "config.toml.example").read_text() == example(), "run `make docs`"


def test_the_tables_in_the_docs_are_the_generated_ones() -> None:
    assert tables() in (TREE / "docs/configuration.md").read_text(), "run `make docs`"


def test_the_example_with_every_key_uncommented_gives_the_defaults(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=\w)", "", example(), flags=re.MULTILINE)
    assert text.count(" = ") > 40
    assert load(written(tmp_path, text)) == Config()


def test_without_a_file_the_defaults_hold() -> None:
    assert load(None) == Config()


def test_the_default_file_is_read_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nri_flox.config.loading.DEFAULT_FILE", written(tmp_path, '[log]\nlevel = "debug"'))
    assert load(None).log.level == "debug"


def test_a_named_file_that_is_missing_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere\.toml: there is no such file"):
        load("/nowhere.toml")


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[nri]\nsocket = 1")
    with pytest.raises(ConfigError, match=f"^{re.escape(path)}: nri.socket: "):
        load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "is not UTF-8 text"), (b"[nri\n", "is not valid TOML: .*line 1")],
)
def test_a_file_that_is_no_toml_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(str(file))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(str(tmp_path))


def test_the_drop_in_goes_before_the_file_key_by_key(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[nri]\nplugin_name = "file"\nplugin_index = "10"\n[[policy.rule]]\nallow = ["a/*"]\n'
        '[flox.environment]\nA = "file"\nB = "file"',
    )
    config = load(
        path,
        '[nri]\nplugin_index = "20"\n[[policy.rule]]\npinned_only = true\n[flox.environment]\nA = "drop-in"',
    )
    assert (config.nri.plugin_name, config.nri.plugin_index) == ("file", "20")
    assert config.policy.rule == (Rule(pinned_only=True),)
    assert config.flox.environment == (("A", "drop-in"),)


def test_an_empty_drop_in_changes_nothing(tmp_path: Path) -> None:
    assert load(written(tmp_path, '[nri]\nplugin_index = "10"'), "").nri.plugin_index == "10"


def test_a_config_can_be_a_key_and_cannot_be_changed() -> None:
    config = load(None, '[flox.environment]\nA = "b"')
    assert hash(config) != hash(Config())
    with pytest.raises(AttributeError):
        config.nri.plugin_name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("250ms", 0.25), ("2s", 2), ("10m", 600), ("72h", 259200), ("1m30s", 90), ("0.5s", 0.5)],
)
def test_durations_become_seconds(text: str, seconds: float) -> None:
    assert load(None, f'[environments]\nwait_budget = "{text}"').environments.wait_budget == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("2KiB", 2048), ("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("1TiB", 1 << 40)],
)
def test_sizes_become_bytes(text: str, size: int) -> None:
    assert load(None, f'[environments]\nmax_size = "{text}"').environments.max_size == size


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ('"directory"', (Source.DIRECTORY,)),
        ('["directory"]', (Source.DIRECTORY,)),
        ('["directory", "floxhub"]', (Source.DIRECTORY, Source.FLOXHUB)),
    ],
)
def test_a_source_is_one_or_a_list_in_its_order(text: str, sources: tuple[Source, ...]) -> None:
    assert load(None, f"[environments]\nsource = {text}").environments.source == sources


def test_environments_to_preload_become_references() -> None:
    config = load(None, '[environments]\npreload = ["acme/web", "acme/db:3"]')
    assert config.environments.preload == (Reference("acme", "web"), Reference("acme", "db", 3))


def test_choices_become_enums() -> None:
    config = load(None, '[environments]\non_pull_error = "fail"\n[policy]\ndefault = "deny"')
    assert config.environments.on_pull_error is OnPullError.FAIL
    assert config.policy.default is Verdict.DENY


def test_policy_rules_keep_their_order_and_forbid_only_what_they_say() -> None:
    config = load(
        None,
        '[[policy.rule]]\nnamespaces = ["prod"]\nallow = ["acme/*"]\n'
        "pinned_only = true\nnix_mutable = false\n"
        '[[policy.rule]]\nnamespaces = ["ci-*"]',
    )
    assert config.policy.rule == (
        Rule(("prod",), ("acme/*",), pinned_only=True, nix_mutable=False),
        Rule(("ci-*",), ("*",), pinned_only=False, nix_mutable=True),
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9777", Address("127.0.0.1", 9777)),
        ("[::1]:9777", Address("::1", 9777)),
        ("localhost:1", Address("localhost", 1)),
        ("", None),
    ],
)
def test_addresses_are_split(text: str, address: Address | None) -> None:
    assert load(None, f'[metrics]\nlisten = "{text}"').metrics.listen == address


def test_the_longest_path_of_a_socket_is_taken() -> None:
    path = "/" + "s" * 106
    assert load(None, f'[nri]\nsocket_path = "{path}"').nri.socket_path == path


def test_paths_are_normalised() -> None:
    assert load(None, '[nix]\nstore_dir = "//srv//nix/store/"').nix.store_dir == "/srv/nix/store"


def test_an_unknown_key_is_named_with_the_one_that_was_meant() -> None:
    assert (
        problem('[environments]\nwait_budgt = "1s"')
        == "environments.wait_budgt: there is no such key; did you mean wait_budget?"
    )


def test_an_unknown_section_is_named_with_the_one_that_was_meant() -> None:
    assert problem("[enviroments]") == "enviroments: there is no such section; did you mean environments?"


def test_an_unknown_key_far_from_all_others_lists_them() -> None:
    assert problem("[log]\nxyzzy = 1") == "log.xyzzy: there is no such key; there are level, format"


def test_a_key_outside_of_its_section_is_an_error() -> None:
    assert problem("nri = 3") == "nri: must be a section, written [nri]"


def test_a_key_of_a_policy_rule_is_named_with_the_number_of_the_rule() -> None:
    assert problem("[[policy.rule]]\n[[policy.rule]]\nalow = []") == (
        "policy.rule[2].alow: there is no such key; did you mean allow?"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("nri.plugin_index", "50", 'two digits in quotes, such as "50", not 50'),
        ("nri.plugin_index", '"5"', 'two digits in quotes, such as "50", not "5"'),
        ("nri.socket_path", '"nri.sock"', 'an absolute path of at most 107 bytes, not "nri.sock"'),
        ("nri.socket_path", "true", "an absolute path of at most 107 bytes, not true"),
        ("runtime.handlers", '"flox"', 'a list of names, not "flox"'),
        ("runtime.handlers", "[1]", "a list of names, not [1]"),
        ("runtime.require_handler", "1", "true or false, not 1"),
        ("environments.source", "[]", '"floxhub" or "directory", or a list of them, not []'),
        ("environments.source", '"hub"', '"floxhub" or "directory", or a list of them, not "hub"'),
        ("nri.socket_path", f'"/{"s" * 107}"', "an absolute path of at most 107 bytes, not"),
        ("nri.socket_path", f'"/{"é" * 54}"', "an absolute path of at most 107 bytes, not"),
        ("environments.wait_budget", "1", 'a duration such as "250ms"'),
        ("environments.wait_budget", '"1 s"', 'a duration such as "250ms"'),
        ("environments.wait_budget", '"-1s"', 'a duration such as "250ms"'),
        ("environments.pull_timeout", '"0s"', 'a duration above zero, such as "250ms"'),
        ("environments.wait_share", "1.1", "a number from 0 to 1, not 1.1"),
        ("environments.wait_share", "true", "a number from 0 to 1, not true"),
        ("environments.wait_share", "nan", "a number from 0 to 1, not nan"),
        ("environments.max_parallel_pulls", "0", "a whole number from 1 to 1000, not 0"),
        ("environments.max_parallel_pulls", "true", "a whole number from 1 to 1000, not true"),
        ("environments.max_size", '"20GB"', 'a size such as "512MiB" or "20GiB", not "20GB"'),
        ("environments.preload", '["a"]', 'a list of environments such as "owner/name"'),
        ("environments.on_pull_error", '"cry"', '"use-cached" or "fail", not "cry"'),
        ("flox.executable", '"bin/flox"', "the name of a program, or its absolute path"),
        ("token.file", '"../etc/shadow"', "the name of a file, without a directory"),
        ("token.file", '".."', "the name of a file, without a directory"),
        ("policy.rule", "[1]", "a list of tables, each written [[policy.rule]], not [1]"),
        ("log.level", '"loud"', '"debug" or "info" or "warning" or "error", not "loud"'),
        ("metrics.listen", '"127.0.0.1"', "an address such as"),
        ("metrics.listen", '"::1:80"', "an address such as"),
        ("metrics.listen", '"localhost:65536"', "an address such as"),
        ("metrics.textfile", '"metrics.prom"', 'an absolute path, or ""'),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_it_must_be(key: str, value: str, expected: str) -> None:
    section, _, name = key.partition(".")
    assert problem(f"[{section}]\n{name} = {value}").startswith(f"{key}: must be {expected}")


def test_a_long_value_is_cut_in_the_error() -> None:
    assert len(problem(f'[log]\nlevel = "{"x" * 5000}"')) < 200


@pytest.mark.parametrize("name", ["FLOX_FLOXHUB_TOKEN", "my_token", "CLIENT_SECRET", "DB_PASSWORD"])
def test_a_secret_among_the_clis_variables_is_an_error_that_does_not_repeat_it(name: str) -> None:
    said = problem(f'[flox.environment]\n{name} = "hunter2"')
    assert said.startswith(f"flox.environment.{name}: no secret belongs into the config")
    assert "hunter2" not in said


@pytest.mark.parametrize("text", ['[flox]\nenvironment = "A=hunter2"', "[flox.environment]\nA = ['hunter2']"])
def test_a_mistaken_table_of_variables_is_not_repeated(text: str) -> None:
    assert "hunter2" not in problem(text)


def test_variables_of_the_cli_are_left_out_when_a_config_is_printed() -> None:
    config = load(None, '[flox.environment]\nhttps_proxy = "http://user:hunter2@proxy"')
    assert dict(config.flox.environment) == {"https_proxy": "http://user:hunter2@proxy"}
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[environments]\ngc_until = 0.9", "gc_until (0.9) must be below environments.gc_above (0.85)"),
        ("[environments]\ngc_above = 0.97", "environments.min_free (0.05) must not add up to more than 1"),
        (
            '[nix]\nview_dir = "/nix/store/views"',
            "nix.view_dir (/nix/store/views) must not lie in nix.store_dir",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_named(text: str, said: str) -> None:
    assert said in problem(text)
