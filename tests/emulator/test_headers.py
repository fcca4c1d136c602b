"""The functions and types of the emulator's Metal headers against NumPy and Python integers."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator

import header_sources as sources
import mlx.core as mx
import numpy as np
import pytest
from cxx import Cxx, compilers

RNG = np.random.default_rng(20240)
ALL16 = np.arange(65536, dtype=np.uint16)
pytestmark = pytest.mark.skipif(not compilers(), reason="no C++ compiler")


@pytest.fixture(scope="module", params=compilers())
def cxx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cxx:
    return Cxx(command=request.param, folder=tmp_path_factory.mktemp("headers"))


@pytest.fixture(scope="module")
def real(cxx: Cxx) -> ctypes.CDLL:
    return cxx.library("real", sources.real_library())


@pytest.fixture(scope="module")
def ints(cxx: Cxx) -> ctypes.CDLL:
    return cxx.library("ints", sources.int_library())


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def run(library: ctypes.CDLL, name: str, out: type, *arrays: np.ndarray) -> np.ndarray:
    """Apply a compiled loop; the result has the shape of the first array."""
    result = np.zeros(arrays[0].shape, out)
    # A vector loop counts vectors: 3 floats take the room of 4.
    lanes = {"3": 4, "4": 4}.get(name[-1], 1) if name.rstrip("34") != name else 1
    counted = [np.ascontiguousarray(a) for a in arrays]
    getattr(library, name)(
        *(ctypes.c_void_p(a.ctypes.data) for a in (*counted, result)),
        ctypes.c_long(counted[0].size // lanes),
    )
    return result


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare bits, except that any NaN equals any NaN."""
    assert actual.dtype == expected.dtype
    unsigned = f"u{actual.dtype.itemsize}"
    equal = actual.view(unsigned) == expected.view(unsigned)
    if actual.dtype.kind == "f":
        equal |= np.isnan(actual) & np.isnan(expected)
    wrong = np.flatnonzero(~equal)
    assert wrong.size == 0, (wrong[:5], actual[wrong[:5]], expected[wrong[:5]])


def bfloat_to_float(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def same_bfloat(actual: np.ndarray, expected: np.ndarray) -> None:
    same(bfloat_to_float(actual), bfloat_to_float(expected))


def float_to_bfloat(values: np.ndarray) -> np.ndarray:
    """MLX's own conversion."""
    return np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16))


def around(values: np.ndarray) -> np.ndarray:
    """Floats at, between and next to the middle of consecutive values of a narrower type."""
    ordered = np.unique(values[np.isfinite(values)])
    middle = ((ordered[1:].astype(np.float64) + ordered[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(middle, np.float32(s * np.inf)) for s in (-1, 1)]
    special = np.float32(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 65519.99, 65520, 3.4e38]
    )
    bits = RNG.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    return np.concatenate([values, middle, *near, special, bits]).astype(np.float32)


@pytest.mark.slow
def test_every_half_and_bfloat_widens_exactly(real: ctypes.CDLL) -> None:
    same(run(real, "half_to_float", np.float32, ALL16), ALL16.view(np.float16).astype(np.float32))
    same(run(real, "bfloat_to_float", np.float32, ALL16), bfloat_to_float(ALL16))


def test_floats_round_to_half_and_bfloat_as_numpy_and_mlx_do(real: ctypes.CDLL) -> None:
    halves = around(ALL16.view(np.float16).astype(np.float32))
    same(run(real, "float_to_half", np.float16, halves), halves.astype(np.float16))
    bfloats = around(bfloat_to_float(ALL16))
    same_bfloat(run(real, "float_to_bfloat", np.uint16, bfloats), float_to_bfloat(bfloats))


def test_conversions_between_all_scalar_kinds(real: ctypes.CDLL) -> None:
    half = ALL16.view(np.float16)
    same_bfloat(
        run(real, "half_to_bfloat", np.uint16, half), float_to_bfloat(half.astype(np.float32))
    )
    wide = bfloat_to_float(ALL16)
    same(run(real, "bfloat_to_half", np.float16, ALL16), wide.astype(np.float16))
    same(run(real, "bfloat_to_bool", np.bool_, ALL16), wide != 0)
    small = RNG.integers(-70_000, 70_000, 5000).astype(np.int32)
    same(run(real, "int_to_half", np.float16, small), small.astype(np.float16))
    same(run(real, "int_to_bfloat", np.uint16, small), float_to_bfloat(small.astype(np.float32)))
    fits = wide[np.abs(wide) < 2e9]
    bits = ALL16[np.abs(wide) < 2e9]
    same(run(real, "bfloat_to_int", np.int32, bits), fits.astype(np.int32))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_narrow_arithmetic_rounds_after_each_operation(real: ctypes.CDLL, name: str) -> None:
    ufunc = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name]
    a, b = (RNG.integers(0, 65536, 200_000, dtype=np.uint16) for _ in range(2))
    h, k = a.view(np.float16), b.view(np.float16)
    same(run(real, f"{name}_half", np.float16, h, k), ufunc(h, k))
    wide = ufunc(bfloat_to_float(a), bfloat_to_float(b)).astype(np.float32)
    same_bfloat(run(real, f"{name}_bfloat", np.uint16, a, b), float_to_bfloat(wide))


