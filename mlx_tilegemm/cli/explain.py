"""The commands ``explain`` and ``render``: a call's choice, and its Metal text."""

from __future__ import annotations

import argparse
import json

from ..dispatch import ANY
from .calls import call_explanation
from .command import complain


def run_explain(options: argparse.Namespace) -> int:
    """Print which kernel would serve a call, and why."""
    explanation = call_explanation(options)
    print(json.dumps(explanation.to_dict(), indent=2) if options.json else explanation)
    return 0


def run_render(options: argparse.Namespace) -> int:
    """Print the Metal text of a call, or say that no kernel serves it."""
    options.kernel = options.kernel or ANY  # the text is wanted, however fast MLX's own ops are
    explanation = call_explanation(options)
    text = explanation.text
    if text is None:
        complain(f"no kernel serves this: {explanation.reason}")
        return 1
    if options.json:
        chip = explanation.chip.name
        text = json.dumps({"plan": str(explanation.plan), "chip": chip, "text": text}, indent=2)
    print(text)
    return 0
