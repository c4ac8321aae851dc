"""What models answered, on the page of `tune plot`: a folded table for each prompt, a row for each validation."""

from collections.abc import Iterator, Sequence
from html import escape

from torchtune._counted import counted
from torchtune.plots._run import PlottedRun

_BUDGET = 400_000
"""Characters of all answers on a page; above it, answers of some steps are left out."""
_LONGEST = 4_000
"""Characters of an answer; it is cut behind them."""


def samples_of(runs: Sequence[PlottedRun]) -> Iterator[str]:
    """Yield the tables; nothing where no run has answers."""
    answers = {
        (sample.prompt, sample.step, number): sample.answer
        for number, run in enumerate(runs)
        for sample in run.samples
    }
    if not answers:
        return
    steps, longest = _fitting(answers)
    asked = dict.fromkeys(prompt for prompt, _, _ in answers)
    all_steps = {step for _, step, _ in answers}
    yield "<h2>Answers</h2>"
    if len(steps) < len(all_steps):
        yield f"<p class=dim>Of {len(steps)} of {counted(len(all_steps), 'validation')}; samples.jsonl has all.</p>"
    several = len(runs) > 1
    heads = "".join(f"<th>{escape(run.name)}" for run in runs) if several else "<th>answer"
    for prompt in asked:
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


def _fitting(answers: dict[tuple[str, int, int], str]) -> tuple[list[int], int]:
    """Return steps, the first and the last among them, and a length to cut at, so that all answers fit."""
    steps = sorted({step for _, step, _ in answers})

    def size() -> int:
        kept = set(steps)
        return sum(min(len(text), _LONGEST) for (_, step, _), text in answers.items() if step in kept)

    while size() > _BUDGET and len(steps) > 2:
        steps = [step for at, step in enumerate(steps) if at % 2 == 0 or at == len(steps) - 1]
        if len(steps) == 3 and size() > _BUDGET:
            steps = [steps[0], steps[-1]]
    if size() <= _BUDGET:
        return steps, _LONGEST
    kept = set(steps)
    return steps, max(200, _BUDGET // sum(step in kept for _, step, _ in answers))