def test_half_expressions_keep_no_excess_precision(real: ctypes.CDLL) -> None:
    h, k = (RNG.standard_normal(100_000).astype(np.float16) for _ in range(2))
    same(run(real, "axpy_half", np.float16, h, k), h * k + h)


ORACLES: dict[str, tuple[Callable[..., np.ndarray], float, float]] = {
    # name: (float64 oracle, lowest and highest operand)
    "acos": (np.arccos, -1, 1),
    "acosh": (np.arccosh, 1, 1e4),
    "asin": (np.arcsin, -1, 1),
    "asinh": (np.arcsinh, -1e4, 1e4),
    "atan": (np.arctan, -1e4, 1e4),
    "atanh": (np.arctanh, -1, 1),
    "cos": (np.cos, -1e3, 1e3),
    "cosh": (np.cosh, -11, 11),
    "exp": (np.exp, -17, 11),
    "exp10": (lambda x: np.power(10.0, x), -7, 4.8),
    "exp2": (np.exp2, -24, 15.9),
    "log": (np.log, 0, 6e4),
    "log10": (np.log10, 0, 6e4),
    "log2": (np.log2, 0, 6e4),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 0, 6e4),
    "sin": (np.sin, -1e3, 1e3),
    "sinh": (np.sinh, -11, 11),
    "sqrt": (np.sqrt, 0, 6e4),
    "tan": (np.tan, -1e3, 1e3),
    "tanh": (np.tanh, -20, 20),
    "atan2": (np.arctan2, -1e3, 1e3),
    "pow": (np.power, 0, 8),
    "powr": (np.power, 0, 8),
    "divide": (np.divide, -1e3, 1e3),
}


