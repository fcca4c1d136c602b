"""Spelling of problems on the command line: sizes, dtypes and a last word, with colons between."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ..errors import ProblemError
from .dtypes import from_mlx, mlx_dtype


@dataclass(frozen=True, slots=True)
class Spelled:
    """A text that spells a problem, cut up.

    Attributes:
        option: The option it is given to, for messages.
        form: The form it should have, for messages.
        text: The text.
        sizes: Its sizes, all at least 1.
        dtypes: Names of dtypes, separated by commas; empty where none are given.
        word: What comes last; empty where nothing does.
    """

    option: str
    form: str
    text: str
    sizes: tuple[int, ...]
    dtypes: str
    word: str

    def wrong(self, form: str = "") -> ProblemError:
        """Return the error that says which form was expected."""
        return _wrong(self.option, form or self.form, self.text)

    def mlx_dtypes(self, count: int) -> list[mx.Dtype]:
        """Return so many MLX dtypes: one for each operand, or one for all of them.

        Raises:
            ProblemError: There are others, or unknown ones.
        """
        names = (self.dtypes or "f32").split(",")
        form = f"one dtype or {count}, such as f16,bf16"
        try:
            found = [mlx_dtype(name) for name in names]
        except ValueError as error:
            raise self.wrong(f"{form}, each {error}") from None
        if len(found) == 1:
            found *= count
        if len(found) != count or any(from_mlx(one) is None for one in found):
            raise self.wrong(form)
        return found


def spelled(option: str, form: str, text: str) -> Spelled:
    """Cut up ``sizes[:dtypes[:word]]``, such as ``512x4096x4096:f16,bf16:nt``.

    Raises:
        ProblemError: It is none.
    """
    parts = text.split(":")
    if len(parts) > 3:
        raise _wrong(option, form, text)
    parts += [""] * (3 - len(parts))
    try:
        sizes = tuple(int(size) for size in parts[0].split("x"))
    except ValueError:
        raise _wrong(option, form, text) from None
    if min(sizes) < 1:
        raise _wrong(option, form, text)
    return Spelled(option, form, text, sizes, parts[1], parts[2])


def _wrong(option: str, form: str, text: str) -> ProblemError:
    return ProblemError(f"[tune] Expected {option} to be {form}, got {text!r}.")
