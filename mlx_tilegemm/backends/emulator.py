"""Run kernels in the emulator: the same text, on a CPU, evaluated at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx

from ..errors import BackendError
from ..plan import Extent, Source
from .base import Executable, StreamOrDevice


class EmulatorBackend:
    """The project's own executor, for machines without an Apple GPU."""

    name = "emulator"

    def compile(self, source: Source) -> Executable:
        """Return the emulated kernel of ``source``."""
        return _kernel(source)


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
            "an export: the emulator evaluates at once. Call the op outside the traced function, "
            'or inside `with use_backend("mlx"):`.'
        ) from error
