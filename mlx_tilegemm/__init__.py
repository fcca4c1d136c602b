"""Mixed-dtype GEMM and chained attention for MLX, as Metal kernels that explain themselves."""

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors
from .backends import use_backend
from .core.arguments import ArraySpec
from .core.context import use_gradients, use_kernel, use_precision
from .ops import addmm, attention_chain, matmul, quantized_matmul

if TYPE_CHECKING:
    from . import cuda, emulator, formats, integrations, nn
    from .assurance.tuning import record
    from .call.explanation import explain
    from .layers.audit import Audit, audit
    from .layers.patching import PatchReport, patch, patched, unpatch

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
    "integrations",
    "matmul",
    "nn",
    "patch",
    "patched",
    "quantized_matmul",
    "record",
    "unpatch",
    "use_backend",
    "use_gradients",
    "use_kernel",
    "use_precision",
]


_SUBPACKAGES = ("cuda", "emulator", "formats", "integrations", "nn")
_MODULES = {
    "explain": ".call.explanation",
    **dict.fromkeys(("Audit", "audit"), ".layers.audit"),
    "record": ".assurance.tuning",
    **dict.fromkeys(("PatchReport", "patch", "patched", "unpatch"), ".layers.patching"),
}


def __getattr__(name: str) -> object:
    # NumPy, which the emulator needs, would be most of what importing this package costs; layers
    # and patching need mlx.nn, which those who call the ops may not; explaining needs the kernels.
    if name == "__version__":
        from .core.version import installed_version

        return installed_version()
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
