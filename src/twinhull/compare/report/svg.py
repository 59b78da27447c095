"""A plot as SVG inside the page: scalable, in the page's own colours, with a name and a text for who can't see it."""

from __future__ import annotations

import html
import io
import re

import matplotlib as mpl

from twinhull.compare.report.plots import COLOURS, INK, Plot


def inline(plot: Plot) -> str:
    """The element. Every id in it begins with the plot's name, for a page has several plots."""
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):
        plot.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{plot.name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{plot.name}-", text)
    text = text.replace(INK, "currentColor")
    for subject, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{subject})")
    head = f'<svg role="img" aria-label="{html.escape(plot.title + ". " + plot.alternative)}" '
    text = re.sub(r'<svg (?:height|width)="[^"]*" ?', "<svg ", text)
    text = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", text)
    return head + text.removeprefix("<svg ")
