"""What the Metal headers accept and reject, as Metal does. One compile judges every snippet."""

from __future__ import annotations

from pathlib import Path

import pytest
from cxx import Cxx, compilers

pytestmark = pytest.mark.skipif(not compilers(), reason="no C++ compiler")

_SNIPPETS = Path(__file__).parent / "snippets"
# Bodies of functions with the parameters below, one a line.
ACCEPTED = (_SNIPPETS / "accepted.metal").read_text().splitlines()
REJECTED = (_SNIPPETS / "rejected.metal").read_text().splitlines()
_HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
_ARGUMENTS = "float4 a, float f, half h, int i, uint u, bfloat b_"


@pytest.fixture(scope="module", params=compilers())
def cxx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cxx:
    return Cxx(command=request.param, folder=tmp_path_factory.mktemp("strictness"))


@pytest.fixture(scope="module")
def errors(cxx: Cxx) -> dict[str, str]:
    snippets = ACCEPTED + REJECTED
    lines = [f"void f{n}({_ARGUMENTS}) {{ {s} }}" for n, s in enumerate(snippets)]
    found = cxx.errors(_HEAD + "\n".join(lines) + "\n")
    return {s: found.get(n + 3, "") for n, s in enumerate(snippets)}


@pytest.mark.parametrize("snippet", ACCEPTED)
def test_accepts(errors: dict[str, str], snippet: str) -> None:
    assert not errors[snippet]


@pytest.mark.parametrize("snippet", REJECTED)
def test_rejects(errors: dict[str, str], snippet: str) -> None:
    assert errors[snippet]


def test_names_types_that_it_does_not_support(errors: dict[str, str]) -> None:
    assert "metal::texture2d is not supported by the emulator" in errors["texture2d<float> t;"]
    assert "Metal has no type 'double'" in errors["double x = 1;"]


@pytest.mark.parametrize(
    "header", ["MetalPerformancePrimitives/MetalPerformancePrimitives.h", "metal_raytracing"]
)
def test_names_headers_that_it_does_not_support(cxx: Cxx, header: str) -> None:
    (message,) = cxx.errors(f"#include <{header}>\n").values()
    assert "is not supported by the emulator" in message
