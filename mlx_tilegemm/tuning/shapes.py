"""Which problems to tune: recorded from a running model, read from a file, or spelled out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import mlx.core as mx

from .. import autodiff, ops
from ..arguments import ArraySpec, attention_request, gemm_request
from ..context import noting_problems
from ..dtypes import DTYPES
from ..errors import ProblemError
from ..problem import AttentionProblem, GemmProblem, Problem
from ..problem.plain import from_plain, to_plain

VERSION = 1

SHORT_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
}


class Shapes:
    """Problems that were asked for, each once, in order."""

    def __init__(self, problems: tuple[Problem, ...] = ()) -> None:
        self._problems: dict[Problem, None] = dict.fromkeys(problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems."""
        return tuple(self._problems)

    def add(self, problem: object) -> None:
        """Take a problem in, unless it is there."""
        self._problems.setdefault(cast(Problem, problem))

    def save(self, path: str | Path) -> None:
        """Write the problems as JSON, for `load` and ``mlx-tilegemm tune --shapes``."""
        content = {"version": VERSION, "problems": [to_plain(one) for one in self._problems]}
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: str | Path) -> Shapes:
    """Read what `Shapes.save` wrote.

    Raises:
        ProblemError: The file is not there, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise ValueError(f"no recorded shapes of version {VERSION}")
        return Shapes(tuple(from_plain(one) for one in content["problems"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProblemError(
            f"[tune] Expected a file of recorded shapes, got {path}: {error}."
        ) from None


@contextmanager
def record() -> Iterator[Shapes]:
    """Record which problems the ops are asked for inside a ``with`` block.

    Gradients' products count too. The block belongs to the running thread or asynchronous task;
    blocks nest, and each has its own and all inner ones. What `mx.compile` has traced before does
    not ask again.

    Example:
        >>> with record() as shapes:
        ...     y = matmul(x, w, transpose_b=True)
        >>> shapes.save("shapes.json")
    """
    shapes = Shapes()
    with noting_problems(shapes.add):
        yield shapes


def forget_calls() -> None:
    """Forget all prepared calls: they are prepared anew, with what is known then."""
    for module in (ops, autodiff.gemm, autodiff.attention):
        for function in vars(module).values():
            clear = getattr(function, "cache_clear", None)
            if clear is not None and getattr(function, "__module__", "") == module.__name__:
                clear()


def matmul_spec(text: str) -> GemmProblem:
    """Return the product that ``MxNxK[:dtypes[:layout]]`` spells: ``512x4096x4096:f16,bf16:nt``.

    Raises:
        ProblemError: It spells none.
    """
    sizes, dtypes, layout = _fields(text, 3, "--matmul", "MxNxK:f16,f32:nt")
    layout = layout or "nn"
    if len(sizes) != 3 or layout not in ("nn", "nt", "tn", "tt"):
        raise _wrong("--matmul", "MxNxK:f16,f32:nt", text)
    m, n, k = sizes
    a_dtype, b_dtype = _dtypes(dtypes, 2, "--matmul")
    problem = gemm_request(
        "tune",
        a=ArraySpec(shape=(k, m) if layout[0] == "t" else (m, k), dtype=a_dtype),
        b=ArraySpec(shape=(n, k) if layout[1] == "t" else (k, n), dtype=b_dtype),
        transpose_a=layout[0] == "t",
        transpose_b=layout[1] == "t",
    )
    assert problem is not None
    return problem


def attention_spec(text: str) -> AttentionProblem:
    """Return the attention that ``BxHqxHkvxLqxLkxD[xDv][:dtypes[:mask]]`` spells.

    Raises:
        ProblemError: It spells none.
    """
    form = "BxHqxHkvxLqxLkxD:f16:causal"
    sizes, dtypes, mask = _fields(text, 3, "--attention", form)
    if len(sizes) not in (6, 7) or mask not in ("", "none", "causal"):
        raise _wrong("--attention", form, text)
    batch, heads, kv_heads, q_len, kv_len, dim = sizes[:6]
    q, k, v = _dtypes(dtypes, 3, "--attention")
    return attention_request(
        "tune",
        q=ArraySpec(shape=(batch, heads, q_len, dim), dtype=q),
        k=ArraySpec(shape=(batch, kv_heads, kv_len, dim), dtype=k),
        v=ArraySpec(shape=(batch, kv_heads, kv_len, sizes[-1]), dtype=v),
        mask="causal" if mask == "causal" else None,
    )


def _fields(text: str, count: int, option: str, form: str) -> tuple[tuple[int, ...], str, str]:
    parts = text.split(":")
    if len(parts) > count:
        raise _wrong(option, form, text)
    parts += [""] * (count - len(parts))
    try:
        sizes = tuple(int(size) for size in parts[0].split("x"))
    except ValueError:
        raise _wrong(option, form, text) from None
    if min(sizes) < 1:
        raise _wrong(option, form, text)
    return sizes, parts[1], parts[2]


def _dtypes(text: str, count: int, option: str) -> list[mx.Dtype]:
    names = (text or "f32").split(",")
    known = {dtype.name: dtype.mlx for dtype in DTYPES}
    full = [SHORT_DTYPES.get(name, name) for name in names]
    found = [known[name] for name in full if name in known]
    if len(found) == len(names) == 1:
        found *= count
    if len(found) != count or len(names) not in (1, count):
        raise _wrong(option, f"one dtype or {count}, such as f16,bf16", text)
    return found


def _wrong(option: str, form: str, text: str) -> ProblemError:
    return ProblemError(f"[tune] Expected {option} to be {form}, got {text!r}.")
