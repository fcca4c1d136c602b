"""Make a plan ready to run: everything about its launch that does not change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from ..arguments import Number
from ..dtypes import INT32
from ..plan import Extent, Plan
from ..problem import Shape
from .base import Backend, Executable, StreamOrDevice

Run = Callable[[Sequence[mx.array], tuple[Number, ...], StreamOrDevice], list[mx.array]]
"""A prepared call: operands, factors and stream in, outputs out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _KernelRun:
    """A ready kernel and everything about its launch that one key of arguments fixes."""

    kernel: Executable
    output_shapes: list[Shape]
    output_dtypes: list[mx.Dtype]
    grid: Extent
    threadgroup: Extent
    sizes: mx.array
    factors: tuple[int, ...]
    factor_dtype: mx.Dtype
    last_is_scalar: bool

    def __call__(
        self,
        operands: Sequence[mx.array],
        factors: tuple[Number, ...],
        stream: StreamOrDevice,
    ) -> list[mx.array]:
        inputs = [*operands]
        if self.last_is_scalar:
            # MLX binds an array without axes as a reference, which the kernels do not expect.
            inputs[-1] = inputs[-1].reshape(1)
        if self.factors:
            values = tuple([factors[index] for index in self.factors])
            inputs.append(_factor_array(values, self.factor_dtype))
        inputs.append(self.sizes)
        return self.kernel(
            inputs=inputs,
            output_shapes=self.output_shapes,
            output_dtypes=self.output_dtypes,
            grid=self.grid,
            threadgroup=self.threadgroup,
            stream=stream,
        )


# Where each factor a kernel may want stands among those its op passes.
_FACTOR_POSITIONS = {"alpha": 0, "beta": 1, "scale": 0}


@lru_cache(maxsize=256)
def _factor_array(values: tuple[Number, ...], dtype: mx.Dtype) -> mx.array:
    return mx.array(values, dtype=dtype)


def kernel_run(plan: Plan, backend: Backend, *, last_is_scalar: bool) -> Run:
    """Make a plan ready to run.

    Args:
        plan: The plan of a GEMM, or of an attention.
        backend: Where its kernel is compiled.
        last_is_scalar: Whether the last operand is an array without axes.
    """
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ..render import render

    is_integer = INT32 in plan.launch.output_dtypes
    return _KernelRun(
        kernel=backend.compile(render(plan.spec)),
        output_shapes=list(plan.launch.output_shapes),
        output_dtypes=[dtype.mlx for dtype in plan.launch.output_dtypes],
        grid=plan.launch.grid,
        threadgroup=plan.launch.threadgroup,
        sizes=mx.array(plan.launch.sizes, dtype=mx.int32),
        factors=tuple(_FACTOR_POSITIONS[name] for name in plan.factors),
        factor_dtype=mx.int32 if is_integer else mx.float32,
        last_is_scalar=last_is_scalar,
    )
