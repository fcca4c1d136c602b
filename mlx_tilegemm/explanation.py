"""Say what a call would do, and why, without doing it.

`explain` takes an op and its arguments, or only their shapes and dtypes, and returns every fact the
choice was made from. Nothing is compiled or evaluated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import mlx.core as mx

from .arguments import ArraySpec, as_number, as_spec, attention_request, gemm_request
from .autodiff import joined_problem, with_log_sum_exp
from .backends import METAL, Route, resolve
from .backends.launch import kernel_run
from .backends.metal import generated_text
from .canary import competes_with_mlx, standing_choice
from .chips import Chip, detect, get
from .context import forced_kernel, gradients_enabled
from .dispatch import Candidate, Decision, choose
from .dtypes import mlx_name
from .errors import DTypeError, ProblemError
from .kernels.limits import threads_per_core
from .kernels.mlx_sdpa import serves_attention
from .measurements import measured
from .ops import addmm, attention_chain, matmul
from .plan import Plan, Source
from .problem import (
    AttentionProblem,
    GemmProblem,
    KeyValueGradientProblem,
    MaskKind,
    Problem,
    QueryGradientProblem,
)

OPS: dict[str, Callable[..., Any]] = {op.__name__: op for op in (matmul, addmm, attention_chain)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a call would do, and why; ``str()`` of it is readable.

    Attributes:
        op: Name of the op.
        operands: Shape and dtype of every array, by name.
        backend: Where the call would run: ``metal``, ``emulator`` or ``mlx``.
        backend_reason: Why there.
        chip: The chip that was planned for.
        problem: What is asked; None for dtypes that only MLX's own ops take.
        decision: The dispatcher's choice; None without a problem.
        notes: What else is worth knowing about this call.
        canary: What is known of the kernel on this machine; empty where it need not prove itself.
    """

    op: str
    operands: dict[str, ArraySpec]
    backend: str
    backend_reason: str
    chip: Chip
    problem: Problem | None
    decision: Decision | None
    notes: tuple[str, ...]
    canary: str = ""

    @property
    def plan(self) -> Plan | None:
        """The kernel chosen for the chip, whatever the backend; None where MLX's ops serve."""
        return self.decision.plan if self.decision else None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every kernel considered, with its time or the reason it was refused."""
        return self.decision.candidates if self.decision else ()

    @property
    def mlx(self) -> Candidate | None:
        """What MLX's own ops would run on the chip, and its time; None if they cannot."""
        return self.decision.mlx if self.decision else None

    @property
    def route(self) -> str:
        """What would serve the call: the kernel's name, or ``mlx`` for MLX's own ops."""
        return self.plan.kernel if self.plan and self.backend != "mlx" else "mlx"

    @property
    def reason(self) -> str:
        """Why the call takes its route."""
        if self.decision is None:
            return "complex64 and float64 are served by MLX's own ops"
        if self.backend == "mlx" and self.plan:
            return f"the mlx backend runs no kernels ({self.backend_reason})"
        return self.decision.reason

    @property
    def sources(self) -> tuple[Source, ...]:
        """The rendered kernels of `plan`, in the order they run."""
        if self.plan is None:
            return ()
        # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
        from .render import render

        return tuple(render(stage.spec) for stage in self.plan.stages)

    @property
    def source(self) -> Source | None:
        """The first of `sources`, and nearly always the only one."""
        return self.sources[0] if self.sources else None

    @property
    def text(self) -> str | None:
        """The complete Metal text of `plan` as MLX passes it on: header, signature and body."""
        if self.plan is None:
            return None
        # An array without axes is passed on as one element.
        operands = [
            mx.zeros(spec.shape or (1,), dtype=spec.dtype) for spec in self.operands.values()
        ]
        run = kernel_run(self.plan, METAL, last_is_scalar=False)
        return generated_text(lambda arrays: run(arrays, (1, 1), None), operands)

    def __str__(self) -> str:
        lines = [
            f"[{self.op}] {_operands_text(self.operands)}{_result_text(self.problem)}",
            f"  backend  {self.backend}: {self.backend_reason}",
            f"  chip     {self.chip.name}",
            f"  route    {self.plan if self.route != 'mlx' else 'mlx'}",
            f"  because  {self.reason}",
        ]
        if self.canary:
            lines.append(f"  canary   {self.canary}")
        if self.plan and self.route != "mlx":
            lines += _plan_lines(self.plan, self.chip)
        lines += [f"  note     {note}" for note in self.notes]
        if self.candidates:
            where = self.decision.where if self.decision else ""
            lines += ["", *_candidate_lines(self.candidates, self.plan, self.mlx, where)]
        return "\n".join(lines)