def ulps(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units of the last place of the exact result."""
    rounded = exact.astype(actual.dtype)
    unit = np.spacing(np.abs(rounded)).astype(np.float64)
    error = np.abs(actual.astype(np.float64) - exact) / unit
    return np.where(actual == rounded, np.minimum(error, 0.5), error)


@pytest.mark.parametrize("name", ORACLES)
def test_math_is_right_to_the_last_place(real: ctypes.CDLL, name: str) -> None:
    oracle, low, high = ORACLES[name]
    arity = 2 if name in sources.REAL2 else 1
    for kind, allowed in ((np.float32, 1.5), (np.float16, 0.51)):
        operands = [RNG.uniform(low, high, 20_000).astype(kind) for _ in range(arity)]
        exact = oracle(*(x.astype(np.float64) for x in operands))
        sound = np.isfinite(exact.astype(kind)) & (np.abs(exact) >= np.finfo(kind).tiny)
        actual = run(real, f"{name}_{'float' if kind is np.float32 else 'half'}", kind, *operands)
        assert ulps(actual, exact)[sound].max() <= allowed


def test_functions_of_pi_are_exact_at_their_zeros(real: ctypes.CDLL) -> None:
    x = np.concatenate([np.arange(-64, 64) / 4, RNG.uniform(-1e4, 1e4, 10_000)]).astype(np.float32)
    turns = x.astype(np.float64) - 2 * np.rint(x.astype(np.float64) / 2)
    for name, oracle in (("sinpi", np.sin), ("cospi", np.cos)):
        actual = run(real, f"{name}_float", np.float32, x)
        np.testing.assert_allclose(actual, oracle(np.pi * turns), rtol=3e-7, atol=1e-15)
    assert not run(real, "sinpi_float", np.float32, np.arange(-8, 8, dtype=np.float32)).any()
    halves = np.arange(-8, 8, dtype=np.float32) + np.float32(0.5)
    assert not run(real, "cospi_float", np.float32, halves).any()
    quarter = run(real, "tanpi_float", np.float32, np.float32([0.25, -0.25, 2.0]))
    np.testing.assert_array_equal(quarter, np.float32([1, -1, 0]))


SPECIAL = np.float32(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, 7.75]
)
EXACT1 = {
    "abs": np.abs,
    "fabs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "rint": np.rint,
    "trunc": np.trunc,
    "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "sign": lambda x: np.where(np.isnan(x), 0, np.where(x == 0, x, np.sign(x))),
    "saturate": lambda x: np.where(np.isnan(x), 0, np.clip(x, 0, 1)),
    "isnan": np.isnan,
    "isinf": np.isinf,
    "isfinite": np.isfinite,
    "signbit": np.signbit,
}
EXACT2 = {
    "copysign": np.copysign,
    "fmax": np.fmax,
    "max": np.fmax,
    "fmin": np.fmin,
    "min": np.fmin,
    "fmod": np.fmod,
    "fdim": lambda x, y: np.where(x <= y, 0, x - y),
    "nextafter": np.nextafter,
    "step": lambda edge, x: np.where(x < edge, 0.0, 1.0),
}
EXACT3 = {
    "clamp": lambda x, low, high: np.fmin(np.fmax(x, low), high),
    "max3": lambda x, y, z: np.fmax(x, np.fmax(y, z)),
    "fmin3": lambda x, y, z: np.fmin(x, np.fmin(y, z)),
    "median3": lambda x, y, z: np.fmax(np.fmin(x, y), np.fmin(np.fmax(x, y), z)),
}


@pytest.mark.parametrize("name", [*EXACT1, *EXACT2, *EXACT3])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_exact_functions_agree_with_numpy(real: ctypes.CDLL, name: str, kind: type) -> None:
    arity = 1 if name in EXACT1 else 2 if name in EXACT2 else 3
    oracle = {**EXACT1, **EXACT2, **EXACT3}[name]
    grid = np.meshgrid(*[SPECIAL.astype(kind)] * arity)
    operands = [np.ascontiguousarray(g.ravel()) for g in grid]
    expected = oracle(*operands)
    out = np.bool_ if expected.dtype == np.bool_ else kind
    actual = run(real, f"{name}_{'float' if kind is np.float32 else 'half'}", out, *operands)
    # Which zero is the larger is not said; everything else is.
    zeros = (actual == 0) & (expected == 0) & (arity > 1) & (name != "copysign")
    actual, expected = (np.where(zeros, 0, x).astype(out) for x in (actual, expected))
    same(actual, expected)


def test_fma_rounds_once(real: ctypes.CDLL) -> None:
    a, b, c = (RNG.integers(0, 65536, 200_000, dtype=np.uint16).view(np.float16) for _ in range(3))
    exact = a.astype(np.float64) * b + c.astype(np.float64)
    same(run(real, "fma_half", np.float16, a, b, c), exact.astype(np.float16))
    one = np.float32([1 + 2**-12])
    assert run(real, "fma_float", np.float32, one, one, np.float32([-1]))[0] == 2**-11 + 2**-24


def test_parts_of_a_number(real: ctypes.CDLL) -> None:
    x = np.concatenate([RNG.standard_normal(1000) * 100, [0.0, -0.0, 6e-8, -3.5]])
    for kind, name in ((np.float32, "float"), (np.float16, "half")):
        v = x.astype(kind)
        mantissa, exponent = np.frexp(v)
        same(run(real, f"frexp_{name}", kind, v), mantissa)
        same(run(real, f"exponent_{name}", np.int32, v), exponent.astype(np.int32))
        rest, whole = np.modf(v)
        same(run(real, f"modf_{name}", kind, v), rest)
        same(run(real, f"whole_{name}", kind, v), whole)
        k = RNG.integers(-20, 10, v.size).astype(np.int32)
        same(run(real, f"ldexp_{name}", kind, v, k), np.ldexp(v.astype(np.float64), k).astype(kind))
        lead = np.where(v == 0, -(2**31), np.frexp(v)[1] - 1).astype(np.int32)
        same(run(real, f"ilogb_{name}", np.int32, v), lead)
        same(run(real, f"isnormal_{name}", np.bool_, v), np.abs(v) >= np.finfo(kind).tiny)
        fraction = run(real, f"fract_{name}", kind, v)
        np.testing.assert_array_equal(
            fraction, np.minimum(v - np.floor(v), np.nextafter(kind(1), kind(0)))
        )


def test_mix_and_smoothstep(real: ctypes.CDLL) -> None:
    a, b, c = (RNG.uniform(0, 1, 1000).astype(np.float32) for _ in range(3))
    same(run(real, "mix_float", np.float32, a, b, c), a + (b - a) * c)
    t = np.clip((c - a) / (b - a), 0, 1)
    np.testing.assert_allclose(
        run(real, "smoothstep_float", np.float32, a, b, c),
        t * t * (3 - 2 * t),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", [*sources.REAL1, *sources.REAL2, *sources.REAL3])
def test_vectors_give_what_scalars_give(real: ctypes.CDLL, name: str) -> None:
    arity = 1 + (name not in sources.REAL1) + (name in sources.REAL3)
    for kind, scalar, vector in ((np.float32, "float", "float3"), (np.float16, "half", "half4")):
        operands = [RNG.uniform(-4, 4, 4096).astype(kind) for _ in range(arity)]
        one = run(real, f"{name}_{scalar}", kind, *operands)
        many = run(real, f"{name}_{vector}", kind, *operands)
        if vector == "float3":
            one, many = (np.ascontiguousarray(x.reshape(-1, 4)[:, :3]) for x in (one, many))
        same(many.ravel(), one.ravel())


# Integers -----------------------------------------------------------------------------------------


def wrap(value: int, bits: int, signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def saturated(value: int, bits: int, signed: bool) -> int:
    low = -(1 << (bits - 1)) if signed else 0
    high = (1 << (bits - signed)) - 1
    return min(max(value, low), high)


def rotated(x: int, n: int, bits: int) -> int:
    x, n = x & ((1 << bits) - 1), n % bits
    return x << n | x >> (bits - n)


INT_ORACLES: dict[str, Callable[..., int]] = {
    # (operands..., bits, signed) -> integer, wrapped afterwards
    "abs": lambda x, b, s: abs(x),
    "clz": lambda x, b, s: b - (x & ((1 << b) - 1)).bit_length(),
    "ctz": lambda x, b, s: b if x == 0 else (x & -x).bit_length() - 1,
    "popcount": lambda x, b, s: bin(x & ((1 << b) - 1)).count("1"),
    "reverse_bits": lambda x, b, s: int(f"{x & ((1 << b) - 1):0{b}b}"[::-1], 2),
    "addsat": lambda x, y, b, s: saturated(x + y, b, s),
    "subsat": lambda x, y, b, s: saturated(x - y, b, s),
    "hadd": lambda x, y, b, s: (x + y) >> 1,
    "rhadd": lambda x, y, b, s: (x + y + 1) >> 1,
    "max": lambda x, y, b, s: max(x, y),
    "min": lambda x, y, b, s: min(x, y),
    "mulhi": lambda x, y, b, s: (x * y) >> b,
    "rotate": lambda x, y, b, s: rotated(x, y % (1 << b), b),
    "clamp": lambda x, y, z, b, s: min(max(x, y), z),
    "madhi": lambda x, y, z, b, s: ((x * y) >> b) + z,
    "madsat": lambda x, y, z, b, s: saturated(x * y + z, b, s),
    "max3": lambda x, y, z, b, s: max(x, y, z),
    "median3": lambda x, y, z, b, s: sorted((x, y, z))[1],
    "min3": lambda x, y, z, b, s: min(x, y, z),
}


def int_operands(dtype: np.dtype, arity: int) -> list[np.ndarray]:
    info = np.iinfo(dtype)
    edges = [info.min, info.min + 1, 0, 1, 2, 3, info.max - 1, info.max, info.max // 2]
    edges += [-1, -2, -3] if info.min else []
    grid = np.meshgrid(*[np.array(edges, dtype)] * arity)
    chosen = [g.ravel() for g in grid]
    mixed = [RNG.integers(info.min, info.max, 240, dtype, endpoint=True) for _ in range(arity)]
    joined = [np.concatenate([c, m]) for c, m in zip(chosen, mixed, strict=True)]
    return [x[: x.size // 4 * 4] for x in joined]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sources.INT_TYPES)
def test_integer_functions(ints: ctypes.CDLL, kind: str) -> None:
    signed = not kind.startswith("u")
    bits = {"char": 8, "short": 16, "int": 32, "long": 64}[kind.removeprefix("u")]
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    for name, oracle in INT_ORACLES.items():
        arity = oracle.__code__.co_argcount - 2
        operands = int_operands(dtype, arity)
        rows = zip(*(x.tolist() for x in operands), strict=True)
        expected = np.array([wrap(oracle(*row, bits, signed), bits, signed) for row in rows], dtype)
        for variant in (kind, f"{kind}4"):
            actual = run(ints, f"{name}_{variant}", dtype, *operands)
            np.testing.assert_array_equal(actual, expected, err_msg=f"{name}({variant})")


@pytest.mark.parametrize("kind", sources.INT_TYPES)
def test_bit_fields_and_differences(ints: ctypes.CDLL, kind: str) -> None:
    signed = not kind.startswith("u")
    bits = {"char": 8, "short": 16, "int": 32, "long": 64}[kind.removeprefix("u")]
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    a, b = int_operands(dtype, 2)
    differences = [abs(x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    actual = run(ints, f"absdiff_{kind}", np.dtype(f"u{bits // 8}"), a, b)
    assert actual.tolist() == differences
    width = RNG.integers(0, bits + 1, a.size)
    offset = np.array([RNG.integers(0, bits - w + 1) % bits for w in width])
    field = (offset + width * 256).astype(np.uint32)
    got = run(ints, f"extract_bits_{kind}", dtype, a, field)
    rows = list(zip(a.tolist(), b.tolist(), offset.tolist(), width.tolist(), strict=True))
    assert got.tolist() == [wrap(x >> o, w, signed) if w else 0 for x, _, o, w in rows]
    got = run(ints, f"insert_bits_{kind}", dtype, a, b, field)
    masks = [(((1 << w) - 1) << o) for _, _, o, w in rows]
    expected = [
        wrap((x & ~m) | ((y << o) & m), bits, signed)
        for (x, y, o, _), m in zip(rows, masks, strict=True)
    ]
    assert got.tolist() == expected


def test_products_of_24_bits(ints: ctypes.CDLL) -> None:
    for kind, signed in (("int", True), ("uint", False)):
        dtype = np.dtype("i4" if signed else "u4")
        operands = int_operands(dtype, 3)
        rows = list(zip(*(x.tolist() for x in operands), strict=True))
        products = [wrap(x, 24, signed) * wrap(y, 24, signed) for x, y, _ in rows]
        actual = run(ints, f"mul24_{kind}", dtype, *operands[:2])
        assert actual.tolist() == [wrap(p, 32, signed) for p in products]
        sums = [wrap(p + z, 32, signed) for p, (_, _, z) in zip(products, rows, strict=True)]
        assert run(ints, f"mad24_{kind}", dtype, *operands).tolist() == sums


@pytest.mark.slow
def test_every_swizzle_reads_and_writes_its_components(cxx: Cxx) -> None:
    library = cxx.library("swizzles", sources.swizzle_library())
    assert [getattr(library, f"swizzles_{n}")() for n in (2, 3, 4)] == [0, 0, 0]
