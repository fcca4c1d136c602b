"""Shapes to tune: recorded from a running model, or read from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from ...core.context import noting_problems
from ...core.plain import from_plain, to_plain
from ...core.problem import Problem
from ...errors import ProblemError
from ...families import problem_types

VERSION = 1


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
        kinds = problem_types()
        content = {"version": VERSION, "problems": [to_plain(one, kinds) for one in self._problems]}
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
        kinds = problem_types()
        return Shapes(tuple(from_plain(one, kinds) for one in content["problems"]))
    except json.JSONDecodeError:
        raise ProblemError(
            "[tune] Expected a file of recorded shapes, JSON that mlx_tilegemm.record() saved, got "
            f"{path}, which is no JSON."
        ) from None
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
