"""A plan's stages: which arrays each kernel takes, and which of the outputs are results."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_tilegemm.backends import Backend, backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core import render
from mlx_tilegemm.core.dtypes import FLOAT16, FLOAT32, INT32, DType
from mlx_tilegemm.core.operand import Operand
from mlx_tilegemm.core.plan import Launch, Plan, Resources, Sizes, Source, Stage
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.core.reference import Expected, hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Centred(Problem):
    """Rows less ``beta`` times their sums, the count of their negative elements, and the sums."""

    rows: int
    columns: int
    accumulator: DType = FLOAT32

    @property
    def operands(self):
        return (
            Operand(name="shift", shape=(), dtype=FLOAT32),
            Operand(name="x", shape=(self.rows, self.columns), dtype=FLOAT32),
        )

    @property
    def results(self):
        return (
            Operand(name="out", shape=(self.rows, self.columns), dtype=FLOAT16),
            Operand(name="counted", shape=(self.rows,), dtype=INT32),
            Operand(name="sums", shape=(self.rows,), dtype=FLOAT32),
        )

    @property
    def factors(self):
        return ("alpha", "beta")

    @property
    def accumulates(self):
        return self.accumulator

    def flops(self):
        return 3.0 * self.rows * self.columns


@dataclass(frozen=True)
class Spec:
    """Names alone; the backend below has no text to read."""

    label: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    size_names: tuple[str, ...] = ("rows", "columns")
    template: str = ""


def stage(problem, spec):
    outputs = {one.name: one for one in problem.results}
    launch = Launch(
        grid=(64, 1, 1),
        threadgroup=(32, 1, 1),
        sizes=Sizes.of(spec, {"rows": problem.rows, "columns": problem.columns}),
        output_shapes=tuple(outputs[name].shape for name in spec.output_names),
        output_dtypes=tuple(outputs[name].dtype for name in spec.output_names),
    )
    needs = Resources(threads=32, threadgroup_bytes=0, registers=20)
    return Stage(spec=spec, launch=launch, resources=needs)


SUMS = Spec("sums", ("x", "shift", "sizes"), ("sums", "counted"))
CENTRE = Spec("centre", ("sums", "x", "factors", "sizes"), ("out",))
WHOLE = Spec("whole", ("shift", "x", "factors", "sizes"), ("out", "counted", "sums"))
PROBLEM = Centred(rows=4, columns=6)
X = mx.random.normal((4, 6), key=mx.random.key(5))
SHIFT = mx.array(0.25)


def plan(*specs, problem=PROBLEM):
    stages = tuple(stage(problem, spec) for spec in specs)
    return Plan(kernel="centred", config=0, stages=stages, factors=("beta",))


PLANS = {
    "one kernel": plan(WHOLE),
    "operands in another order": plan(
        replace(WHOLE, input_names=("x", "shift", *WHOLE.input_names[2:]))
    ),
    "results in another order": plan(replace(WHOLE, output_names=("sums", "out", "counted"))),
    "two kernels": plan(SUMS, CENTRE),
}


class Python(Backend):
    """Kernels that are Python; keeps what each was called with."""

    name = "python"
    capabilities = replace(backend_named("emulator").capabilities, lazy=True)

    def __init__(self):
        self.calls = []

    def compile(self, source):
        def execute(*, inputs, output_shapes, output_dtypes, grid, threadgroup, stream=None):
            given = dict(zip(source.input_names, inputs, strict=True))
            self.calls.append((source.name, given, (grid, threadgroup, stream)))
            values = computed(given)
            return [
                values[name]().astype(dtype).reshape(shape)
                for name, shape, dtype in zip(
                    source.output_names, output_shapes, output_dtypes, strict=True
                )
            ]

        return execute


def computed(given):
    def sums():
        return given["sums"] if "sums" in given else given["x"].sum(axis=1) + given["shift"]

    return {
        "sums": sums,
        "counted": lambda: (given["x"] < 0).sum(axis=1),
        "out": lambda: given["x"] - given["factors"][0] * sums()[:, None],
    }


@pytest.fixture(autouse=True)
def no_text(monkeypatch):
    def named(spec):
        return Source(
            name=spec.label,
            header="",
            body="",
            input_names=spec.input_names,
            output_names=spec.output_names,
        )

    monkeypatch.setattr(render, "render", named)


def expected():
    x = np.array(X, np.float64)
    sums = x.sum(axis=1) + 0.25
    return (
        Expected(value=x - 0.5 * sums[:, None], bound=2e-3),
        Expected(value=(x < 0).sum(axis=1), bound=0.0),
        Expected(value=sums, bound=1e-6),
    )


@pytest.mark.parametrize("name", PLANS)
class TestResults:
    def test_they_come_in_the_problem_s_order_from_whichever_stage(self, name):
        outputs = kernel_run(PROBLEM, PLANS[name], Python())([SHIFT, X], (9.0, 0.5), None)
        assert [one.dtype for one in outputs] == [mx.float16, mx.int32, mx.float32]
        assert [one.shape for one in outputs] == [one.shape for one in PROBLEM.results]
        assert hold(PROBLEM, outputs, expected())[1] == []

    def test_each_kernel_takes_its_own(self, name):
        backend = Python()
        outputs = kernel_run(PROBLEM, PLANS[name], backend)([SHIFT, X], (9.0, 0.5), mx.cpu)
        assert [label for label, _, _ in backend.calls] == [
            one.spec.label for one in PLANS[name].stages
        ]
        for _, given, launch in backend.calls:
            assert given["x"] is X
            assert given["sizes"].tolist() == [4, 6]
            assert launch == ((64, 1, 1), (32, 1, 1), mx.cpu)
            if "shift" in given:
                assert given["shift"].shape == (1,), "MLX binds an array without axes otherwise"
        last = backend.calls[-1][1]
        assert last["factors"].tolist() == [0.5]
        assert last.get("sums", outputs[2]) is outputs[2]

    @pytest.mark.parametrize("dtype", [FLOAT32, INT32], ids=str)
    def test_factors_are_of_the_type_of_sums(self, name, dtype):
        backend, problem = Python(), replace(PROBLEM, accumulator=dtype)
        run = kernel_run(problem, PLANS[name], backend)
        for beta in (2, 3, 2):
            run([SHIFT, X], (9, beta), None)
        given = [values["factors"] for _, values, _ in backend.calls if "factors" in values]
        assert [one.tolist() for one in given] == [[2], [3], [2]]
        assert {one.dtype for one in given} == {dtype.mlx}


def test_an_integer_result_is_held_to_the_last_bit_beside_floats():
    outputs = kernel_run(PROBLEM, PLANS["two kernels"], Python())([SHIFT, X], (9.0, 0.5), None)
    counted = outputs[1] + (mx.arange(4) == 2)
    share, reasons = hold(PROBLEM, [outputs[0], counted, outputs[2]], expected())
    (reason,) = reasons
    assert reason.startswith("counted: 1 of 4 elements are out of bounds, first at (2,)")
    assert share == np.inf
    spoiled = outputs[2] + 1e-3 * (mx.arange(4) == 1)
    (reason,) = hold(PROBLEM, [outputs[0], outputs[1], spoiled], expected())[1]
    assert reason.startswith("sums: 1 of 4 elements are out of bounds, first at (1,)")