def _operands_text(operands: dict[str, ArraySpec]) -> str:
    return ", ".join(
        f"{name} {mlx_name(spec.dtype)} {list(spec.shape)}" for name, spec in operands.items()
    )


def _result_text(problem: Problem | None) -> str:
    return f" -> {problem.out} {list(problem.out_shape)}" if problem else ""


def _plan_lines(plan: Plan, chip: Chip) -> list[str]:
    lines = []
    for stage in plan.stages:
        launch, needs = stage.launch, stage.resources
        lines += [
            f"  launch   grid {launch.grid}, threadgroup {launch.threadgroup}",
            f"  needs    {needs.threads} threads, {needs.threadgroup_bytes} bytes of threadgroup "
            f"memory, about {needs.registers} registers a thread",
            f"  core     holds {threads_per_core(needs, chip)} such threads at a time",
        ]
    return lines


def _candidate_lines(
    candidates: tuple[Candidate, ...], plan: Plan | None, mlx: Candidate | None, where: str
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
    return [f"  {'*' if name == str(plan) else ' '} {name:{width}}  {text}" for name, text in rows]


def _time_text(candidate: Candidate, where: str) -> str:
    text = f"{(candidate.seconds or 0.0) * 1e6:.2f} us"
    if candidate.spread is not None:
        low, high = candidate.spread
        return f"{text} measured ({low * 1e6:.2f} to {high * 1e6:.2f})"
    return f"{text} modelled" if where else text


def explain(
    op: Callable[..., Any] | str, /, *args: object, chip: Chip | str | None = None, **kwargs: object
) -> Explanation:
    """Return what ``op(*args, **kwargs)`` would do, and why, without doing it.

    Args:
        op: `matmul`, `addmm` or `attention_chain`, or its name.
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
    function = OPS.get(name)
    if function is None or (function is not op and op != name):
        raise ProblemError(f"[explain] Expected one of {', '.join(OPS)}, got {name}.")
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise DTypeError(f"[{name}] {error}.") from None
    bound.apply_defaults()
    return _explain(name, bound.arguments, chip)


def _explain(op: str, arguments: dict[str, Any], chip: Chip | str | None) -> Explanation:
    operands = _operands(op, arguments)
    problem = _problem(op, arguments, operands)
    planned_for, chip_note = _chip(chip)
    route = resolve(arguments["stream"])
    decision = None
    if problem:
        on_metal = competes_with_mlx(route.backend)
        decision = choose(
            problem,
            planned_for,
            forced_kernel(),
            mlx_competes=on_metal or chip is not None,
            measurements=measured(problem, planned_for) if on_metal and chip is None else None,
        )
    if isinstance(problem, AttentionProblem) and decision and decision.plan:
        decision = _differentiable(decision, problem, planned_for)
    canary = ""
    if problem and decision and chip is None:
        decision, canary = standing_choice(decision, problem, forced_kernel(), route.backend)
    return Explanation(
        op=op,
        operands=operands,
        backend=route.name,
        backend_reason=route.reason,
        chip=planned_for,
        problem=problem,
        decision=decision,
        notes=_notes(problem, decision, route, planned_for, chip_note),
        canary=canary,
    )


def _differentiable(decision: Decision, problem: AttentionProblem, chip: Chip) -> Decision:
    """Return the decision with the plan that runs: gradients need the log-sum-exp."""
    if not gradients_enabled():
        return decision
    full = choose(with_log_sum_exp(problem), chip, str(decision.plan))
    return replace(decision, plan=full.plan)


def _operands(op: str, arguments: dict[str, Any]) -> dict[str, ArraySpec]:
    names: list[str] = [name for name in ("q", "k", "v", "a", "b", "c") if name in arguments]
    extras = {name: arguments.get(name) for name in ("q_pe", "k_pe", "mask", "sinks")}
    names += [
        name
        for name, value in extras.items()
        if value is not None and not (name == "mask" and isinstance(value, str))
    ]
    return {name: as_spec(op, name, arguments[name]) for name in names}


def _problem(op: str, arguments: dict[str, Any], operands: dict[str, ArraySpec]) -> Problem | None:
    if op == "attention_chain":
        return attention_request(
            op,
            q=operands["q"],
            k=operands["k"],
            v=operands["v"],
            softmax=arguments["softmax"],
            mask=operands.get("mask", arguments["mask"]),
            window=arguments["window"],
            sinks=operands.get("sinks"),
            q_pe=operands.get("q_pe"),
            k_pe=operands.get("k_pe"),
            return_lse=arguments["return_lse"],
            out_dtype=arguments["out_dtype"],
        )
    return gemm_request(
        op,
        a=operands["a"],
        b=operands["b"],
        c=operands.get("c"),
        transpose_a=arguments["transpose_a"],
        transpose_b=arguments["transpose_b"],
        out_dtype=arguments["out_dtype"],
        scaled=as_number(op, "alpha", arguments.get("alpha", 1)) != 1,
        batch_invariant=arguments["batch_invariant"],
    )


def _chip(chip: Chip | str | None) -> tuple[Chip, str | None]:
    if chip is None:
        return detect()
    return (chip if isinstance(chip, Chip) else get(chip)), None


def _notes(
    problem: Problem | None,
    decision: Decision | None,
    route: Route,
    chip: Chip,
    chip_note: str | None,
) -> tuple[str, ...]:
    notes = [chip_note] if chip_note else []
    on_kernel = decision is not None and decision.plan is not None and route.backend is not None
    if isinstance(problem, GemmProblem):
        notes += _gemm_notes(problem, on_kernel)
    elif isinstance(problem, AttentionProblem):
        notes += _attention_notes(problem, on_kernel or _is_fused_by_mlx(problem, decision, chip))
        notes += _gradient_notes(problem, chip) if on_kernel and gradients_enabled() else []
    return tuple(notes)


def _gemm_notes(problem: GemmProblem, on_kernel: bool) -> list[str]:
    if not on_kernel:
        mixed = problem.a is not problem.b
        return ["MLX's ops cast operands of other dtypes into copies first"] * mixed
    notes = [
        "MLX copies an operand that is not row-major in memory, a view such as w.T, before the "
        "launch; pass transpose_a=True or transpose_b=True instead"
    ]
    rows = problem.out_shape[-2] if len(problem.out_shape) > 1 else 1
    if not problem.batch and problem.m > rows:
        notes.append(f"the batch is folded into {problem.m} rows: b is the same for all of it")
    if problem.batch:
        notes.append(f"{problem.batch_size} products run as the third dimension of the grid")
    return notes


def _is_fused_by_mlx(problem: AttentionProblem, decision: Decision | None, chip: Chip) -> bool:
    """Whether MLX's own ops, on Metal, would be its one fused attention."""
    return decision is not None and decision.mlx_competes and serves_attention(problem, chip)


def _attention_notes(problem: AttentionProblem, fused: bool) -> list[str]:
    notes = []
    if not fused:
        score_bytes = 4 * problem.batch * problem.num_heads * problem.q_len * problem.kv_len
        notes.append(f"MLX's ops hold all scores in memory: {score_bytes} bytes")
    if problem.softmax and _may_have_empty_rows(problem):
        empty = "that of their sink" if problem.sinks else "-inf"
        notes.append(f"rows with nothing to attend to are 0, their log-sum-exp {empty}")
    return notes


def _gradient_notes(problem: AttentionProblem, chip: Chip) -> list[str]:
    joined = joined_problem(problem)
    query = choose(QueryGradientProblem(attention=joined), chip)
    key_value = choose(KeyValueGradientProblem(attention=joined), chip)
    if query.plan is None or key_value.plan is None:
        refused = query if query.plan is None else key_value
        return [f"gradients go to MLX's own ops: {refused.reason}"]
    notes = [f"gradients of q, k and v: {query.plan} and {key_value.plan}"]
    if problem.pe_dim:
        notes.append("for the gradients, q_pe and k_pe are copied next to q and k")
    if problem.softmax and not problem.return_lse:
        notes.append(
            "the log-sum-exp is written for the gradients; not inside `with use_gradients(False):`"
        )
    if problem.mask_kind is MaskKind.ADDITIVE:
        notes.append(
            "the gradient of the mask, if asked for, goes through MLX's ops and all scores"
        )
    return notes


def _may_have_empty_rows(problem: AttentionProblem) -> bool:
    if problem.mask_kind is MaskKind.CAUSAL:
        return problem.q_len > problem.kv_len
    return problem.mask_kind is not MaskKind.NONE
