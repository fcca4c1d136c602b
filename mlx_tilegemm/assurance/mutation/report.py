"""The report of a mutation campaign, to read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from .campaign import Campaign, Verdict
from .operators import GENERIC
from .subjects import subjects


def to_markdown(campaign: Campaign, *, commit: str, compiler: str) -> str:
    """Return the report.

    Args:
        campaign: What was found.
        commit: Of the kernels.
        compiler: What the emulator compiled with.
    """
    first = [_summary(campaign, commit, compiler), _short(campaign), _survivors(campaign)]
    tables = [_templates(campaign), _operators(campaign), _catchers(campaign)]
    return "\n".join([*first, *tables, _subjects(), _equivalent(campaign)])


def _summary(campaign: Campaign, commit: str, compiler: str) -> str:
    done = len(campaign.verdicts)
    scope = "every mutant"
    if done < campaign.total:
        generic = sum(one.mutant.operator in GENERIC for one in campaign.verdicts)
        names = ", ".join(sorted(GENERIC))
        scope = f"of {campaign.total}; {generic} of them by the generic operators {names}"
    return f"""# Mutation report

{done} mutants ({scope}) of the kernels' templates at commit {commit}, run by the strict
emulator with {compiler}. **{campaign.caught} noticed, {len(campaign.unexplained)} missed,
{len(campaign.equivalent)} change nothing that a result depends on.** Of those that are not
equivalent, **{campaign.rate:.2%}** were noticed.

A mutant is one small change to one line of a template. It is compiled and run in each of the
subjects below that contain the line, until one notices: the text does not compile, the emulator
finds a broken rule, or a result is off by more than float32 accumulation allows. `size_t` casts are
not mutated: they matter only beyond 2^31 elements.
"""


def _short(campaign: Campaign) -> str:
    """Return which check noticed how many mutants, alone or with others."""
    caught = [one.caught_by.split(", ") for one in campaign.verdicts if one.caught]
    counts = Counter(name for names in caught for name in names)
    alone = Counter(names[0] for names in caught if len(names) == 1)
    rows = [f"| {name} | {count} | {alone[name]} |" for name, count in counts.most_common()]
    head = ["| noticed by | mutants | by it alone |", "|---|--:|--:|"]
    return "\n".join(["## What notices a mistake", "", *head, *rows, ""])


def _templates(campaign: Campaign) -> str:
    return _outcomes("template", ((one.mutant.template, one) for one in campaign.verdicts))


def _operators(campaign: Campaign) -> str:
    return _outcomes("operator", ((one.mutant.operator, one) for one in campaign.verdicts))


def _outcomes(noun: str, verdicts: Iterable[tuple[str, Verdict]]) -> str:
    """Return how many mutants of each kind were noticed."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for name, verdict in verdicts:
        groups[name].append(verdict)
    rows = [
        f"| {name} | {len(group)} | {sum(one.caught for one in group)} | "
        f"{sum(bool(one.reason) for one in group)} | "
        f"{sum(not one.caught and not one.reason for one in group)} |"
        for name, group in sorted(groups.items())
    ]
    head = [f"| {noun} | mutants | noticed | equivalent | missed |", "|---|--:|--:|--:|--:|"]
    return "\n".join([f"## {noun.capitalize()}s", "", *head, *rows, ""])


def _catchers(campaign: Campaign) -> str:
    counts = Counter(one.caught_by for one in campaign.verdicts if one.caught)
    rows = [f"| {name} | {count} |" for name, count in counts.most_common()]
    return "\n".join(
        ["## Noticed by several at once", "", "| what | mutants |", "|---|--:|", *rows, ""]
    )


def _subjects() -> str:
    rows = [f"- {one.name}, {len(one.trials)} problems" for one in subjects()]
    return "\n".join(["## Subjects", "", *rows, ""])


def _survivors(campaign: Campaign) -> str:
    rows = list(_rows(campaign.unexplained))
    return "\n".join(["## Missed", "", *(rows or ["None."]), ""])


def _equivalent(campaign: Campaign) -> str:
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in campaign.equivalent:
        groups[verdict.reason].append(verdict)
    lines = ["## Equivalent", ""]
    for reason, group in sorted(groups.items()):
        lines += [f"**{reason}**", "", *_rows(group), ""]
    return "\n".join(lines)


def _rows(verdicts: Iterable[Verdict]) -> Iterable[str]:
    for one in verdicts:
        mutant = one.mutant
        yield f"- {mutant.template}:{mutant.line} {mutant.operator}: `{mutant.original}` became"
        yield f"  `{mutant.mutated}`"
