"""The runtime library as Python sees it: its structures and functions."""

from __future__ import annotations

import ctypes
import sys
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import lru_cache
from pathlib import Path

MAX_BUFFERS = 64
DYNAMIC_PARAMETER = 0x80000000
NO_MEMORY = 0xFFFFFFFF
READ_ONLY = 1
INITIALIZED = 2
MAX_FINDINGS = 1024
OWNER_BUFFER, OWNER_STORAGE = 1, 2
# Origin of a value that no variable is behind.
INACTIVE_LANE = 2


class Parameter(Structure):
    """Mirrors ``msl_rt::Parameter``."""

    _fields_ = [
        ("flags", c_uint32),
        ("size", c_uint32),
        ("alignment", c_uint32),
        ("scalar_size", c_uint32),
    ]


POINTER_FLAG, REFERENCE_FLAG, CONST_FLAG = 1, 2, 4


class BufferArgument(Structure):
    """Mirrors ``msl_rt::BufferArgument``."""

    _fields_ = [
        ("data", c_void_p),
        ("bytes", c_uint64),
        ("start", c_uint64),
        ("scalar_size", c_uint32),
        ("alignment", c_uint32),
        ("flags", c_uint32),
    ]


class LaunchArguments(Structure):
    """Mirrors ``msl_rt::LaunchArguments``."""

    _fields_ = [
        ("entry", c_void_p),
        ("buffers", POINTER(BufferArgument)),
        ("dynamic_bytes", POINTER(c_uint64)),
        ("parameters", POINTER(c_uint32)),
        ("element_sizes", POINTER(c_uint32)),
        ("scalar_sizes", POINTER(c_uint32)),
        ("parameter_names", POINTER(c_char_p)),
        ("buffer_count", c_uint32),
        ("parameter_count", c_uint32),
        ("grid", c_uint32 * 3),
        ("threadgroup", c_uint32 * 3),
        ("strict", c_uint32),
        ("order", c_uint32),
        ("workers", c_uint32),
        ("misalign", c_uint32),
        ("sample", c_uint32),
        ("accesses", c_uint32),
        ("tracked", c_uint32),
        ("threadgroup_bytes", c_uint32),
        ("seed", c_uint64),
    ]


class Counters(Structure):
    """Mirrors ``msl_rt::Counters``."""

    _fields_ = [
        ("threadgroup_loaded", c_uint64),
        ("threadgroup_stored", c_uint64),
        ("multiply_accumulates", c_uint64),
        ("simdgroup_loads", c_uint64),
        ("simdgroup_stores", c_uint64),
        ("threadgroup_barriers", c_uint64),
        ("simdgroup_barriers", c_uint64),
        ("simd_functions", c_uint64),
        ("atomics", c_uint64),
        ("threadgroups", c_uint64),
        ("threadgroup_bytes", c_uint64),
        ("uneven", c_uint64),
        ("buffer_loaded", c_uint64 * MAX_BUFFERS),
        ("buffer_stored", c_uint64 * MAX_BUFFERS),
    ]


class AccessSite(Structure):
    """Mirrors ``msl_rt::AccessSite``."""

    _fields_ = [
        ("pc", c_uint64),
        ("space", c_uint32),
        ("owner", c_uint32),
        ("stores", c_uint32),
        ("name", c_char_p),
        ("accesses", c_uint64),
        ("lanes", c_uint64),
        ("bytes", c_uint64),
        ("transactions", c_uint64),
        ("fewest_transactions", c_uint64),
    ]


DEVICE_SPACE = 0


class Finding(Structure):
    """Mirrors ``msl_rt::Finding``."""

    _fields_ = [
        ("kind", c_uint32),
        ("owner", c_uint32),
        ("owner_index", c_uint32),
        ("element_size", c_uint32),
        ("access", c_uint32),
        ("offset", c_int64),
        ("size", c_uint64),
        ("pc", c_uint64),
        ("other_pc", c_uint64),
        ("file", c_char_p),
        ("owner_name", c_char_p),
        ("line", c_int32),
        ("thread", c_uint32 * 3),
        ("threadgroup", c_uint32 * 3),
        ("other_access", c_uint32),
        ("other_thread", c_uint32 * 3),
        ("in_other_threadgroup", c_uint32),
        ("count", c_uint32),
        ("origin", c_uint32),
        ("text", c_char * 104),
    ]


ENTRY_TYPE = CFUNCTYPE(None)
DESCRIBE_TYPE = CFUNCTYPE(c_uint32, POINTER(Parameter))


@lru_cache(maxsize=8)
def load_runtime(path: Path) -> ctypes.CDLL:
    """The runtime library, with the types of its functions set."""
    # Kernels are linked to it by name on Linux; on macOS they look among what is global.
    scope = ctypes.RTLD_GLOBAL if sys.platform == "darwin" else ctypes.RTLD_LOCAL
    library = ctypes.CDLL(str(path), mode=scope)
    library.msl_rt_begin.argtypes = [POINTER(LaunchArguments)]
    library.msl_rt_begin.restype = c_int32
    library.msl_rt_wait.argtypes = [c_double]
    library.msl_rt_wait.restype = c_int32
    library.msl_rt_cancel.argtypes = []
    library.msl_rt_cancel.restype = None
    library.msl_rt_end.argtypes = [POINTER(Counters), POINTER(Finding), c_uint32]
    library.msl_rt_end.restype = c_uint32
    library.msl_rt_sites.argtypes = [POINTER(AccessSite), c_uint32]
    library.msl_rt_sites.restype = c_uint32
    library.msl_rt_lines.argtypes = [c_uint32, POINTER(c_uint64), POINTER(c_uint64)]
    library.msl_rt_lines.restype = None
    library.msl_rt_locate.argtypes = [c_uint64, c_char_p, c_uint32]
    library.msl_rt_locate.restype = c_uint64
    return library
