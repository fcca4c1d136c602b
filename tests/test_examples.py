"""The examples run as a newcomer runs them, for fewer steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_train_mlp(kernels, capsys):
    difference = example("train_mlp").main(["--steps", "25"])
    assert difference < 1e-4
    assert "step   25  loss" in capsys.readouterr().out


@pytest.mark.slow
def test_train_mlp_learns(kernels, capsys):
    assert example("train_mlp").main([]) < 1e-4
    assert "100.0% of the points right" in capsys.readouterr().out


@pytest.mark.slow
def test_generate(kernels, capsys):
    pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")
    assert example("generate").main(["--length", "32"])
    out = capsys.readouterr().out
    assert "14 Linear -> matmul" in out
    assert "mlx_tilegemm: well begun is half done, and half done" in out
