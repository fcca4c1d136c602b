"""Turn a spec into Metal text: pure, and the only importer of jinja2.

A template is one file with two blocks, ``header`` (before the kernel's signature) and ``body``
(inside the kernel); MLX writes the signature between them. The text carries ``#line`` directives,
so a compiler or the emulator names a line of the template and not of the rendered text.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import jinja2

from .plan import Plan, Source, Spec

TEMPLATES = Path(__file__).parents[1] / "templates"
PREFIX = "mlx_tilegemm/templates/"


class _LineLoader(jinja2.FileSystemLoader):
    """Adds a ``#line`` directive wherever Jinja makes rendered and template lines drift apart."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, object]:  # type: ignore[override]
        text, filename, uptodate = super().get_source(environment, template)
        return _with_line_directives(text, PREFIX + template), filename, uptodate


def _with_line_directives(text: str, name: str) -> str:
    lines = text.splitlines()
    marked: list[str] = []
    drifted = True
    in_comment = False
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        in_comment = in_comment or stripped.startswith("{#")
        if in_comment or stripped.startswith("{%"):
            in_comment = in_comment and "#}" not in stripped
            drifted = True
        elif drifted:
            marked.append(f'#line {number} "{name}"')
            drifted = False
        marked.append(line)
    return "\n".join(marked) + "\n"


def _printable(value: object) -> str | int:
    """Let only text and true integers into Metal: a printed bool, float or None is a mistake."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # a StrictUndefined raises the error that names what is missing
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    raise TypeError(f"template printed {value!r}; only str and int may become Metal text")


def _flag(value: object) -> str:
    """Return Metal for a truth, in a template ``{{ spec.causal | flag }}``."""
    if not isinstance(value, bool):
        raise TypeError(f"template printed {value!r} as a flag; only bool may")
    return "true" if value else "false"


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=_LineLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
        autoescape=False,
    )
    environment.filters["flag"] = _flag
    return environment


def _render_block(template: jinja2.Template, block: str, spec: Spec) -> str:
    context = template.new_context({"spec": spec})
    return _name_once("".join(template.blocks[block](context)))


def _name_once(text: str) -> str:
    """Leave the file out of each ``#line`` that names the one before's: MLX hashes every call."""
    named = ""

    def shortened(directive: re.Match[str]) -> str:
        nonlocal named
        repeated, named = directive[2] == named, directive[2]
        return directive[1] if repeated else directive[0]

    return re.sub(r'^(#line \d+)( ".*")$', shortened, text, flags=re.MULTILINE)


@lru_cache(maxsize=1024)
def render(spec: Spec) -> Source:
    """Render the kernel of a spec.

    Args:
        spec: What the text depends on.

    Returns:
        The kernel's name, header and body. Equal specs give equal text; the name ends in a hash
        of the text and of the names MLX builds the signature from.
    """
    template = _environment().get_template(spec.template)
    header = _render_block(template, "header", spec)
    body = _render_block(template, "body", spec)
    inputs, outputs = spec.input_names, spec.output_names
    key = "\0".join((header, body, *inputs, "", *outputs))
    digest = hashlib.blake2s(key.encode("ascii"), digest_size=6).hexdigest()
    return Source(
        name=f"{spec.label}_{digest}",
        header=header,
        body=body,
        input_names=inputs,
        output_names=outputs,
    )


def text_name(plan: Plan) -> str:
    """Return the names of a plan's texts, each of which ends in a hash of its text."""
    return "+".join(render(stage.spec).name for stage in plan.stages)
