"""The element formats the kernels know: one row each, and nothing about them anywhere else.

A *native* format is an MLX dtype of the same name. A *packed* format, such as an 8-bit float, is
held in an MLX array of unsigned integers, which does not say so: an op has to name it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    import numpy as np

    Decode = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


class Kind(Enum):
    """Arithmetic that an element format takes part in."""

    FLOAT = "float"
    INTEGER = "integer"
    BOOL = "bool"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class DType:
    """One element format. Rows are compared by identity.

    Attributes:
        name: The field's name of the format: MLX's, where MLX has one. Also used in messages.
        short: The name in spellings of problems, such as ``f16``.
        metal: Type in which Metal reads an element, or the unit that holds several.
        bits: Size of one element.
        kind: Arithmetic it belongs to; operands of one product share a kind.
        unit_roundoff: Largest relative error of one rounding to this format; 0 for integers and
            for packed formats, to which no kernel rounds.
        smallest_step: Distance of neighbours next to 0, where relative errors end; likewise.
        stored: Name of the MLX dtype of the arrays that hold it; empty where it is a native format.
        decode: Exact float64 values of the codes that an array of a packed format holds, which may
            be more than the array has elements; None for a native format.
        values: The value of each code, in order; empty for a native format.
        bytes: Size of one element in memory; 0 where several share a byte.
    """

    name: str
    short: str
    metal: str
    bits: int
    kind: Kind
    unit_roundoff: float
    smallest_step: float = 0.0
    stored: str = ""
    decode: Decode | None = None
    values: tuple[float, ...] = ()
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", self.bits // 8)

    def __repr__(self) -> str:
        return f"<DType {self.name}>"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Callable[[str], DType], tuple[str]]:
        return by_name, (self.name,)

    @property
    def native(self) -> bool:
        """Whether it is an MLX dtype, which an array names by itself."""
        return not self.stored

    @property
    def mlx(self) -> Any:  # noqa: ANN401 - mlx.core.Dtype is a C++ type without a stub
        """The MLX dtype of the arrays that hold it."""
        name = self.stored or self.name
        return getattr(mx, "bool_" if name == "bool" else name)


FLOAT32 = DType(
    name="float32",
    short="f32",
    metal="float",
    bits=32,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-24,
    smallest_step=2.0**-126,  # Metal flushes what is smaller
)
FLOAT16 = DType(
    name="float16",
    short="f16",
    metal="half",
    bits=16,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-11,
    smallest_step=2.0**-24,
)
BFLOAT16 = DType(
    name="bfloat16",
    short="bf16",
    metal="bfloat",
    bits=16,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-8,
    smallest_step=2.0**-126,
)
INT32 = DType(name="int32", short="i32", metal="int", bits=32, kind=Kind.INTEGER, unit_roundoff=0.0)
INT16 = DType(
    name="int16", short="i16", metal="short", bits=16, kind=Kind.INTEGER, unit_roundoff=0.0
)
INT8 = DType(name="int8", short="i8", metal="char", bits=8, kind=Kind.INTEGER, unit_roundoff=0.0)
UINT8 = DType(name="uint8", short="u8", metal="uchar", bits=8, kind=Kind.INTEGER, unit_roundoff=0.0)
BOOL = DType(name="bool", short="bool", metal="bool", bits=8, kind=Kind.BOOL, unit_roundoff=0.0)
UINT32 = DType(
    name="uint32", short="u32", metal="uint", bits=32, kind=Kind.INTEGER, unit_roundoff=0.0
)
"""Sums of integers, because int32 overflow has to wrap, and words that hold packed elements: no
operand's elements have it."""


