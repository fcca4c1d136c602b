"""Layers that reach MLX's attention function in every way that Python has."""

from __future__ import annotations

import functools
import types
from functools import cached_property, lru_cache, partial, wraps

import mlx.core as mx
import mlx.core.fast as renamed
import mlx.nn as nn
from mlx.core.fast import scaled_dot_product_attention
from mlx.core.fast import scaled_dot_product_attention as aliased

HALF = partial(scaled_dot_product_attention, scale=0.5)
NESTED = partial(partial(aliased, scale=0.5), mask=None)
BY_KEY = {"fast": aliased, "none": None}
IN_ORDER = [aliased]


def by_function(q):
    return scaled_dot_product_attention(q, q, q, scale=0.5)


def by_default(q, attend=aliased):
    return attend(q, q, q, scale=0.5)


def by_keyword(q, *, attend=aliased):
    return attend(q, q, q, scale=0.5)


def made():
    attend = mx.fast.scaled_dot_product_attention

    def by_closure(q):
        return attend(q, q, q, scale=0.5)

    return by_closure


by_closure = made()


def made_from_module():
    module = types.ModuleType("aliases")
    module.attend = aliased

    def by_closure(q):
        return module.attend(q, q, q, scale=0.5)

    return by_closure


by_module_of_closure = made_from_module()


def decorated(function):
    @wraps(function)
    def call(*args):
        return function(*args)

    return call


by_decorated = decorated(by_function)
by_cache = lru_cache(maxsize=1)(lambda attend_all: by_function)


@mx.compile
def by_compiled(q):
    return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)


@partial(mx.compile, shapeless=True)
def by_shapeless(q):
    return by_function(q)


@mx.compile
def by_compiled_default(q, attend=aliased):
    return attend(q, q, q, scale=0.5)


@mx.custom_function
def by_custom(q):
    return aliased(q, q, q, scale=0.5)


class Callable:
    def __init__(self):
        self.attend = aliased

    def __call__(self, q):
        return self.attend(q, q, q, scale=0.5)


BY_OBJECT = Callable()


class ByName(nn.Module):
    def __call__(self, q):
        return scaled_dot_product_attention(q, q, q, scale=0.5)


class ByAlias(nn.Module):
    def __call__(self, q):
        return aliased(q, q, q, scale=0.5)


class ByModuleAlias(nn.Module):
    def __call__(self, q):
        return renamed.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByVariable(nn.Module):
    def __call__(self, q):
        fast = mx.fast
        attend = fast.scaled_dot_product_attention
        return attend(q, q, q, scale=0.5)


class ByLocalImport(nn.Module):
    def __call__(self, q):
        from mlx.core.fast import scaled_dot_product_attention as attend

        return attend(q, q, q, scale=0.5)


class ByString(nn.Module):
    def __call__(self, q):
        return getattr(mx.fast, "scaled_dot_product_attention")(q, q, q, scale=0.5)  # noqa: B009


class ByPartial(nn.Module):
    def __call__(self, q):
        return HALF(q, q, q)


class ByNestedPartial(nn.Module):
    def __call__(self, q):
        return NESTED(q, q, q)


class ByLocalPartial(nn.Module):
    def __call__(self, q):
        return functools.partial(mx.fast.scaled_dot_product_attention, scale=0.5)(q, q, q)


class ByDictionary(nn.Module):
    def __call__(self, q):
        return BY_KEY["fast"](q, q, q, scale=0.5)


class ByList(nn.Module):
    def __call__(self, q):
        return IN_ORDER[0](q, q, q, scale=0.5)


class ByDefault(nn.Module):
    def __call__(self, q):
        return by_default(q)


class ByOwnDefault(nn.Module):
    def __call__(self, q, attend=aliased):
        return attend(q, q, q, scale=0.5)


class ByKeyword(nn.Module):
    def __call__(self, q):
        return by_keyword(q)


class ByClosure(nn.Module):
    def __call__(self, q):
        return by_closure(q)


class ByModuleOfClosure(nn.Module):
    def __call__(self, q):
        return by_module_of_closure(q)


class ByVariableOfLambda(nn.Module):
    def __call__(self, q):
        fast = mx.fast
        return (lambda x: fast.scaled_dot_product_attention(x, x, x, scale=0.5))(q)


class ByModuleAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.functions = mx.fast

    def __call__(self, q):
        return self.functions.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByDecorated(nn.Module):
    def __call__(self, q):
        return by_decorated(q)


class ByCached(nn.Module):
    def __call__(self, q):
        return by_cache(True)(q)


class ByCompiled(nn.Module):
    def __call__(self, q):
        return by_compiled(q)


class ByCompiledDefault(nn.Module):
    def __call__(self, q):
        return by_compiled_default(q)


class ByCustom(nn.Module):
    def __call__(self, q):
        return by_custom(q)


class ByShapeless(nn.Module):
    def __call__(self, q):
        return by_shapeless(q)


class ByObject(nn.Module):
    def __call__(self, q):
        return BY_OBJECT(q)


class ByLambda(nn.Module):
    def __call__(self, q):
        return (lambda x: mx.fast.scaled_dot_product_attention(x, x, x, scale=0.5))(q)


class ByAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = mx.fast.scaled_dot_product_attention

    def __call__(self, q):
        return self.attend(q, q, q, scale=0.5)


class ByPartialAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = partial(mx.fast.scaled_dot_product_attention, scale=0.5)

    def __call__(self, q):
        return self.attend(q, q, q)


class ByFunctionAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = by_function

    def __call__(self, q):
        return self.attend(q)


class ByDictionaryAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.functions = {"fast": mx.fast.scaled_dot_product_attention}

    def __call__(self, q):
        return self.functions["fast"](q, q, q, scale=0.5)


class ByClassAttribute(nn.Module):
    attend = mx.fast.scaled_dot_product_attention

    def __call__(self, q):
        return self.attend(q, q, q, scale=0.5)


class ByStaticAttribute(nn.Module):
    attend = staticmethod(mx.fast.scaled_dot_product_attention)

    def __call__(self, q):
        return self.attend(q, q, q, scale=0.5)


class ByStaticMethod(nn.Module):
    @staticmethod
    def attend(q):
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q):
        return self.attend(q)


class ByClassMethod(nn.Module):
    @classmethod
    def attend(cls, q):
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q):
        return self.attend(q)


class ByProperty(nn.Module):
    @property
    def attend(self):
        return lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q):
        return self.attend(q)


class ByCachedProperty(nn.Module):
    @cached_property
    def attend(self):
        return lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)

    def __call__(self, q):
        return self.attend(q)


class Mixin:
    def __call__(self, q):
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)


class ByMixin(Mixin, nn.Module):
    pass


class ByParent(ByName):
    def __call__(self, q):
        return super().__call__(q)


class ByClassName(nn.Module):
    def __call__(self, q):
        return ByName.__call__(self, q)


LAYERS = [kind for name, kind in list(globals().items()) if name.startswith("By") and name[2:3]]


class OwnName(nn.Module):
    """A layer with a method that only is called like MLX's function."""

    def scaled_dot_product_attention(self, q):
        return mx.softmax(q @ q.swapaxes(-1, -2), axis=-1) @ q

    def __call__(self, q):
        return self.scaled_dot_product_attention(q)


class OwnParentsName(OwnName):
    def __call__(self, q):
        return super().scaled_dot_product_attention(q)
