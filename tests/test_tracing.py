"""Whether MLX is following a function."""

import threading
from contextlib import contextmanager

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.call import transforms
from mlx_tilegemm.core import tracing
from mlx_tilegemm.core.tracing import is_traced

X = mx.ones((3,))


def answers(transform):
    """Return what `is_traced` says inside the function that ``transform`` makes MLX follow."""
    found = []

    def followed(x):
        found.append(is_traced())
        return mx.sum(x * x)

    transform(followed)
    return found


TRANSFORMS = {
    "grad": lambda f: mx.grad(f)(X),
    "vjp": lambda f: mx.vjp(f, [X], [mx.ones(())]),
    "jvp": lambda f: mx.jvp(f, [X], [X]),
    "vmap": lambda f: mx.vmap(f)(X[None]),
    "compile": lambda f: mx.compile(f)(X),
    "checkpoint": lambda f: mx.grad(mx.checkpoint(f))(X),
    "export": lambda f: mx.export_function(lambda _: None, f, X),
    "second derivative": lambda f: mx.grad(lambda x: mx.sum(mx.grad(f)(x)))(X),
}


@pytest.fixture(autouse=True)
def asked_before():
    """Ask before and after: nothing is followed then."""
    assert not is_traced()
    yield
    assert not is_traced()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_yes_inside_every_transform(name):
    found = answers(TRANSFORMS[name])
    assert found
    assert all(found)


@pytest.mark.parametrize("name", [None, *TRANSFORMS])
def test_the_first_question_of_a_thread_is_answered_too(name):
    found = []

    def ask():
        found.extend(answers(TRANSFORMS[name]) if name else [is_traced()])
        found.append(is_traced())
        mx.clear_streams()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(found) >= 2
    assert all(found[:-1]) == (name is not None)
    assert not found[-1]


def test_no_outside():
    assert answers(lambda f: f(X)) == [False]


def test_yes_where_arrays_have_lost_their_mark():
    # MLX forgets that what an inner gradient computed depends on an outer one's argument.
    found = []

    def outer(x):
        value, gradient = mx.value_and_grad(lambda y: mx.sum(y * y))(x)
        found.append(is_traced())
        return value * mx.sum(gradient)

    mx.grad(outer)(X)
    assert found == [True]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_first_question_may_come_inside(name):
    tracing._probes.cache_clear()
    assert all(answers(TRANSFORMS[name]))
    is_traced()
    assert not is_traced()


def test_no_after_a_function_that_raises():
    def raising(x):
        raise KeyError

    with pytest.raises(KeyError):
        mx.grad(raising)(X)
    assert not is_traced()


def test_threads_do_not_see_each_other():
    found = []

    def ask():
        found.extend([is_traced(), is_traced()])

    def followed(x):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return mx.sum(x)

    mx.grad(followed)(X)
    assert found == [False, False]


def test_always_yes_without_compilation():
    mx.disable_compile()
    try:
        assert is_traced()
    finally:
        mx.enable_compile()


@pytest.mark.parametrize("answer", [True, False])
def test_a_probe_that_answers_by_chance_is_found_out(answer, monkeypatch):
    monkeypatch.setattr(
        tracing, "_make_probes", lambda: tracing.Probes(lambda: answer, lambda: False)
    )
    tracing._probes.cache_clear()
    try:
        assert is_traced()
    finally:
        monkeypatch.undo()
        tracing._probes.cache_clear()
        is_traced()


def test_calls_carry_derivatives_only_there(lazy):
    a, b = mx.ones((17, 33)), mx.ones((33, 9))
    made = []
    plain = mx.custom_function

    def recorded(function):
        made.append(function.__module__)  # the stand-in for Metal makes one too
        return plain(function)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx, "custom_function", recorded)
        tg.matmul(a, b)
        assert transforms.__name__ not in made
        gradient = mx.grad(lambda x: mx.sum(tg.matmul(x, b)))(a)
    assert transforms.__name__ in made
    assert mx.array_equal(gradient, mx.full((17, 33), 9.0))


def test_compiled_functions_may_run_again_for_another_device(monkeypatch):
    """MLX compiles a function anew for each device, so that a first answer there would be yes."""
    compile_once, now = mx.compile, [mx.gpu]

    def compiled(function, **options):
        made = {}

        def call(x):
            if now[0] not in made:
                made[now[0]] = compile_once(lambda y: function(y), **options)
            return made[now[0]](x)

        return call

    @contextmanager
    def stream(device):
        before, now[0] = now[0], device
        yield
        now[0] = before

    monkeypatch.setattr(mx, "compile", compiled)
    monkeypatch.setattr(mx, "stream", stream)
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    assert tracing._work(tracing._make_probes())
