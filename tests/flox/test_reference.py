"""How a pod may name an environment."""

import pytest

from nri_flox.flox.reference import Reference


@pytest.mark.parametrize(
    ("text", "owner", "name", "generation"),
    [
        ("acme/tools", "acme", "tools", None),
        ("acme/tools:1", "acme", "tools", 1),
        ("acme/tools:2048", "acme", "tools", 2048),
        ("a/b", "a", "b", None),
        ("0wner/Na.me_with-all", "0wner", "Na.me_with-all", None),
        (f"{'o' * 64}/{'n' * 64}", "o" * 64, "n" * 64, None),
    ],
)
def test_reference_is_read_and_written_alike(text: str, owner: str, name: str, generation: int | None) -> None:
    reference = Reference.parse(text)
    assert reference == Reference(owner, name, generation)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tools",
        "acme/",
        "/tools",
        "acme/tools/extra",
        "acme//tools",
        "acme/tools:",
        "acme/tools:0",
        "acme/tools:01",
        "acme/tools:-1",
        "acme/tools:1.0",
        "acme/tools:live",
        "acme/tools:1:2",
        "acme/tools:" + "9" * 5000,
        " acme/tools",
        "acme/tools ",
        "acme/tools\n",
        "acme/to ols",
        "../etc/passwd",
        "acme/..",
        ".acme/tools",
        "-acme/tools",
        "_acme/tools",
        "acme/-tools",
        "acme/tools:٣",
        "äcme/tools",
        f"{'o' * 65}/tools",
        f"acme/{'n' * 65}",
        "acme/tools\0",
    ],
)
def test_anything_else_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match="owner/name"):
        Reference.parse(text)
