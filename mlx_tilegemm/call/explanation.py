"""Say what a call would do, and why, without doing it.

`explain` takes an op and its arguments, or only their shapes and dtypes, and returns every fact the
choice was made from. Nothing is compiled or evaluated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import mlx.core as mx

from ..backends import resolve
from ..backends.launch import kernel_run
from ..backends.metal import MetalBackend, generated_texts
from ..backends.rounding import rounds_float32
from ..core.arguments import ArraySpec, as_spec
from ..core.context import current_settings
from ..core.dtypes import mlx_name
from ..core.family import Op
from ..core.plan import Plan, Source
from ..core.problem import Problem
from ..dispatch import MLX, Candidate, Decision, microseconds
from ..errors import DTypeError, ProblemError
from ..families import family_of, ops
from ..machine.chips import Chip, detect, get
from ..machine.limits import threads_per_core
from .choice import chosen
from .compiled import Compiled, compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Explanation of a call: what it would do, and why; ``str()`` of it is readable.

    Attributes:
        op: Name of the op.
        operands: Shape and dtype of every array, by name.
        options: Every other argument that differs from its default, by name.
        backend: Where the call would run: ``metal``, ``emulator`` or ``mlx``; with a chip named, on
            a Mac with this chip.
        backend_reason: Why there.
        chip: The chip that was planned for.
        problem: What is asked; None for dtypes that only MLX's own ops take.
        solved: What the plan solves: the problem, or the one that its derivatives need.
        decision: The dispatcher's choice; None without a problem.
        notes: What else is worth knowing about this call.
        canary: What is known of the kernel on this machine; empty where it need not prove itself.
        elsewhere: Why MLX's own ops serve a call without a problem; empty with one.
    """

    op: str
    operands: dict[str, ArraySpec]
    options: dict[str, object]
    backend: str
    backend_reason: str
    chip: Chip
    problem: Problem | None
    solved: Problem | None
    decision: Decision | None
    notes: tuple[str, ...]
    canary: str = ""
    elsewhere: str = ""

    @property
    def plan(self) -> Plan | None:
        """The kernel chosen for the chip, whatever the backend; None where MLX's ops serve."""
        return self.decision.plan if self.decision else None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every kernel considered, with its time or the reason it was refused."""
        return self.decision.candidates if self.decision else ()

    @property
    def tied(self) -> tuple[str, ...]:
        """Names of the candidates whose times the chosen one's cannot be told from."""
        return self.decision.tied if self.decision else ()

    @property
    def mlx(self) -> Candidate | None:
        """Candidate of MLX's own ops: their path on the chip, and its time; None if they cannot."""
        return self.decision.mlx if self.decision else None

    @property
    def ours(self) -> Candidate | None:
        """Candidate of `plan`, or where MLX's ops serve the fastest that may; None without any."""
        legal = [one for one in self.candidates if one.seconds is not None]
        chosen = next((one for one in legal if str(one) == str(self.plan)), None)
        return chosen or min(legal, key=lambda one: one.seconds or 0.0, default=None)

    @property
    def route(self) -> str:
        """Name of what would serve the call: the kernel's, or ``mlx`` for MLX's own ops."""
        return self.plan.kernel if self.plan and self.backend != "mlx" else "mlx"

    @property
    def reason(self) -> str:
        """Why the call takes its route."""
        if self.decision is None:
            return self.elsewhere
        if self.backend == "mlx" and self.plan:
            return f"MLX's own ops serve: {self.backend_reason}"
        return self.decision.reason

    @property
    def sources(self) -> tuple[Source, ...]:
        """The rendered kernels of `plan`, in the order they run."""
        if self.plan is None:
            return ()
        # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
        from ..core.render import render

        return tuple(render(stage.spec) for stage in self.plan.stages)

    @property
    def source(self) -> Source | None:
        """The first of `sources`, and nearly always the only one."""
        return self.sources[0] if self.sources else None

    @property
    def text(self) -> str | None:
        """The complete Metal text of `plan` as MLX passes it on: header, signature and body."""
        return "\n".join(self._texts) if self._texts else None

    @property
    def _texts(self) -> tuple[str, ...]:
        """The complete Metal text of each launch of `plan`."""
        if self.plan is None or self.solved is None:
            return ()
        operands = [mx.zeros(one.stored_shape, dtype=one.mlx) for one in self.solved.operands]
        run = kernel_run(self.solved, self.plan, MetalBackend())
        factors = (1,) * len(self.solved.factors)
        return generated_texts(lambda arrays: run(arrays, factors, None), operands)

    @property
    def compiled(self) -> tuple[Compiled | None, ...]:
        """Registers of each launch of `plan` by Mesa's compiler for M1, where it was asked."""
        return tuple(map(compiled, self._texts))

    def to_dict(self) -> dict[str, object]:
        """Return everything but texts as what JSON holds; times are in seconds."""
        on_kernels = self.plan is not None and self.route != MLX
        return {
            "op": self.op,
            "operands": {name: _plain_spec(spec) for name, spec in self.operands.items()},
            "options": {name: _plain_option(value) for name, value in self.options.items()},
            "results": [
                {"name": one.name, "shape": list(one.shape), "dtype": one.dtype.name}
                for one in (self.problem.results if self.problem else ())
            ],
            "problem": str(self.problem) if self.problem else None,
            "backend": self.backend,
            "backend_reason": self.backend_reason,
            "chip": self.chip.name,
            "route": self.route,
            "plan": str(self.plan) if on_kernels else None,
            "reason": self.reason,
            "launches": _plain_launches(self) if on_kernels else [],
            "canary": self.canary,
            "notes": list(self.notes),
            "candidates": [_plain_candidate(one) for one in self.candidates],
            "tied": list(self.tied),
            "ours": _plain_candidate(self.ours) if self.ours else None,
            "mlx": _plain_candidate(self.mlx) if self.mlx else None,
            "measured_on": self.decision.where if self.decision else "",
        }

    def __str__(self) -> str:
        lines = [
            f"[{self.op}] {_arguments_text(self)}{_result_text(self.problem)}",
            f"  backend  {self.backend}: {self.backend_reason}",
            f"  chip     {self.chip.name}",
            f"  route    {self.plan if self.route != 'mlx' else 'mlx'}",
            f"  because  {self.reason}",
        ]
        if self.ours or self.mlx:
            lines.append(f"  times    {_against(self.ours, self.mlx)}")
        if self.canary:
            lines.append(f"  canary   {self.canary}")
        if self.plan and self.route != "mlx":
            lines += _plan_lines(self, self.plan)
        lines += [f"  note     {note}" for note in self.notes]
        if self.candidates:
            where = self.decision.where if self.decision else ""
            lines += ["", *_candidate_lines(self.candidates, self.plan, self.mlx, where, self.tied)]
        return "\n".join(lines)


