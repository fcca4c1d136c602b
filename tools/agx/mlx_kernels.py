"""MLX's own kernels, from the headers that its wheels carry, as texts of one kernel each.

An instance of a kernel template is written out as a kernel: its template parameters become
declarations, its function constants get values, and buffers that these leave out become null.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import mlx
import mlx.core as mx

from .dialect import Extent, Program, convert, matching, split

KERNELS = "mlx/backend/metal/kernels"

# Their place is taken by include/agx/mlx.h.
_PRELUDE = frozenset(
    f"{KERNELS}/{name}.h"
    for name in ("utils", "bf16", "bf16_math", "complex", "defines", "logging")
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*$', re.MULTILINE)
_CONSTANT = re.compile(r"constant\s+(\w+)\s+(\w+)\s*\[\[function_constant\(\d+\)\]\];")
_TEMPLATE = re.compile(r"template\s*<")
_KERNEL = re.compile(r"\s*\[\[\s*kernel\b[^]]*\]\]\s*void\s+(\w+)\s*\(")
_PARAMETER = re.compile(r"(?:const\s+)?(?P<kind>\w+)\s+(?P<name>\w+)\s*(?:=\s*(?P<default>.*))?")
# Where MLX's text uses what C++ for OpenCL does not have: default construction and conversion of
# objects in private memory only, references to temporaries there, and pointers moved by an object.
_EDITS = (
    (re.compile(r"(METAL_FUNC \w+\(\)) thread(?= \{)"), r"\1"),
    (re.compile(r"(operator \w+\(\)(?: const)?) thread"), r"\1"),
    (re.compile(r"\b(fp\d\w+\(\w+ \w\)) thread(?= \{)"), r"\1"),
    (re.compile(r"\bthread const (short)&"), r"const \1"),
    (re.compile(r"\b(src [+-]= )(\(?str_[xy][^;]*|off_x \* str_x[^;]*);"), r"\1ptrdiff_t(\2);"),
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_CONDITION = re.compile(r",\s*function_constant\((\w+)\)")


@lru_cache(maxsize=1)
def headers() -> Path:
    """Return the folder that MLX's headers are included from.

    That is the installed package's, or else of the `mlx-metal` wheel of the same version, which pip
    downloads.
    """
    installed = Path(next(iter(mlx.__path__))) / "include"
    return installed if (installed / KERNELS / "steel").exists() else _downloaded()


def _downloaded() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mlx-headers-"))
    wheel = f"mlx-metal=={version('mlx')}"
    options = ["--no-deps", "--only-binary=:all:", "--platform=macosx_14_0_arm64"]
    options += ["-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", wheel, *options], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder)
    return folder / "mlx" / "include"


def instance(
    files: str,
    kernel: str,
    arguments: str,
    threads: Extent,
    constants: Mapping[str, bool | int] | None = None,
) -> Program:
    """Return an instance of a kernel template.

    Args:
        files: Headers that hold it and what it needs, by their paths below MLX's kernels.
        kernel: Name of the template.
        arguments: Its template arguments; defaults hold for those left out.
        threads: Threads of a threadgroup in each dimension.
        constants: Values of function constants; the others are false or 0.
    """
    text = _flat([f"{KERNELS}/{name}.h" for name in files.split()])
    given = constants or {}
    for pattern, edited in _EDITS:
        text = pattern.sub(edited, text)
    text = _CONSTANT.sub(lambda found: _declare(found[1], found[2], given.get(found[2], 0)), text)
    (program,) = convert(_only(text, kernel, split(arguments), given), threads)
    return program


def gated_delta(kind: str, key_heads: int, vector: bool) -> Program:
    """Return mlx-lm's kernel for 32 heads of 128 elements.

    Args:
        kind: Type of q, k and v in Metal; gates and state are float.
        key_heads: Heads of q and k.
        vector: Whether each element of a key has a decay of its own.
    """
    dtype = {"half": mx.float16, "bfloat16_t": mx.bfloat16, "float": mx.float32}[kind]
    keys = mx.zeros((1, 2, key_heads, 128), dtype=dtype)
    heads = mx.zeros((1, 2, 32))
    decays = mx.zeros((1, 2, 32, 128)) if vector else heads
    operands = (keys, keys, mx.zeros((1, 2, 32, 128), dtype=dtype), decays, heads)
    texts: list[str] = []

    def record(event: dict[str, Any]) -> None:
        if event.get("name") == "CustomKernel":
            texts.append(event["arguments"][1])

    def run(*arrays: mx.array) -> object:
        return _mlx_lm().gated_delta_kernel(*arrays)

    mx.export_function(record, run, *operands, mx.zeros((1, 32, 128, 128)))
    template, _, used = texts[0].rpartition("\ntemplate ")
    kernel, _, arguments = used.partition("decltype(")[2].partition("<")
    text = _only(template, kernel, split(arguments.partition(">")[0]), {})
    (program,) = convert(text, (32, 4, 1) if vector else (32, 2, 1))
    return program


@lru_cache(maxsize=1)
def _mlx_lm() -> ModuleType:
    """Return mlx-lm's module of gated delta nets with its kernels, which it makes for Macs only."""
    spec = find_spec("mlx_lm.models.gated_delta")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with mock.patch.object(mx.metal, "is_available", return_value=True):
        spec.loader.exec_module(module)
    return module


