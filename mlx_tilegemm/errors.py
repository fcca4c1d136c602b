"""Every exception the library raises on purpose.

::

    TileGemmError
    ├── ProblemError (ValueError)            shapes, sizes, options that do not fit together
    ├── DTypeError (TypeError, ValueError)   dtypes or argument kinds that an op does not take
    ├── IllegalKernelError (ValueError)      a kernel was forced that may not serve the problem
    ├── BackendError (RuntimeError)          the chosen backend cannot run here
    └── EmulatorError (RuntimeError)         raised by the emulator
        ├── KernelCompileError               the text does not compile, or uses an unknown construct
        ├── KernelCheckError                 the kernel ran and broke a rule; carries the findings
        ├── KernelTimeoutError               the kernel did not end within the time limit
        ├── KernelCrashError                 emulated code crashed
        └── ToolchainError                   no usable C++ compiler, or its output cannot be stored

Messages follow MLX: ``[op] Expected ..., got ...``.
"""

from __future__ import annotations


class TileGemmError(Exception):
    """Root of everything this library raises on purpose."""


class ProblemError(TileGemmError, ValueError):
    """Shapes, sizes or options that do not fit together."""


class DTypeError(TileGemmError, TypeError, ValueError):
    """Dtypes or argument kinds that an op does not take.

    MLX raises TypeError for kinds of arguments and ValueError for dtypes; this is both.
    """


class IllegalKernelError(TileGemmError, ValueError):
    """A kernel was forced that may not serve the problem."""


class BackendError(TileGemmError, RuntimeError):
    """The chosen backend cannot run here."""


class EmulatorError(TileGemmError, RuntimeError):
    """Root of what the emulator raises."""


class KernelCompileError(EmulatorError):
    """The kernel text does not compile, is not Metal, or uses what the emulator does not know.

    Attributes:
        findings: Where the text breaks a rule of Metal's language; empty for other reasons.
    """

    def __init__(self, message: str, findings: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


class KernelCheckError(EmulatorError):
    """The kernel ran and broke at least one rule.

    Attributes:
        findings: Every rule broken in the launch, in the order found.
    """

    def __init__(self, message: str, findings: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


class KernelTimeoutError(EmulatorError):
    """The kernel did not end within the time limit."""


class KernelCrashError(EmulatorError):
    """Emulated code crashed; the process survived."""


class ToolchainError(EmulatorError):
    """No usable C++ compiler, or its output cannot be stored."""