def _plain_spec(spec: ArraySpec) -> dict[str, object]:
    return {"shape": list(spec.shape), "dtype": mlx_name(spec.dtype)}


def _plain_launches(explanation: Explanation) -> list[dict[str, object]]:
    stages = explanation.plan.stages if explanation.plan else ()
    return [
        {
            "grid": list(stage.launch.grid),
            "threadgroup": list(stage.launch.threadgroup),
            "threads": stage.resources.threads,
            "threadgroup_bytes": stage.resources.threadgroup_bytes,
            "registers": stage.resources.registers,
            "registers_compiled": asdict(found) if found else None,
            "threads_per_core": threads_per_core(stage.resources, explanation.chip),
        }
        for stage, found in zip(stages, explanation.compiled, strict=True)
    ]


def _plain_candidate(one: Candidate) -> dict[str, object]:
    low, high = one.spread or (None, None)
    return {
        "kernel": one.kernel,
        "config": one.config,
        "seconds": one.seconds,
        "measured": one.measured,
        "low": low,
        "high": high,
        "refused": one.reason,
    }


def _plain_option(value: object) -> object:
    if isinstance(value, mx.Dtype):
        return mlx_name(value)
    if isinstance(value, mx.array):
        return f"array {mlx_name(value.dtype)} {list(value.shape)}"
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _arguments_text(explanation: Explanation) -> str:
    operands = (
        f"{name} {mlx_name(spec.dtype)} {list(spec.shape)}"
        for name, spec in explanation.operands.items()
    )
    options = (f"{name}={_plain_option(value)}" for name, value in explanation.options.items())
    return ", ".join([*operands, *options])


