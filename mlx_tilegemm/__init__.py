"""Products, attention and gated delta nets for MLX: Metal kernels that explain themselves."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import cuda, emulator, errors, formats, integrations, nn
    from .assurance.tuning import record
    from .backends import use_backend
    from .call.batching import vmap
    from .call.explanation import explain
    from .core.arguments import ArraySpec
    from .core.context import use_gradients, use_kernel, use_precision
    from .layers.audit import Audit, audit
    from .layers.patching import PatchReport, patch, patched, unpatch
    from .ops import (
        addmm,
        attention_chain,
        fp8_scaled_matmul,
        gated_delta_update,
        gather_fp8_mm,
        gather_mm,
        gather_qmm,
        grouped_matmul,
        matmul,
        quantized_matmul,
        segmented_mm,
    )

    __version__: str

__all__ = [
    "ArraySpec",
    "Audit",
    "PatchReport",
    "addmm",
    "attention_chain",
    "audit",
    "cuda",
    "emulator",
    "errors",
    "explain",
    "formats",
    "fp8_scaled_matmul",
    "gated_delta_update",
    "gather_fp8_mm",
    "gather_mm",
    "gather_qmm",
    "grouped_matmul",
    "integrations",
    "matmul",
    "nn",
    "patch",
    "patched",
    "quantized_matmul",
    "record",
    "segmented_mm",
    "unpatch",
    "use_backend",
    "use_gradients",
    "use_kernel",
    "use_precision",
    "vmap",
]


_SUBMODULES = ("cuda", "emulator", "errors", "formats", "integrations", "nn")
_MODULES = {
    "ArraySpec": ".core.arguments",
    "explain": ".call.explanation",
    "record": ".assurance.tuning",
    "use_backend": ".backends",
    "vmap": ".call.batching",
    **dict.fromkeys(("Audit", "audit"), ".layers.audit"),
    **dict.fromkeys(("PatchReport", "patch", "patched", "unpatch"), ".layers.patching"),
    **dict.fromkeys(("use_gradients", "use_kernel", "use_precision"), ".core.context"),
    **dict.fromkeys(
        (
            "addmm",
            "attention_chain",
            "fp8_scaled_matmul",
            "gated_delta_update",
            "gather_mm",
            "gather_fp8_mm",
            "gather_qmm",
            "grouped_matmul",
            "matmul",
            "quantized_matmul",
            "segmented_mm",
        ),
        ".ops",
    ),
}


def __getattr__(name: str) -> object:
    # Names are imported when they are first asked for. NumPy, which the emulator needs, and mlx.nn
    # would be most of what importing this package costs, and an interrupt while MLX is imported
    # would come before the command can answer it.
    if name == "__version__":
        from .core.version import installed_version

        return installed_version()
    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
