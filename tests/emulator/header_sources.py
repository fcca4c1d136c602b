"""The C++ that test_headers.py compiles: loops around the functions under test."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def _names(text: str) -> list[str]:
    return text.split()


REAL1 = _names("""
    abs acos acosh asin asinh atan atanh ceil cos cosh cospi exp exp10 exp2 fabs floor fract
    log log10 log2 rint round rsqrt sin sinh sinpi sqrt tan tanh tanpi trunc sign saturate
""")
REAL2 = _names("atan2 copysign divide fdim fmax fmin fmod max min nextafter pow powr step")
REAL3 = _names("clamp fma fmax3 fmedian3 fmin3 max3 median3 min3 mix smoothstep")
INT1 = _names("abs clz ctz popcount reverse_bits")
INT2 = _names("addsat hadd max min mulhi rhadd rotate subsat")
INT3 = _names("clamp madhi madsat max3 median3 min3")
INT_TYPES = _names("char uchar short ushort int uint long ulong")

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"

_LOOPS = """
template <class R, class F, class A>
void loop(F f, const A* a, R* out, long n) {
  for (long i = 0; i < n; ++i) out[i] = f(a[i]);
}
template <class R, class F, class A, class B>
void loop(F f, const A* a, const B* b, R* out, long n) {
  for (long i = 0; i < n; ++i) out[i] = f(a[i], b[i]);
}
template <class R, class F, class A, class B, class C>
void loop(F f, const A* a, const B* b, const C* c, R* out, long n) {
  for (long i = 0; i < n; ++i) out[i] = f(a[i], b[i], c[i]);
}
"""


def _loop(name: str, expression: str, result: str, operands: list[str]) -> str:
    letters = "abc"[: len(operands)]
    parameters = "".join(f"const {t}* {x}, " for t, x in zip(operands, letters, strict=True))
    arguments = ", ".join(f"{t} {x}" for t, x in zip(operands, letters, strict=True))
    return (
        f'extern "C" void {name}({parameters}{result}* out, long n) {{\n'
        f"  loop([]({arguments}) -> {result} {{ return {expression}; }}, "
        f"{', '.join(letters)}, out, n);\n}}\n"
    )


def _calls(names: Iterable[str], arity: int, kind: str, scope: str) -> list[str]:
    letters = ", ".join("abc"[:arity])
    return [
        _loop(f"{name}_{kind}", f"{scope}::{name}({letters})", kind, [kind] * arity)
        for name in names
    ]


def real_library() -> str:
    """Every function of the real numbers: f_float, f_half, and f_float3, f_half4 on vectors."""
    parts = [HEAD, _LOOPS]
    for arity, names in enumerate((REAL1, REAL2, REAL3), start=1):
        for kind, scope in (
            ("float", "metal"),
            ("half", "metal"),
            ("float3", "metal::precise"),
            ("half4", "metal::fast"),
        ):
            parts += _calls(names, arity, kind, scope)
    for kind in ("float", "half"):
        parts += [
            _loop(f"isnan_{kind}", "isnan(a)", "bool", [kind]),
            _loop(f"isinf_{kind}", "isinf(a)", "bool", [kind]),
            _loop(f"isfinite_{kind}", "isfinite(a)", "bool", [kind]),
            _loop(f"isnormal_{kind}", "isnormal(a)", "bool", [kind]),
            _loop(f"signbit_{kind}", "signbit(a)", "bool", [kind]),
            _loop(f"add_{kind}", "a + b", kind, [kind] * 2),
            _loop(f"sub_{kind}", "a - b", kind, [kind] * 2),
            _loop(f"mul_{kind}", "a * b", kind, [kind] * 2),
            _loop(f"div_{kind}", "a / b", kind, [kind] * 2),
            _loop(f"axpy_{kind}", "a * b + a", kind, [kind] * 2),
            _loop(f"ldexp_{kind}", "ldexp(a, b)", kind, [kind, "int"]),
            _loop(f"ilogb_{kind}", "ilogb(a)", "int", [kind]),
            _loop(f"frexp_{kind}", "[&] { int e; return frexp(a, e); }()", kind, [kind]),
            _loop(f"exponent_{kind}", "[&] { int e; frexp(a, e); return e; }()", "int", [kind]),
            _loop(f"modf_{kind}", f"[&] {{ {kind} w; return modf(a, w); }}()", kind, [kind]),
            _loop(f"whole_{kind}", f"[&] {{ {kind} w; modf(a, w); return w; }}()", kind, [kind]),
            _loop(f"cosine_{kind}", f"[&] {{ {kind} c; sincos(a, c); return c; }}()", kind, [kind]),
        ]
    parts.append(_conversions())
    return "".join(parts)


def _conversions() -> str:
    pairs = itertools.permutations(("half", "bfloat", "float", "int", "bool"), 2)
    parts = [_loop(f"{a}_to_{b}", f"static_cast<{b}>(a)", b, [a]) for a, b in pairs]
    for name, op in (("add", "+"), ("sub", "-"), ("mul", "*"), ("div", "/")):
        parts.append(_loop(f"{name}_bfloat", f"a {op} b", "bfloat", ["bfloat"] * 2))
    parts.append(_loop("less_bfloat", "a < b", "bool", ["bfloat"] * 2))
    return "".join(parts)


def int_library() -> str:
    """Every integer function on every integer type, and on one vector of each."""
    parts = [HEAD, _LOOPS]
    for kind in INT_TYPES:
        for arity, names in enumerate((INT1, INT2, INT3), start=1):
            parts += _calls(names, arity, kind, "metal")
            parts += _calls(names, arity, f"{kind}4", "metal")
        unsigned = kind if kind.startswith("u") else f"u{kind}"
        parts += [
            _loop(f"absdiff_{kind}", "absdiff(a, b)", unsigned, [kind] * 2),
            _loop(
                f"extract_bits_{kind}", "extract_bits(a, b & 255u, b >> 8)", kind, [kind, "uint"]
            ),
            _loop(
                f"insert_bits_{kind}",
                "insert_bits(a, b, c & 255u, c >> 8)",
                kind,
                [kind, kind, "uint"],
            ),
        ]
    for kind in ("int", "uint"):
        parts += _calls(["mul24"], 2, kind, "metal") + _calls(["mad24"], 3, kind, "metal")
    return "".join(parts)


def swizzle_names(size: int) -> list[str]:
    """Every swizzle of a vector of `size` components, in xyzw letters."""
    return [
        "".join(letters)
        for count in (2, 3, 4)
        for letters in itertools.product("xyzw"[:size], repeat=count)
    ]


def swizzle_library() -> str:
    """Reads and writes every swizzle; each function returns the number of wrong results."""
    to_rgba = str.maketrans("xyzw", "rgba")
    parts = [HEAD]
    for size in (2, 3, 4):
        lines = []
        for name in swizzle_names(size):
            parts_of = [f"v.{letter}" for letter in name]
            whole = f"int{len(name)}({', '.join(parts_of)})"
            lines.append(
                f"bad += any({whole} != v.{name}) || any(v.{name.translate(to_rgba)} != {whole});"
            )
            if len(set(name)) == len(name):
                lines += _assignments(size, name, name.translate(to_rgba))
        parts.append(
            f'extern "C" int swizzles_{size}() {{\n'
            f"  int bad = 0;\n  int{size} v({', '.join(map(str, range(3, 3 + size)))});\n  "
            + "\n  ".join(lines)
            + "\n  return bad;\n}\n"
        )
    return "".join(parts)


def _assignments(size: int, name: str, rgba: str) -> list[str]:
    """Assigns through a swizzle in each way there is and compares all components."""
    count = len(name)
    values = ", ".join(str(10 + i) for i in range(count))
    wanted = [f"v.{letter}" for letter in "xyzw"[:size]]
    for i, letter in enumerate(name):
        wanted["xyzw".index(letter)] = str(10 + i)
    expected = f"int{size}({', '.join(wanted)})"
    from_same = [f"v.{letter}" for letter in "xyzw"[:size]]
    for letter in name:
        from_same["xyzw".index(letter)] = f"u.{letter}"
    same = f"int{size}({', '.join(from_same)})"
    return [
        f"{{ auto w = v; w.{name} = int{count}({values}); bad += any(w != {expected}); }}",
        f"{{ auto w = v; w.{rgba} = {{{values}}}; bad += any(w != {expected}); }}",
        f"{{ auto w = v, u = v * 7; w.{name} = u.{name}; bad += any(w != {same}); }}",
        f"{{ auto w = v; w.{name} += 5; w.{name} -= int{count}(5); bad += any(w != v); }}",
        f"{{ packed_int{size} p = v; p.{name} = v.{name}; bad += any(p != v); }}",
    ]