def _result_text(problem: Problem | None) -> str:
    if problem is None:
        return ""
    results = (f"{one.dtype} {list(one.shape)}" for one in problem.results[:1])
    return " -> " + ", ".join(results)


def _plan_lines(explanation: Explanation, plan: Plan) -> list[str]:
    lines = []
    for stage, found in zip(plan.stages, explanation.compiled, strict=True):
        launch, needs = stage.launch, stage.resources
        known = f"estimated; {found}" if found else "estimated"
        lines += [
            f"  launch   grid {launch.grid}, threadgroup {launch.threadgroup}",
            f"  needs    {needs.threads} threads, {needs.threadgroup_bytes} bytes of threadgroup "
            f"memory, about {needs.registers} registers a thread ({known})",
            f"  core     holds {threads_per_core(needs, explanation.chip)} such threads at a time",
        ]
    return lines


def _candidate_lines(
    candidates: tuple[Candidate, ...],
    plan: Plan | None,
    mlx: Candidate | None,
    where: str,
    tied: tuple[str, ...],
) -> list[str]:
    times = f"time, measured on {where}, or modelled" if where else "modelled time"
    rows = [("candidate", f"{times}, or why it was refused")]
    # Neighbours that are refused for one reason share a line.
    for (kernel, reason), group in groupby(candidates, key=lambda one: (one.kernel, one.reason)):
        members = list(group)
        if reason is None:
            rows += [(str(one), _time_text(one, where)) for one in members]
        elif len(members) > 1:
            rows.append((f"{kernel} ({len(members)} configurations)", f"refused: {reason}"))
        else:
            rows.append((str(members[0]), f"refused: {reason}"))
    if mlx is not None and mlx.seconds is not None:
        refused = f"; refused: {mlx.reason}" if mlx.reason else ""
        rows.append((str(mlx), f"{_time_text(mlx, where)}, by MLX's own ops{refused}"))
    width = max(len(name) for name, _ in rows)
    marks = dict.fromkeys(tied, "=") | {str(plan): "*"}
    return [f"  {marks.get(name, ' ')} {name:{width}}  {text}" for name, text in rows]


def _against(ours: Candidate | None, mlx: Candidate | None) -> str:
    """Return the times of a kernel and of MLX's own ops, as far as there are any."""
    sides = [f"ours {_worded(ours)}" if ours else "no kernel of ours"]
    sides.append(f"MLX's {_worded(mlx)}" if mlx else "MLX's own ops cannot stand in")
    return ", ".join(sides)


def _worded(candidate: Candidate) -> str:
    return f"{microseconds(candidate)} {'measured' if candidate.measured else 'modelled'}"


def _time_text(candidate: Candidate, where: str) -> str:
    text = microseconds(candidate)
    if candidate.spread is not None:
        low, high = candidate.spread
        return f"{text} measured ({low * 1e6:.2f} to {high * 1e6:.2f})"
    return f"{text} modelled" if where else text


