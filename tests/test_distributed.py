"""Sharded layers and models, on this machine alone and as two of a ring."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.layers.routing import original_of

LAYERS = {nn.AllToShardedLinear: "addmm", nn.ShardedToAllLinear: "matmul"}
QUANTIZED = [nn.QuantizedAllToShardedLinear, nn.QuantizedShardedToAllLinear]
X = mx.random.normal((5, 64), key=mx.random.key(3))
SPEC = tg.ArraySpec(shape=(5, 64), dtype=mx.float32)


class Two:
    """Stands for a group of two machines, as far as shapes go."""

    def size(self):
        return 2

    def rank(self):
        return 0


def served(model, **options):
    with tg.use_kernel("any"), tg.use_backend("emulator"):
        return tg.audit(model, SPEC, **options).rows


class TestLayers:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("kind", LAYERS)
    def test_compute_the_same_by_this_library(self, kind, bias, kernels):
        layer = kind(64, 32, bias=bias)
        expected = layer(X)
        (one,) = tg.patch(layer).replaced
        assert (one.layer, one.op) == (kind.__name__, LAYERS[kind] if bias else "matmul")
        assert isinstance(layer, kind)
        assert mx.allclose(layer(X), expected, rtol=1e-6, atol=1e-6)
        (row,) = served(layer)
        assert row.ours
        tg.unpatch(layer)
        assert type(layer) is kind

    @pytest.mark.parametrize("kind", LAYERS)
    def test_all_of_them_are_routed_in_a_block(self, kind):
        layer = kind(64, 32)
        with tg.patched() as report:
            (row,) = served(layer)
        assert row.ours
        assert f"{kind.__module__}.{kind.__name__}.__call__" in [
            one.path for one in report.replaced
        ]
        (row,) = served(layer)
        assert not row.ours

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("kind", QUANTIZED)
    def test_quantized_ones_compute_the_same(self, kind, bias, kernels):
        layer = kind(64, 64, bias=bias)
        if bias:
            layer.bias = mx.random.normal((64,), key=mx.random.key(4))
        expected = layer(X)
        (one,) = tg.patch(layer).replaced
        assert (one.layer, one.op) == (kind.__name__, "quantized_matmul")
        assert mx.allclose(layer(X), expected, rtol=1e-6, atol=1e-6)
        (row,) = served(layer)
        assert row.ours
        tg.unpatch(layer)
        (row,) = served(layer)
        assert (row.primitive, row.ours) == ("QuantizedMatmul", False)

    def test_layers_made_by_sharding_are_routed_once_they_are_there(self):
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        model.layers[0] = nn.layers.distributed.shard_linear(model.layers[0], "all-to-sharded")
        assert [one.layer for one in tg.patch(model).replaced] == ["AllToShardedLinear", "Linear"]


class Talkative(nn.Module):
    """Says everything there is to say to the other machine."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.sharded = nn.AllToShardedLinear(64, 64)
        self.sharded.group = Two()

    def __call__(self, x):
        group, talk = Two(), mx.distributed
        x = talk.send(self.sharded(x), 1, group=group)
        x = talk.recv_like(x, 1, group=group) + talk.recv(x.shape, x.dtype, 1, group=group) + x
        x = talk.all_gather(x, group=group)
        assert x.shape == (10, 64)
        x = talk.sum_scatter(x, group=group)
        assert x.shape == (5, 64)
        assert talk.all_gather(mx.array(1.0), group=group).shape == (2,)
        return self.layer(talk.all_sum(talk.all_max(talk.all_min(x, group=group), group)))


class TestAudit:
    def test_waits_for_nobody(self):
        before = dict(vars(mx.distributed))
        rows = served(Talkative())
        assert [row.path for row in rows] == ["sharded", "layer"]
        assert vars(mx.distributed) == before

    def test_leaves_no_hook_behind(self):
        served(nn.AllToShardedLinear(64, 64))
        for module in list(sys.modules.values()):
            value = getattr(module, "__dict__", {}).get("sum_gradients")
            assert original_of(value) is value


def free_ports():
    """Return the first of two ports in a row that nobody listens on."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def launch(script, folder):
    """Run a script on two machines of a ring, both of them this one; return what it says."""
    command = [
        *(str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring"),
        *("-p", str(free_ports()), sys.executable, str(script), str(folder)),
    ]
    path = os.pathsep.join([str(Path(tg.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    # An input that ends keeps the launcher busy.
    reader, writer = os.pipe()
    running = subprocess.Popen(
        command,
        stdin=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        # The script ends by itself before that.
        return running.communicate(timeout=300)[0]
    finally:
        for one in (reader, writer):
            os.close(one)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")
    folder = tmp_path_factory.mktemp("ring")
    said = launch(Path(__file__).with_name("sharded_llama.py"), folder)
    paths = [folder / f"{rank}.json" for rank in range(2)]
    assert all(path.exists() for path in paths), said
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
class TestRing:
    def test_every_sharded_layer_is_routed(self, found):
        assert [one["size"] for one in found] == [2, 2]
        for one in found:
            kinds = [(layer, op) for _, layer, op in one["replaced"]]
            assert kinds.count(("AllToShardedLinear", "addmm")) == 10
            assert kinds.count(("ShardedToAllLinear", "matmul")) == 4
            assert kinds.count(("Attention", "attention_chain")) == 2
            assert not [layer for layer, _ in one["left_alone"] if "Linear" in layer]

    def test_logits_are_those_of_the_whole_model(self, found):
        # 16 layers' roundings of float32, against the largest logit.
        assert all(one["error"] < 16 * 2**-23 for one in found)

    def test_quantized_logits_are_those_of_the_whole_model(self, found):
        for one in found:
            assert one["quantized"] == 14 + 1  # the sharded ones and lm_head
            assert one["quantized_error"] < 16 * 2**-23

    def test_gradients_are_those_of_the_whole_model(self, found):
        for one in found:
            assert len(one["gradients"]) == 6
            assert max(one["gradients"].values()) < 64 * 2**-23

    def test_the_account_is_of_one_machines_share(self, found):
        for one in found:
            assert one["served"] == 1.0
            rows = {path: work for path, _, _, work in one["rows"]}
            assert len(rows) == 17
            for path, _, _, work in one["whole"]:
                shares = 1 if path == "lm_head" else 2
                assert rows[path] * shares == work or path.endswith("self_attn")
