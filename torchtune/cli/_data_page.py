"""Render the page of `tune data --html`, a single self-contained file."""

from html import escape
from typing import Any

from torchtune._pluralize import pluralize
from torchtune.cli._data_summary import Summary

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #6b7280; --page: #ffffff; --line: #d8dde3;
  --target: #d9f2df; --special: #1d5fa8; --bar: #7aa6d8; --warn: #fff3cd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa3ad; --page: #14171a; --line: #343a41;
  --target: #1f4a2c; --special: #8fbdf0; --bar: #4f7fb5; --warn: #4d4016; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
h1 code { font-size: 1rem; }
.row { border: 1px solid var(--line); border-radius: 6px; padding: .7rem; margin: .5rem 0 1rem; overflow-x: auto; }
.example + .example { border-top: 2px dashed var(--line); margin-top: .7rem; padding-top: .7rem; }
.example { font: 13px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.token { border-radius: 3px; padding: 1px 0; margin-right: 1px; box-shadow: inset 0 -1px 0 var(--line);
  color: var(--dim); }
.target { background: var(--target); color: var(--ink); }
.special { color: var(--special); font-weight: 600; }
.break { opacity: .6; }
table { border-collapse: collapse; } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
td:first-child { color: var(--dim); }
.bars { display: flex; align-items: flex-end; height: 6rem; gap: 2px; max-width: 36rem; }
.bars div { flex: 1; background: var(--bar); min-height: 1px; }
.axis { display: flex; justify-content: space-between; max-width: 36rem; color: var(--dim); font-size: .85rem; }
.warning { background: var(--warn); border-radius: 6px; padding: .5rem .8rem; margin: .5rem 0; }
"""


def render_page(summary: Summary) -> str:
    """Return a run's data as an HTML page."""
    rows = "".join(
        f"<h2>Row {i}</h2><div class=row>{''.join(map(_example, row))}</div>"
        for i, row in enumerate(summary.rows, start=1)
    )
    facts = "".join(f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in summary.facts)
    warnings = "".join(f"<div class=warning>{escape(text)}</div>" for text in summary.report.warnings)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tune data {escape(summary.title)}</title><style>{_STYLE}</style>"
        f"<h1>Data of <code>{escape(summary.title)}</code></h1>{warnings}"
        '<p><span class="token target">target</span> <span class=token>context</span> '
        "<span class='token special'>special token</span>; hover over a token to see its id.</p>"
        f"{rows}<h2>Statistics</h2><table>{facts}</table>{_bars(summary)}</html>\n"
    )


def _example(document: list[Any]) -> str:
    return f"<div class=example>{''.join(map(_token, document))}</div>"


def _token(piece: Any) -> str:
    kinds = ["token", *(["target"] if piece.is_target else []), *(["special"] if piece.is_special else [])]
    text = escape(piece.text).replace("\n", "<span class=break>⏎</span>\n").replace("\t", "→")
    return f'<span class="{" ".join(kinds)}" title="{piece.id}">{text}</span>'


def _bars(summary: Summary) -> str:
    if not summary.histogram:
        return ""
    peak = max(count for _, count in summary.histogram)
    bars = "".join(
        f'<div style="height:{count / peak:.1%}" title="from {start} tokens: {count}"></div>'
        for start, count in summary.histogram
    )
    ends = f"<span>{pluralize(summary.histogram[0][0], 'token')}<span>{pluralize(max(summary.report.lengths), 'token')}"
    return f"<h2>Lengths</h2><div class=bars>{bars}</div><div class=axis>{ends}</div>"