def explain(
    op: Callable[..., Any] | str, /, *args: object, chip: Chip | str | None = None, **kwargs: object
) -> Explanation:
    """Return what ``op(*args, **kwargs)`` would do, and why, without doing it.

    Args:
        op: An op of this library, such as `matmul`, or its name.
        *args: Its positional arguments: arrays, or `ArraySpec` where there is no data.
        chip: Plan as a Mac with this chip would, for example ``"m1"``, by modelled times; None is
            this machine.
        **kwargs: Its keyword arguments.

    Raises:
        ProblemError: An unknown op or chip, or what the op itself would raise.
        DTypeError: What the op itself would raise.
        IllegalKernelError: `use_kernel` forces a kernel that may not serve the call.

    Example:
        >>> x = ArraySpec(shape=(100, 300), dtype=mx.float16)
        >>> w = ArraySpec(shape=(70, 300), dtype=mx.float32)
        >>> print(explain(matmul, x, w, transpose_b=True, chip="m1"))
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
    known = ops().get(name)
    if known is None or (known.function is not op and op != name):
        raise ProblemError(
            f"[explain] Expected one of {', '.join(ops())} of mlx_tilegemm, or its name, got "
            f"{_described(op)}."
        )
    try:
        bound = inspect.signature(known.function).bind(*args, **kwargs)
    except TypeError as error:
        names = ", ".join(inspect.signature(known.function).parameters)
        raise DTypeError(f"[{name}] Expected arguments among {names}: {error}.") from None
    bound.apply_defaults()
    known_chip = chip if chip is None or isinstance(chip, Chip) else get(chip)
    return _explain(known, bound.arguments, known_chip)


def _described(op: object) -> str:
    if isinstance(op, str):
        return repr(op)
    module, name = getattr(op, "__module__", None), getattr(op, "__name__", None)
    return f"{module}.{name}" if module and name else repr(op)


def _stands_for_none(parameter: inspect.Parameter, value: object) -> bool:
    """Whether a value is one that an op takes in the place of an array."""
    if value is None:
        return parameter.default is None
    return isinstance(value, str) and "str" in str(parameter.annotation)


def _options(
    parameters: Mapping[str, inspect.Parameter],
    arguments: Mapping[str, object],
    operands: Mapping[str, ArraySpec],
) -> dict[str, object]:
    """Return the arguments that are no arrays and not at their defaults."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in operands
        and name != "stream"
        and not _is_default(value, parameters[name].default)
    }


def _is_default(value: object, default: object) -> bool:
    # Arrays and dtypes are no defaults, and MLX compares neither with everything.
    return not isinstance(value, (mx.array, mx.Dtype)) and value == default


def _explain(op: Op[Any], arguments: dict[str, Any], chip: Chip | None) -> Explanation:
    parameters = inspect.signature(op.function).parameters
    operands = {
        name: as_spec(op.name, name, arguments[name])
        for name in op.arrays
        if not _stands_for_none(parameters[name], arguments[name])
    }
    problem = op.request(op.name, operands, arguments)
    settings = current_settings()
    route = resolve(arguments["stream"], settings, on_a_mac=chip is not None)
    planned_for, chip_note = (chip, None) if chip else detect()
    choice = problem and chosen(
        problem,
        route.backend,
        force=settings.kernel,
        gradients=settings.gradients,
        chip=chip,
        try_new=False,
    )
    notes = [chip_note] if chip_note else []
    if problem and choice:
        notes += family_of(problem).notes(problem, choice.decision, route, planned_for)
        if choice.plan is None or route.backend is None:
            rounds = _chip_rounds(problem, planned_for) if chip else _rounds(problem, arguments)
            notes += [_rounding_note(problem)] if rounds else []
    return Explanation(
        op=op.name,
        operands=operands,
        options=_options(parameters, arguments, operands),
        backend=route.name,
        backend_reason=route.reason,
        chip=planned_for,
        problem=problem,
        solved=choice.problem if choice else None,
        decision=choice.decision if choice else None,
        notes=tuple(notes),
        canary=choice.proof if choice else "",
        elsewhere="" if problem else op.elsewhere(operands, arguments),
    )


def _chip_rounds(problem: Problem, chip: Chip) -> bool:
    """Whether MLX's own ops would round float32 factors of a problem on a chip."""
    price = family_of(problem).price(problem, chip)
    return price is not None and price.reduced


def _rounds(problem: Problem, arguments: dict[str, Any]) -> bool:
    """Whether MLX's own ops may round float32 factors of a problem on this machine."""
    return rounds_float32(arguments["stream"]) and family_of(problem).multiplies_float32(problem)


def _rounding_note(problem: Problem) -> str:
    if problem.exact:
        return "MLX's own ops round float32 to TF32 on this GPU, so that the call raises an error"
    return (
        "MLX rounds float32 factors to TF32 on this GPU, as MLX_ENABLE_TF32 says; "
        'precision="float32" asks for all their bits'
    )
