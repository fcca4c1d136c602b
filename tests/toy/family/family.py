"""The family, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...core.arguments import ArraySpec
from ...core.family import Data, Family, Op, Spelling
from ...core.kernel import load_kernels
from ...core.problem import Factors
from ...core.spelling import spelled
from . import kernels, ops
from .problem import RowScale

if TYPE_CHECKING:
    from ...core.family import Run
    from ...core.reference import Expected

Arrays = Sequence[mx.array]


def _request(op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> RowScale:
    return ops.request(arrays["d"], arrays["x"])


def _reference(problem: RowScale, operands: Arrays, factors: Factors) -> tuple[Expected, ...]:
    from ...core.reference import Expected, rounding, to_numpy

    d, x = (to_numpy(one) for one in operands)
    y = d[:, None] * x
    # A float32 product is rounded once, and once more to the result's type.
    bound = rounding(y, problem.x) + 2.0**-24 * abs(y)
    return Expected(value=y, bound=bound), Expected(value=(y < 0).sum(axis=1), bound=0.0)


def _draw(problem: RowScale, data: Data) -> list[mx.array]:
    from ...core.reference import draw_operands

    d, x = draw_operands(problem, data)
    x[:, 0] = 0  # neither negative nor positive
    return [d, x]


def _by_mlx(operands: Arrays, factors: Factors, stream: StreamOrDevice) -> list[mx.array]:
    d, x = operands
    wide = d.astype(mx.float32)[:, None] * x.astype(mx.float32)
    return [wide.astype(x.dtype), mx.sum(wide < 0, axis=1).astype(mx.int32)]


def _fallback(problem: RowScale) -> Run:
    return _by_mlx


@dataclass(frozen=True, slots=True)
class Rule:
    """Transforms of a call: the gradient of the scaled rows, which the counts do not have."""

    problem: RowScale

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        """Return the gradients of ``d`` and ``x``."""
        (d, x), grad = operands, cotangents[0]
        return [mx.sum(grad * x, axis=1).astype(d.dtype), (d[:, None] * grad).astype(x.dtype)]

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return the tangents of both results."""
        (d, x), (dd, dx) = operands, tangents
        terms = [] if dd is None else [dd[:, None] * x]
        terms += [] if dx is None else [d[:, None] * dx]
        return [sum(terms[1:], terms[0]).astype(x.dtype), mx.zeros(d.shape, mx.int32)]

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return more rows, cut up again."""
        count = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
        pairs = zip(operands, axes, strict=True)
        d, x = (
            mx.broadcast_to(x, (count, *x.shape)) if axis is None else mx.moveaxis(x, axis, 0)
            for x, axis in pairs
        )
        y, counted = ops.row_scale(d.reshape(-1), x.reshape(-1, x.shape[-1]), stream=stream)
        return [y.reshape(x.shape), counted.reshape(d.shape)]


def _rule(problem: RowScale, backend: Backend | None) -> Rule:
    return Rule(problem)


def _parse(text: str) -> RowScale:
    found = spelled("--row-scale", "RxC:f32,f16", text)
    if len(found.sizes) != 2:
        raise found.wrong()
    d, x = found.mlx_dtypes(2)
    rows, columns = found.sizes
    return ops.request(ArraySpec(shape=(rows,), dtype=d), ArraySpec(shape=(rows, columns), dtype=x))


FAMILY: Family[RowScale] = Family(
    name="toy",
    problems={"scaled rows": RowScale},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.row_scale, arrays=("d", "x"), request=_request),),
    reference=_reference,
    draw=_draw,
    fallback=_fallback,
    rule=_rule,
    spelling=Spelling(option="--row-scale", form="RxC:dtypes", help="512x100:f16", parse=_parse),
)
