"""Render the answers on the page of `tune plot`: a collapsed table for each prompt, with a row for each validation."""

from collections.abc import Iterator, Sequence
from html import escape

from torchtune._pluralize import pluralize
from torchtune.plots._run import PlottedRun

_BUDGET = 400_000
"""Maximum number of characters in all answers on a page; the answers of some steps are omitted if it is exceeded."""
_LONGEST = 4_000
"""Maximum number of characters in an answer; longer answers are truncated."""


def render_samples(runs: Sequence[PlottedRun]) -> Iterator[str]:
    """Yield the HTML of the tables; yield nothing if no run has answers."""
    answers = {
        (sample.prompt, sample.step, number): sample.answer
        for number, run in enumerate(runs)
        for sample in run.samples
    }
    if not answers:
        return
    steps, longest = _fit_budget(answers)
    prompts = dict.fromkeys(prompt for prompt, _, _ in answers)
    all_steps = {step for _, step, _ in answers}
    yield "<h2>Answers</h2>"
    if len(steps) < len(all_steps):
        yield (
            f"<p class=dim>Showing {len(steps)} of {pluralize(len(all_steps), 'validation')}; samples.jsonl contains"
            " all answers.</p>"
        )
    is_comparison = len(runs) > 1
    heads = "".join(f"<th>{escape(run.name)}" for run in runs) if is_comparison else "<th>answer"
    for prompt in prompts:
        yield f"<details><summary>{escape(prompt)}</summary><div class=scroll><table>"
        yield f"<thead><tr><th>step{heads}</thead><tbody>"
        for step in steps:
            cells = [_cell(answers.get((prompt, step, number)), longest) for number in range(len(runs))]
            if any(cells):
                yield f"<tr><th>{step:,}{''.join(f'<td class=answer>{cell}' for cell in cells)}"
        yield "</tbody></table></div></details>"


def _cell(answer: str | None, longest: int) -> str:
    if answer is None:
        return ""
    return escape(answer) if len(answer) <= longest else f"{escape(answer[:longest])}<span class=dim>…</span>"


def _fit_budget(answers: dict[tuple[str, int, int], str]) -> tuple[list[int], int]:
    """Return the steps to show, including the first and last, and the maximum length of an answer."""
    steps = sorted({step for _, step, _ in answers})

    def size() -> int:
        shown_steps = set(steps)
        return sum(min(len(text), _LONGEST) for (_, step, _), text in answers.items() if step in shown_steps)

    while size() > _BUDGET and len(steps) > 2:
        steps = [step for i, step in enumerate(steps) if i % 2 == 0 or i == len(steps) - 1]
        if len(steps) == 3 and size() > _BUDGET:
            steps = [steps[0], steps[-1]]
    if size() <= _BUDGET:
        return steps, _LONGEST
    shown_steps = set(steps)
    return steps, max(200, _BUDGET // sum(step in shown_steps for _, step, _ in answers))
