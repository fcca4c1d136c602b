"""Layers that reach MLX's attention function in every way that Python has."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from functools import cached_property, lru_cache, partial, singledispatchmethod, wraps
from typing import Any, ClassVar, cast

import mlx.core as mx
import mlx.core.fast as renamed
import mlx.nn as nn
from mlx.core.fast import scaled_dot_product_attention
from mlx.core.fast import scaled_dot_product_attention as aliased

Attend = Callable[..., Any]
"""A function that attends, whose signature is its own business."""

HALF = partial(scaled_dot_product_attention, scale=0.5)
NESTED = partial(partial(aliased, scale=0.5), mask=None)
BY_KEY: dict[str, Any] = {"fast": aliased, "none": None}
IN_ORDER = [aliased]


def by_function(q: mx.array) -> Any:
    return scaled_dot_product_attention(q, q, q, scale=0.5)


def by_default(q: mx.array, attend: Attend = aliased) -> Any:
    return attend(q, q, q, scale=0.5)


def by_keyword(q: mx.array, *, attend: Attend = aliased) -> Any:
    return attend(q, q, q, scale=0.5)


def made() -> Attend:
    attend = mx.fast.scaled_dot_product_attention

    def by_closure(q: mx.array) -> Any:
        return attend(q, q, q, scale=0.5)

    return by_closure


by_closure = made()


def made_from_module() -> Attend:
    module: Any = types.ModuleType("aliases")
    module.attend = aliased

    def by_closure(q: mx.array) -> Any:
        return module.attend(q, q, q, scale=0.5)

    return by_closure


by_module_of_closure = made_from_module()


def decorated(function: Attend) -> Attend:
    @wraps(function)
    def call(*args: mx.array) -> Any:
        return function(*args)

    return call


by_decorated = decorated(by_function)
by_cache: Any = lru_cache(maxsize=1)(lambda attend_all: by_function)


@mx.compile
def by_compiled(q: mx.array) -> Any:
    return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)


@partial(mx.compile, shapeless=True)
def by_shapeless(q: mx.array) -> Any:
    return by_function(q)


@mx.compile
def by_compiled_default(q: mx.array, attend: Attend = aliased) -> Any:
    return attend(q, q, q, scale=0.5)


@mx.custom_function
def by_custom(q: mx.array) -> Any:
    return aliased(q, q, q, scale=0.5)


class Attending:
    def __init__(self) -> None:
        self.attend = aliased

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q, q, q, scale=0.5)

    def idle(self, q: mx.array) -> mx.array:
        return q


BY_OBJECT = Attending()


class Helper:
    """No layer, but an object whose methods attend."""

    table: ClassVar[dict[str, Attend]] = {"fast": aliased}

    def attend(self, q: mx.array) -> Any:
        return self.inner(q)

    def inner(self, q: mx.array) -> Any:
        return scaled_dot_product_attention(q, q, q, scale=0.5)

    @classmethod
    def of_class(cls, q: mx.array) -> Any:
        return cls.half(q)

    @classmethod
    def half(cls, q: mx.array) -> Any:
        return scaled_dot_product_attention(q, q, q, scale=0.5)


HELPER = Helper()
SPACE = types.SimpleNamespace(attend=aliased)


class ByName(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return scaled_dot_product_attention(q, q, q, scale=0.5)


class ByAlias(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return aliased(q, q, q, scale=0.5)


class ByModuleAlias(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return renamed.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByVariable(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        fast = mx.fast
        attend = fast.scaled_dot_product_attention
        return attend(q, q, q, scale=0.5)


class ByLocalImport(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        from mlx.core.fast import scaled_dot_product_attention as attend

        return attend(q, q, q, scale=0.5)


class ByString(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return getattr(mx.fast, "scaled_dot_product_attention")(q, q, q, scale=0.5)  # noqa: B009


class ByPartial(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return HALF(q, q, q)


class ByNestedPartial(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return NESTED(q, q, q)


class ByLocalPartial(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return functools.partial(mx.fast.scaled_dot_product_attention, scale=0.5)(q, q, q)


class ByDictionary(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return BY_KEY["fast"](q, q, q, scale=0.5)


class ByList(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return IN_ORDER[0](q, q, q, scale=0.5)


class ByDefault(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_default(q)


class ByOwnDefault(nn.Module):
    def __call__(self, q: mx.array, attend: Attend = aliased) -> Any:
        return attend(q, q, q, scale=0.5)


class ByKeyword(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_keyword(q)


class ByClosure(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_closure(q)


class ByModuleOfClosure(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_module_of_closure(q)


class ByVariableOfLambda(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        fast = mx.fast
        return (lambda x: fast.scaled_dot_product_attention(x, x, x, scale=0.5))(q)


class ByModuleAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.functions = mx.fast

    def __call__(self, q: mx.array) -> Any:
        return self.functions.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByDecorated(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_decorated(q)


class ByCached(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_cache(True)(q)


class ByCompiled(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_compiled(q)


class ByCompiledDefault(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_compiled_default(q)


class ByCustom(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_custom(q)


class ByShapeless(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return by_shapeless(q)


class ByObject(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return BY_OBJECT(q)


class ByLambda(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return (lambda x: mx.fast.scaled_dot_product_attention(x, x, x, scale=0.5))(q)


class ByAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attend = mx.fast.scaled_dot_product_attention

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q, q, q, scale=0.5)


class ByPartialAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attend = partial(mx.fast.scaled_dot_product_attention, scale=0.5)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q, q, q)


class ByFunctionAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attend = by_function

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q)


class ByDictionaryAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.functions = {"fast": mx.fast.scaled_dot_product_attention}

    def __call__(self, q: mx.array) -> Any:
        return self.functions["fast"](q, q, q, scale=0.5)


class ByClassAttribute(nn.Module):
    attend: Any = mx.fast.scaled_dot_product_attention

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q, q, q, scale=0.5)


class ByStaticAttribute(nn.Module):
    attend = staticmethod(mx.fast.scaled_dot_product_attention)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q, q, q, scale=0.5)


class ByStaticMethod(nn.Module):
    @staticmethod
    def attend(q: mx.array) -> Any:
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q)


class ByClassMethod(nn.Module):
    @classmethod
    def attend(cls, q: mx.array) -> Any:
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q)


class ByProperty(nn.Module):
    @property
    def attend(self) -> Attend:
        return lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q)


class ByCachedProperty(nn.Module):
    @cached_property
    def attend(self) -> Attend:
        return lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q)


class Mixin:
    def __call__(self, q: mx.array) -> Any:
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByMixin(Mixin, nn.Module):
    pass


class ByParent(ByName):
    def __call__(self, q: mx.array) -> Any:
        return super().__call__(q)


class ByClassName(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return ByName.__call__(cast(Any, self), q)


class ByMethodOfObject(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return HELPER.attend(q)


class ByTableOfObject(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return HELPER.table["fast"](q, q, q, scale=0.5)


class ByClassMethodOfClass(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return Helper.of_class(q)


class ByNamespace(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return SPACE.attend(q, q, q, scale=0.5)


class ByModuleImportedInside(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        import attention_layers

        return attention_layers.by_function(q)


class ByDispatch(nn.Module):
    @singledispatchmethod
    def attend(self, q: mx.array) -> Any:
        return scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q: mx.array) -> Any:
        return self.attend(q)


class Attending:
    """A class of which calls make objects."""

    def __init__(self, q: mx.array, scale: float = 0.5) -> None:
        self.q, self.scale = q, scale

    def __call__(self) -> Any:
        return self.attend()

    def attend(self) -> Any:
        return mx.fast.scaled_dot_product_attention(self.q, self.q, self.q, scale=self.scale)


class AttendingAtOnce:
    def __init__(self, q: mx.array) -> None:
        self.result = mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByObjectMadeInside(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return Attending(q)()


class ByMethodOfObjectMadeInside(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        made = Attending(q)
        return made.attend()


class ByMaking(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return AttendingAtOnce(q).result


class ByLayerMadeInside(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        return ByMaking()(q)


class ByImportlib(nn.Module):
    def __call__(self, q: mx.array) -> Any:
        fast = importlib.import_module("mlx.core.fast")
        return fast.scaled_dot_product_attention(q, q, q, scale=0.5)


LAYERS = [kind for name, kind in list(globals().items()) if name.startswith("By") and name[2:3]]


class CallsNothingThatAttends(nn.Module):
    """A layer that uses one method of an object of which another attends."""

    def __call__(self, q: mx.array) -> Any:
        return BY_OBJECT.idle(q)


class OwnName(nn.Module):
    """A layer with a method that only is called like MLX's function."""

    def scaled_dot_product_attention(self, q: mx.array) -> Any:
        return mx.softmax(q @ q.swapaxes(-1, -2), axis=-1) @ q

    def __call__(self, q: mx.array) -> Any:
        return self.scaled_dot_product_attention(q)


class OwnParentsName(OwnName):
    def __call__(self, q: mx.array) -> Any:
        return super().scaled_dot_product_attention(q)
