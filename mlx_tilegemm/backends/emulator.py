"""Run kernels in the emulator: the same text, on a CPU, evaluated at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import mlx.core as mx

from ..core.plan import Extent, Source
from ..errors import BackendError
from .base import Backend, Capabilities, Executable, StreamOrDevice

ORDERS = ("forward", "reverse", "random")
"""Orders in which threads take turns between barriers."""


class EmulatorBackend(Backend):
    """The project's own executor, for machines without an Apple GPU."""

    name = "emulator"
    capabilities = Capabilities(
        lazy=False,
        checks_launches=True,
        rivals_mlx=False,
        has_clock=False,
        compiles=True,
        parallel=True,
    )

    def compile(self, source: Source) -> Executable:
        """Return the emulated kernel of ``source``."""
        return _kernel(source)

    def runs(self, count: int) -> Iterator[tuple[str, AbstractContextManager[object]]]:
        """Yield orders of the threads, every second one with misaligned buffers."""
        from ..emulator import settings

        for number in range(count):
            order, misalign = ORDERS[number % len(ORDERS)], number % 2 == 1
            detail = f"{order} order{', misaligned buffers' if misalign else ''}"
            yield (
                f"run {number + 1} ({detail})",
                settings(order=order, seed=number, misalign=misalign),
            )

    def device_name(self) -> str:
        """Return nothing: it is whatever CPU runs the process."""
        return ""

    def compiler_name(self, asked: str) -> str:
        """Return the compiler of checked kernels, its version, and the checks it leaves out."""
        from ..emulator import Settings, unchecked
        from ..emulator.build import find_tracker
        from ..emulator.toolchain import find_compiler

        found = find_tracker(asked).compiler or find_compiler(asked)
        name = " ".join((Path(found.command[0]).name, *found.command[1:]))
        left_out = "; ".join(unchecked(Settings(compiler=asked)))
        checks = f"without {left_out}" if left_out else "all checks on"
        return f"{name} ({found.family} {found.version}), {checks}"

    def unchecked(self) -> tuple[str, ...]:
        """Return the checks of a launch that cannot run here, each with the reason."""
        from ..emulator import current_settings, unchecked

        return unchecked(replace(current_settings(), language=True))


@lru_cache(maxsize=512)
def _kernel(source: Source) -> Executable:
    # Imported here because the emulator's imports are most of what `import mlx_tilegemm` may cost.
    from ..emulator import metal_kernel, settings

    kernel = metal_kernel(
        name=source.name,
        input_names=list(source.input_names),
        output_names=list(source.output_names),
        source=source.body,
        header=source.header,
    )

    def execute(
        *,
        inputs: Sequence[mx.array],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Extent,
        threadgroup: Extent,
        stream: StreamOrDevice = None,
    ) -> list[mx.array]:
        _evaluate(inputs)
        # The strict checks hold all of the project's own texts to more than this.
        with settings(language=False):
            return kernel(
                inputs=list(inputs),
                output_shapes=output_shapes,
                output_dtypes=output_dtypes,
                grid=grid,
                threadgroup=threadgroup,
            )

    return execute


def _evaluate(inputs: Sequence[mx.array]) -> None:
    try:
        mx.eval(*inputs)
    except ValueError as error:
        # MLX has no way to ask whether an array is being traced; this is what it says when it is.
        if "function transformations" not in str(error):
            raise
        raise BackendError(
            "[emulator] Expected arrays with values, got arrays traced by mx.compile, mx.vmap or "
            "an export: the emulator evaluates at once. Map it by `mlx_tilegemm.vmap`, or call the "
            'op outside the traced function, or inside `with use_backend("mlx"):`.'
        ) from error
