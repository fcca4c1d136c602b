"""Results of a check: findings, each at a line, and whether the check ran at all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing in a text that Metal would refuse, or that we do not allow ourselves.

    Attributes:
        file: File the line belongs to, as the text's ``#line`` directives name it.
        line: Line, from 1; 0 where the finding is about the whole text.
        column: Column, from 1; 0 where it is not known.
        rule: Short name of the rule.
        message: What is wrong.
        notes: Where it was instantiated from and what else the compiler said.
        certain: Whether Metal refuses it whatever else the text uses, so that it holds for texts
            that are not the project's own.
    """

    file: str
    line: int
    column: int
    rule: str
    message: str
    notes: tuple[str, ...] = ()
    certain: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return "\n  ".join((f"{place}: [{self.rule}] {self.message}", *self.notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of checking one text.

    Attributes:
        name: Name of the text.
        checked: Whether the check ran; without it the absence of findings says nothing.
        tool: What checked it, or why nothing did.
        findings: What was found, in order of the text.
        foreign: Words that the text uses and does not declare.
    """

    name: str
    checked: bool
    tool: str
    findings: tuple[Finding, ...] = ()
    foreign: frozenset[str] = frozenset()

    @property
    def passed(self) -> bool:
        """Whether the text was checked and nothing was found."""
        return self.checked and not self.findings

    def __str__(self) -> str:
        if not self.checked:
            return f"{self.name}: not checked: {self.tool}"
        if not self.findings:
            return f"{self.name}: nothing found by {self.tool}"
        return "\n".join((f"{self.name}: {len(self.findings)} found", *map(str, self.findings)))
