"""Gated delta updates and gradients that mutated texts have to solve.

Each has several threadgroups and sizes off the fragments, and some have more elements of a key than
threads; the trials of one subject differ only in sizes that are run-time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...core.dtypes import BFLOAT16, FLOAT16
from ...core.family import Data, HardData, Subject
from .problem import CHUNK, DeltaGradientProblem, DeltaProblem
from .reference import GateData, UndefinedData
from .spec import delta_text, variant

HARD_LENGTH = 192
"""Tokens after which an error that is not corrected is several times as large as one that is."""

WITHIN = 5e-7
"""Largest error on hard data where what is rounded is corrected."""

ROUGHLY = 1.5e-6
"""The same of chunks with a decay of each element and masks: no key repeats one before a hole."""

REPEATED = GateData(within=WITHIN, beta=0.999)
"""Equal keys on which errors show if a kernel takes only some of them as equal."""

LONG = HardData(within=WITHIN)
"""Equal keys until errors show of terms that are added in another order."""

RESETS = GateData(within=WITHIN, resets=True)
"""Equal keys that must not be taken so across the token that forgets."""

AnyProblem = DeltaProblem | DeltaGradientProblem
Made = Subject[AnyProblem]
More = tuple[tuple[dict[str, int], Data], ...]
"""Sizes to try a subject's first problem with, of one sequence, and the numbers."""


def subjects() -> Iterator[Made]:
    """Yield every subject; together they contain every line of the templates."""
    mixed: dict[str, Any] = {"q": BFLOAT16, "k": FLOAT16, "gamma": FLOAT16, "y": BFLOAT16}
    masked: dict[str, Any] = {"state": True, "mask": True}
    prepared: dict[str, Any] = {"log_decay": True, "normalize": True}
    yield _update("delta_recurrent", "4-2", (1, 5, 11), key_dim=38, **mixed, **masked, **prepared)
    yield _update(
        "delta_recurrent", "8-2", (7, 3), within=WITHIN, vector_gate=True, key_dim=60, every=3
    )
    yield _update(
        "delta_recurrent",
        "16-4-interleaved",
        (5, 3),
        vector_gate=True,
        state=True,
        key_dim=60,
        every=3,
    )
    # As many keys as there are lanes and elements of a lane, which hold more.
    yield _update("delta_recurrent", "4-2", (3, 2), key_dim=6)
    yield _update("delta_chunk", "8-2", (19, 8, 5), key_dim=38, **mixed, **masked, **prepared)
    yield _update("delta_chunk", "16-2", (9, 16), within=WITHIN, key_dim=36)
    # Gates of masked tokens count for no other token, of which a decay of each element is a test.
    vector: dict[str, Any] = {"vector_gate": True, "mask": True}
    # More values than a threadgroup has.
    wide: dict[str, Any] = {"value_dim": 29}
    yield _update(
        "delta_chunk",
        "8-2",
        (24, 17),
        within=ROUGHLY,
        **vector,
        **wide,
        key_dim=68,
        every=2 * CHUNK,
    )
    yield _update("delta_scan", "8-2", (19, 5), **mixed, **masked, **prepared)
    yield _update("delta_scan", "8-2", (9, 16), within=WITHIN, **wide, key_dim=36)
    yield _update(
        "delta_scan",
        "8-2",
        (9, 16),
        within=WITHIN,
        more=(
            ({"length": HARD_LENGTH}, REPEATED),
            ({"length": 2 * HARD_LENGTH}, LONG),
            ({"length": 2 * CHUNK}, RESETS),
        ),
        vector_gate=True,
        key_dim=36,
    )
    yield _gradients("4", (19, 9), **mixed, **masked)
    yield _gradients("8", (17,), **vector, key_dim=60, state=True)
    yield _gradients("2", (5, 3), **wide, state=True, key_dim=68)
    # A last chunk after which a state would be kept, if it were whole; and one that is.
    # Its keys have more elements than a threadgroup has threads.
    yield _update(
        "delta_chunk",
        "8-2",
        (29, 16),
        within=WITHIN,
        more=(({"length": 2 * CHUNK}, UndefinedData()), ({"every": 3 * CHUNK}, Data())),
        key_dim=68,
        every=2 * CHUNK,
    )
    # A fragment of a key that lacks its last element alone.
    yield _update("delta_chunk", "8-2", (3,), key_dim=39)


def _update(
    kernel: str,
    config: str,
    lengths: tuple[int, ...],
    *,
    within: float = 0.0,
    more: More = (),
    **options: Any,  # noqa: ANN401 - fields of a problem
) -> Made:
    problems = [variant(length=length, **options) for length in lengths]
    hard: More = (({"length": HARD_LENGTH}, HardData(within=within)),) if within else ()
    return _subject(kernel, config, problems, (*hard, *more))


def _gradients(
    config: str,
    lengths: tuple[int, ...],
    **options: Any,  # noqa: ANN401 - fields of a problem
) -> Made:
    updates = [variant(length=length, every=CHUNK, **options) for length in lengths]
    problems = [DeltaGradientProblem(update=update) for update in updates]
    return _subject("delta_backward", config, problems)


def _subject(kernel: str, config: str, problems: list[Any], more: More = ()) -> Made:
    first = problems[0]
    update = first if isinstance(first, DeltaProblem) else first.update
    trials = [(problem, Data(seed=place)) for place, problem in enumerate(problems)]
    # Numbers of which a sum leaves nothing out unseen.
    trials.append((problems[0], replace(trials[0][1], exact=True)))
    trials += [(replace(first, batch=1, **sizes), data) for sizes, data in more]
    text = delta_text(update)
    flags = f"{text.flags} {text.q}x{text.k} d{text.key_dim}"
    return Subject(kernel=kernel, config=config, trials=tuple(trials), flags=flags)
