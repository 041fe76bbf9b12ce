"""Store paths as they are written, and where they lie."""

import pytest

from nri_flox.flox.store import Store, StorePath

HASH = "0123456789abcdfghijklmnpqrsvwxyz"


@pytest.mark.parametrize("rest", ["a", "hello-2.12.1", "environment-run", "x" * 211, "a.b_c+d?e=f"])
def test_a_store_path_is_written_as_it_was_read(rest: str) -> None:
    text = f"/nix/store/{HASH}-{rest}"
    assert str(StorePath.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/nix/store",
        "/nix/store/",
        f"{HASH}-hello",
        f"/nix/store/{HASH}",
        f"/nix/store/{HASH}-",
        f"/nix/store/{HASH}-hello/bin",
        f"/nix/store/{HASH}-hello/",
        f"/nix/store//{HASH}-hello",
        f"/nix/store/./{HASH}-hello",
        f"/nix/store/../store/{HASH}-hello",
        f"/nix/var/{HASH}-hello",
        f"//nix/store/{HASH}-hello",
        f"/nix/store/{HASH[:-1]}-hello",
        f"/nix/store/{HASH[:-1]}e-hello",
        f"/nix/store/{HASH.upper()}-hello",
        f"/nix/store/{HASH}-{'x' * 212}",
        f"/nix/store/{HASH}-hello\n",
        f"/nix/store/{HASH}-hel lo",
        f"/nix/store/{HASH}-hel\0lo",
        f"/nix/store/{HASH}-hellö",
        " " + f"/nix/store/{HASH}-hello",
    ],
)
def test_what_is_no_direct_child_of_the_store_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a store path"):
        StorePath.parse(text)


def test_a_store_kept_elsewhere_locates_its_paths_there() -> None:
    path = StorePath.parse(f"/nix/store/{HASH}-hello")
    assert Store("/tmp/demo/store").locate(path) == f"/tmp/demo/store/{HASH}-hello"
    assert Store().locate(path) == str(path)
