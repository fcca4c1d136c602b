"""Make a plan ready to run: everything about its launch that does not change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from ..arguments import Number
from ..dtypes import INT32
from ..plan import Extent, Plan, Stage
from ..problem import Shape
from .base import Backend, Executable, StreamOrDevice

Run = Callable[[Sequence[mx.array], tuple[Number, ...], StreamOrDevice], list[mx.array]]
"""A prepared call: operands, factors and stream in, outputs out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StageRun:
    """A ready kernel and everything about its launch that one key of arguments fixes.

    ``inputs`` says where each input comes from: an index into operands and earlier outputs.
    """

    kernel: Executable
    output_shapes: list[Shape]
    output_dtypes: list[mx.Dtype]
    grid: Extent
    threadgroup: Extent
    inputs: tuple[int, ...]
    takes_factors: bool
    sizes: mx.array

    def __call__(
        self, arrays: Sequence[mx.array], factors: mx.array | None, stream: StreamOrDevice
    ) -> list[mx.array]:
        inputs = [arrays[index] for index in self.inputs]
        if self.takes_factors:
            assert factors is not None
            inputs.append(factors)
        inputs.append(self.sizes)
        return self.kernel(
            inputs=inputs,
            output_shapes=self.output_shapes,
            output_dtypes=self.output_dtypes,
            grid=self.grid,
            threadgroup=self.threadgroup,
            stream=stream,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanRun:
    """The ready stages of a plan."""

    stages: tuple[_StageRun, ...]
    factors: tuple[int, ...]
    factor_dtype: mx.Dtype
    last_is_scalar: bool

    def __call__(
        self,
        operands: Sequence[mx.array],
        factors: tuple[Number, ...],
        stream: StreamOrDevice,
    ) -> list[mx.array]:
        arrays = [*operands]
        if self.last_is_scalar:
            # MLX binds an array without axes as a reference, which the kernels do not expect.
            arrays[-1] = arrays[-1].reshape(1)
        values = None
        if self.factors:
            values = _factor_array(tuple([factors[i] for i in self.factors]), self.factor_dtype)
        outputs: list[mx.array] = []
        for stage in self.stages:
            outputs = stage(arrays, values, stream)
            arrays += outputs
        return outputs


# Where each factor a kernel may want stands among those its op passes.
_FACTOR_POSITIONS = {"alpha": 0, "beta": 1, "scale": 0}


@lru_cache(maxsize=256)
def _factor_array(values: tuple[Number, ...], dtype: mx.Dtype) -> mx.array:
    return mx.array(values, dtype=dtype)


def kernel_run(plan: Plan, backend: Backend, *, last_is_scalar: bool) -> Run:
    """Make a plan ready to run.

    Args:
        plan: The plan of a GEMM, or of an attention.
        backend: Where its kernels are compiled.
        last_is_scalar: Whether the last operand is an array without axes.
    """
    names = operand_names(plan)
    stages = []
    for stage in plan.stages:
        stages.append(_stage_run(stage, names, backend))
        names += stage.spec.output_names
    is_integer = INT32 in plan.stages[-1].launch.output_dtypes
    return _PlanRun(
        stages=tuple(stages),
        factors=tuple(_FACTOR_POSITIONS[name] for name in plan.factors),
        factor_dtype=mx.int32 if is_integer else mx.float32,
        last_is_scalar=last_is_scalar,
    )


def operand_names(plan: Plan) -> tuple[str, ...]:
    """Return the names of the arrays a plan takes from its op, in the op's order."""
    produced = {name for stage in plan.stages for name in stage.spec.output_names}
    names = [name for stage in plan.stages for name in stage.spec.input_names]
    own = {"factors", "sizes"} | produced
    return tuple(dict.fromkeys(name for name in names if name not in own))


def _stage_run(stage: Stage, names: tuple[str, ...], backend: Backend) -> _StageRun:
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ..render import render

    arrays = [name for name in stage.spec.input_names if name not in ("factors", "sizes")]
    launch = stage.launch
    return _StageRun(
        kernel=backend.compile(render(stage.spec)),
        output_shapes=list(launch.output_shapes),
        output_dtypes=[dtype.mlx for dtype in launch.output_dtypes],
        grid=launch.grid,
        threadgroup=launch.threadgroup,
        inputs=tuple(names.index(name) for name in arrays),
        takes_factors="factors" in stage.spec.input_names,
        sizes=mx.array(launch.sizes, dtype=mx.int32),
    )
