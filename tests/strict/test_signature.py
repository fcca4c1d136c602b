"""Our idea of the text MLX writes is MLX's own."""

from __future__ import annotations

import mlx.core as mx
import pytest
from rendered import every_text

from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.dtypes import FLOAT16, FLOAT32, INT8
from mlx_tilegemm.core.plan import Launch, Sizes, Source
from mlx_tilegemm.strict.lint import ATTRIBUTES
from mlx_tilegemm.strict.signature import argument, compare, expected_text, trace

HEADER = "// A header.\n"


def source(body: str, inputs=("a",), outputs=("out",), header=HEADER) -> Source:
    return Source(name="probe", header=header, body=body, input_names=inputs, output_names=outputs)


def launch(grid=(64, 2, 3), threadgroup=(32, 1, 1), shapes=((4,),), dtypes=(FLOAT32,)) -> Launch:
    return Launch(
        grid=grid,
        threadgroup=threadgroup,
        sizes=Sizes(),
        output_shapes=shapes,
        output_dtypes=dtypes,
    )


def differences(kernel: Source, how: Launch, arrays, passed: Launch | None = None):
    call = passed or how
    traced = trace(
        MetalBackend().compile(kernel),
        {
            "inputs": arrays,
            "output_shapes": list(call.output_shapes),
            "output_dtypes": [dtype.mlx for dtype in call.output_dtypes],
            "grid": call.grid,
            "threadgroup": call.threadgroup,
        },
    )
    return compare(kernel, how, [argument(array) for array in arrays], traced)


@pytest.mark.parametrize("size", range(12))
def test_address_space_of_small_inputs(size):
    kernel = source("out[0] = a[0];")
    assert differences(kernel, launch(), [mx.zeros(size)]) == ()
    space = "constant" if size < 8 else "device"
    text = expected_text(kernel, [argument(mx.zeros(size))], [argument(mx.zeros(4))])
    assert f"const {space} float* a [[buffer(0)]]" in text


def test_input_without_axes_is_a_reference():
    kernel = source("out[0] = a;")
    assert differences(kernel, launch(), [mx.array(2.0)]) == ()
    text = expected_text(kernel, [argument(mx.array(2.0))], [argument(mx.zeros(4))])
    assert "const constant float& a [[buffer(0)]]" in text


@pytest.mark.parametrize("offset", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_views_at_odd_offsets(size, offset):
    view = mx.arange(32, dtype=mx.float16)[offset : offset + size]
    assert differences(source("out[0] = a[0];"), launch(), [view]) == ()


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "bfloat16", "bool_", "complex64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)],
)
def test_every_input_dtype(dtype):
    array = mx.zeros((3, 5), dtype=getattr(mx, dtype))
    assert differences(source("out[0] = 1.0f;"), launch(), [array]) == ()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute(name):
    kernel = source(f"out[0] = float({name}{'.x' if ATTRIBUTES[name] == 'uint3' else ''});")
    assert differences(kernel, launch(), [mx.zeros(9)]) == ()


def test_all_attributes_keep_their_order():
    body = "\n".join(reversed(ATTRIBUTES))
    assert differences(source(body), launch(), [mx.zeros(9)]) == ()


@pytest.mark.parametrize("body", ["a_shape;", "a_strides; a_ndim;", "b_ndim; a_shape; // b_shape"])
def test_shapes_strides_and_ranks(body):
    kernel = source(f"{body} thread_position_in_grid;", inputs=("a", "b"))
    assert differences(kernel, launch(), [mx.zeros((2, 9)), mx.array(1)]) == ()
    assert differences(kernel, launch(), [mx.zeros(3), mx.zeros((2, 2))]) == ()


def test_several_outputs():
    how = launch(shapes=((2, 3), (), (4,)), dtypes=(FLOAT16, INT8, FLOAT32))
    kernel = source("o[0] = 1;", inputs=(), outputs=("o", "p", "q"))
    assert differences(kernel, how, []) == ()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (launch(grid=(32, 2, 3)), "grid"),
        (launch(threadgroup=(64, 1, 1)), "threadgroup"),
        (launch(shapes=((5,),)), "outputs"),
        (launch(dtypes=(FLOAT16,)), "name"),
    ],
)
def test_a_different_launch_is_found(how, what):
    found = differences(source("out[0] = 1;"), how, [mx.zeros(9)], passed=launch())
    assert any(one.message.startswith(what) for one in found)


def test_a_different_text_is_found():
    kernel = source("out[0] = 1;")
    traced = trace(
        MetalBackend().compile(kernel),
        {
            "inputs": [mx.zeros(9)],
            "output_shapes": [(4,)],
            "output_dtypes": [mx.float32],
            "grid": (64, 2, 3),
            "threadgroup": (32, 1, 1),
        },
    )
    found = compare(source("out[0] = 2;"), launch(), [argument(mx.zeros(9))], traced)
    assert [one.message.split(":")[0] for one in found] == ["line 4"] or found


@pytest.mark.slow
def test_every_text_is_the_one_mlx_writes():
    for one in every_text():
        assert compare(one.source, one.stage.launch, one.inputs, one.traced) == ()


@pytest.mark.slow
def test_one_name_for_one_text():
    texts: dict[str, str] = {}
    for one in every_text():
        assert texts.setdefault(one.traced.name, one.traced.text) == one.traced.text
    assert len(set(texts.values())) == len(texts) == len(every_text())
