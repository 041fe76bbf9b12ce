"""The committed code of every .proto file is what `proto/generate` makes of it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_generated_code_is_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools, which generates the code, is not installed")
    subprocess.run([sys.executable, ROOT / "proto" / "generate", tmp_path], check=True)
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    committed = {
        path.relative_to(ROOT): path.read_text() for path in ROOT.glob("nri_flox/**/*_pb2.py*") if path.suffix != ".pyc"
    }
    assert sorted(generated) == sorted(committed), "files without a .proto, or never generated: run `make proto`"
    stale = [str(path) for path in generated if generated[path] != committed[path]]
    assert stale == [], "run `make proto`"