def _flat(names: list[str]) -> str:
    """Return headers with all that they include, each once."""
    seen: set[str] = set(_PRELUDE)

    def read(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = _COMMENT.sub("", (headers() / name).read_text(encoding="utf-8"))
        return _INCLUDE.sub(lambda found: read(found[1]), text) + "\n"

    return "".join(map(read, names))


def _declare(kind: str, name: str, value: object) -> str:
    return f"constant constexpr {kind} {name} = {kind}({int(value) if value else 0});"  # type: ignore[call-overload]


def _only(text: str, kernel: str, arguments: list[str], constants: Mapping[str, object]) -> str:
    """Return a text with one of its kernel templates as a kernel and without the others."""
    parts, at = [], 0
    for found in _TEMPLATE.finditer(text):
        closing = matching(text, found.end() - 1)
        head = _KERNEL.match(text, closing + 1)
        if head is None:
            continue
        parts.append(text[at : found.start()])
        end = matching(text, head.end() - 1)
        body = text.index("{", end)
        at = matching(text, body) + 1
        if head[1] == kernel:
            parameters, absent = _buffers(text[head.end() : end], constants)
            parts.append("\n".join(_written_out(text[found.end() : closing], arguments)))
            parts.append(f"\n[[kernel]] void {kernel}({parameters}) {{\n{absent}")
            parts.append(text[body + 1 : at])
    return "".join([*parts, text[at:]])


def _written_out(parameters: str, arguments: list[str]) -> list[str]:
    declared = []
    for index, parameter in enumerate(split(parameters)):
        found = _PARAMETER.fullmatch(" ".join(parameter.split()))
        assert found is not None, parameter
        value = arguments[index] if index < len(arguments) else found["default"]
        if found["kind"] in ("typename", "class"):
            declared.append(f"typedef {value} {found['name']};")
        else:
            declared.append(f"constant constexpr {found['kind']} {found['name']} = {value};")
    return declared


def _buffers(parameters: str, constants: Mapping[str, object]) -> tuple[str, str]:
    """Return the parameters that are there, and declarations of those that are not."""
    kept, absent = [], []
    for parameter in split(parameters):
        condition = _CONDITION.search(parameter)
        if condition is None or constants.get(condition[1]):
            kept.append(_CONDITION.sub("", parameter))
            continue
        declared = parameter.partition("[[")[0].strip()
        if "&" in declared:
            declared = declared.replace("constant ", "").replace("&", "")
        absent.append(f"{declared} = 0;")
    return ", ".join(kept), " ".join(absent)