def codes_of(stored: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Return the codes in an array of unsigned integers, each row of which is a stream of bits.

    Code ``i`` of a row has bits ``i * bits`` and up of it, the lowest of the first integer first.

    Args:
        stored: ``[..., integers]``.
        bits: Size of a code, 8 at most.

    Returns:
        ``[..., codes]`` of uint8.
    """
    # Imported here because NumPy is most of what `import mlx_tilegemm` may cost.
    import numpy as np

    raw: np.ndarray[Any, Any] = np.ascontiguousarray(stored).view(np.uint8)
    if bits == 8:
        return raw
    streams = np.unpackbits(raw, axis=-1, bitorder="little")
    places = streams.reshape(*raw.shape[:-1], raw.shape[-1] * 8 // bits, bits)
    padding = [(0, 0)] * (places.ndim - 1) + [(0, 8 - bits)]
    codes: np.ndarray[Any, Any] = np.packbits(np.pad(places, padding), axis=-1, bitorder="little")
    return codes.reshape(places.shape[:-1])


def small_float(
    exponent_bits: int, mantissa_bits: int, specials: Sequence[float] = ()
) -> tuple[float, ...]:
    """Return the value of each code of a signed small float.

    Args:
        exponent_bits: Bits of the exponent, whose bias is half its range.
        mantissa_bits: Bits of the mantissa; exponent 0 is that of denormals.
        specials: Values of the last codes of either sign, which are no numbers or infinite.
    """
    bias = (1 << (exponent_bits - 1)) - 1
    positive = []
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, fraction = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
        whole = fraction + (min(exponent, 1) << mantissa_bits)
        positive.append(whole * 2.0 ** (max(exponent, 1) - bias - mantissa_bits))
    positive[len(positive) - len(specials) :] = specials
    return (*positive, *(-value for value in positive))


def _packed(
    name: str, short: str, bits: int, values: Sequence[float], *, stored: str = "uint32"
) -> DType:
    """Return the row of a packed format, by the value of each of its codes."""

    def decode(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        table: np.ndarray[Any, Any] = np.array(values, dtype=np.float64)
        return table.take(codes_of(codes, bits))

    return DType(
        name=name,
        short=short,
        metal="uchar" if stored == "uint8" else "uint",
        bits=bits,
        kind=Kind.INTEGER if name.startswith("uint") else Kind.FLOAT,
        unit_roundoff=0.0,
        stored=stored,
        decode=decode,
        values=tuple(values),
    )


_NAN, _INFINITY = float("nan"), float("inf")

FLOAT8_E4M3 = _packed("float8_e4m3", "e4m3", 8, small_float(4, 3, [_NAN]), stored="uint8")
FLOAT8_E5M2 = _packed(
    "float8_e5m2", "e5m2", 8, small_float(5, 2, [_INFINITY, *[_NAN] * 3]), stored="uint8"
)
FLOAT4_E2M1 = _packed("float4_e2m1", "e2m1", 4, small_float(2, 1))
FLOAT8_E8M0 = _packed(
    "float8_e8m0",
    "e8m0",
    8,
    [*(2.0 ** (code - 127) for code in range(255)), _NAN],
    stored="uint8",
)
"""A power of two, without a sign: the scale of a group."""

UINT1, UINT2, UINT3, UINT4, UINT5, UINT6 = (
    _packed(f"uint{bits}", f"u{bits}", bits, range(1 << bits)) for bits in range(1, 7)
)

TF32_ROUNDOFF = 2.0**-10
"""Largest relative error of a float32 factor in TF32, which MLX's own ops may multiply: an M5 cuts
bits off, where NVIDIA's GPUs round."""

DTYPES = (
    FLOAT32,
    FLOAT16,
    BFLOAT16,
    INT32,
    INT16,
    INT8,
    UINT8,
    BOOL,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT4_E2M1,
    FLOAT8_E8M0,
    UINT1,
    UINT2,
    UINT3,
    UINT4,
    UINT5,
    UINT6,
)
NATIVE = tuple(dtype for dtype in DTYPES if dtype.native)
FLOATS = tuple(dtype for dtype in NATIVE if dtype.kind is Kind.FLOAT)
INTEGERS = tuple(dtype for dtype in NATIVE if dtype.kind is Kind.INTEGER)
MLX_FLOATS = frozenset(dtype.mlx for dtype in FLOATS)

_MLX_NAMES = {
    **{dtype.name: dtype.short for dtype in NATIVE if dtype.name != dtype.short},
    **{f"uint{bits}": f"u{bits}" for bits in (16, 32, 64)},
    "int64": "i64",
    "float64": "f64",
    "complex64": "c64",
}
_MLX_BY_NAME = {
    name: getattr(mx, long)
    for long, short in (*_MLX_NAMES.items(), ("bool_", "bool"))
    for name in (long, short)
}
_BY_MLX = {dtype.mlx: dtype for dtype in NATIVE}
_BY_NAME = {name: dtype for dtype in (*DTYPES, UINT32) for name in (dtype.name, dtype.short)}


def from_mlx(dtype: object) -> DType | None:
    """Return the row of an MLX dtype, or None for a type no kernel takes."""
    return _BY_MLX.get(dtype)


def by_name(name: str) -> DType:
    """Return the row with a name, or with its short form.

    Raises:
        ValueError: There is none.
    """
    found = _BY_NAME.get(name)
    if found is None:
        raise ValueError(f"no dtype {name!r}")
    return found


def mlx_dtype(name: str) -> Any:  # noqa: ANN401 - mlx.core.Dtype is a C++ type without a stub
    """Return the MLX dtype of a name, such as ``float16`` or, in short, ``f16``.

    Raises:
        ValueError: There is none; the message says which there are.
    """
    found = _MLX_BY_NAME.get(name.strip().lower())
    if found is None:
        known = ", ".join(f"{long} ({short})" for long, short in _MLX_NAMES.items())
        raise ValueError(f"one of {known}, bool")
    return found


def mlx_name(dtype: object) -> str:
    """Return an MLX dtype's name without its module, as MLX's own messages print it."""
    return str(dtype).removeprefix("mlx.core.")


def promote(a: DType, b: DType) -> DType:
    """Return the result type of ``a @ b``.

    Floats follow MLX's promotion (float16 with bfloat16 is float32); integers accumulate in and
    return int32.
    """
    if a.kind is Kind.INTEGER:
        return INT32
    return a if a is b else FLOAT32
