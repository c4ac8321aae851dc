"""Scores: terms with separate counts, `Scorer.prepare`, and terms that layers add."""

import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from tests.modules.reference import TINY
from tests.tolerance import FLOAT64, assert_near
from tests.training.tiny import SINGLE_RANK, SmallTokenizer, examples, place, tiny_decoder, tiny_model
from torchtune.data import Batch, Example, Pair, collate
from torchtune.distributed import World
from torchtune.modules import (
    Architecture,
    Decoder,
    DenseSpec,
    FeedForward,
    LinearCrossEntropy,
    PassContext,
)
from torchtune.training import (
    HeldOutSet,
    Metrics,
    NextToken,
    Score,
    Scorer,
    StepSums,
    Term,
    Validation,
    Validator,
    clip_gradients,
    target_log_probs,
)
from torchtune.utils.metric_logging import read_metrics


def pairs(n: int) -> list[Pair]:
    rows = [row for row in examples(40) if row.n_targets > 2]
    return [
        Pair(row, Example([*row.tokens[:-2], *other.tokens[-4:]], [*row.labels[:-2], *other.tokens[-4:]]))
        for row, other in zip(rows[:n], rows[n : 2 * n], strict=True)
    ]


class Margin(Scorer):
    """A hinge loss per pair, relative to the step's mean margin, plus a loss per target token of the chosen answer."""

    def __init__(self) -> None:
        self.margin: Tensor = torch.zeros(())
        self.prepared: list[int] = []

    def differences(self, model: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
        log_probs = target_log_probs(model, batch)
        chosen, rejected = batch.sum_by_sequence(log_probs).view(-1, 2).unbind(1)
        return chosen - rejected, chosen

    def prepare(self, model: Decoder, micro_batches: Sequence[Batch]) -> None:
        assert not torch.is_grad_enabled()
        self.prepared.append(len(micro_batches))
        total = sum(self.differences(model, batch)[0].sum() for batch in micro_batches)
        self.margin = torch.as_tensor(total) / sum(batch.counts["pairs"] for batch in micro_batches)

    def score(self, model: Decoder, batch: Batch) -> Score:
        difference, chosen = self.differences(model, batch)
        terms = {
            "hinge": Term(torch.relu(1 + self.margin - difference).sum(), "pairs", 2.0),
            "nll": Term(-chosen.sum(), "targets", 0.5),
        }
        return Score(terms, {"accuracy": Term((difference.detach() > 0).double().sum(), "pairs")})


class PairSum(Scorer):
    """A term divided by a count that only batches of pairs have."""

    def score(self, model: Decoder, batch: Batch) -> Score:
        return Score({"sum": Term(model.hidden(batch.tokens).sum(), "pairs")})


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_term_is_divided_by_its_count_for_any_split_into_micro_batches() -> None:
    rows = pairs(6)
    results = []
    for parts in ([rows], [rows[:1], rows[1:4], rows[4:]]):
        model, scorer = tiny_model(), Margin()
        batches = [collate(part, 0) for part in parts]
        scorer.before_step(model, batches)
        assert scorer.prepared == [len(parts)]
        sums = StepSums(batches, SINGLE_RANK)
        for batch in batches:
            torch.autograd.backward(sums.add(scorer(model, batch)))
        numbers = sums.means({"n_tokens": 3.0})
        assert sums.reported == ["hinge", "nll", "accuracy"]
        assert numbers["n_tokens"] == 3.0
        results.append((numbers, gradients(model)))
    (full, full_gradients), (split, split_gradients) = results
    for name in ("loss", "hinge", "nll", "accuracy"):
        assert_near(split[name], full[name], FLOAT64)
    assert_near(split_gradients, full_gradients, FLOAT64)
    assert_near(full["loss"], 2.0 * full["hinge"] + 0.5 * full["nll"], FLOAT64)


def test_terms_match_a_pair_by_pair_computation() -> None:
    rows, model, scorer = pairs(6), tiny_model(), Margin()
    batch = collate(rows, 0)
    scorer.before_step(model, [batch])
    sums = StepSums([batch], SINGLE_RANK)
    sums.add(scorer(model, batch))

    def log_prob(example: Example) -> Tensor:
        log_probs = torch.log_softmax(model(torch.tensor([example.tokens[:-1]]))[0], dim=-1)
        targets = [(i, label) for i, label in enumerate(example.labels[1:]) if label >= 0]
        return torch.stack([log_probs[i, label] for i, label in targets]).sum()

    log_probs = torch.stack([torch.stack([log_prob(p.chosen), log_prob(p.rejected)]) for p in rows]).detach()
    difference = log_probs[:, 0] - log_probs[:, 1]
    numbers = sums.means({})
    assert_near(numbers["hinge"], torch.relu(1 + difference.mean() - difference).mean(), FLOAT64)
    n_targets = sum(p.chosen.n_targets + p.rejected.n_targets for p in rows)
    assert_near(numbers["nll"], -log_probs[:, 0].sum() / n_targets, FLOAT64)
    assert numbers["accuracy"] == (difference > 0).double().mean()


def test_validation_supports_custom_items_and_scorers(tmp_path: Path) -> None:
    rows, model = pairs(6), tiny_model()
    scorer = Margin()
    lines = []
    for batch_size in (6, 1):
        held_out = HeldOutSet(Validation(fraction=0.5), rows, [])
        validator = Validator(
            held_out, model, scorer, SmallTokenizer(), batch_size, SINGLE_RANK, str(tmp_path), lambda: None
        )
        with Metrics(str(tmp_path), [], SINGLE_RANK, 0, 9) as metrics:
            validator.validate(0, metrics)
        lines += read_metrics(tmp_path).lines
    full, single = lines
    assert single["validation_nll"] == pytest.approx(full["validation_nll"], rel=FLOAT64)
    assert single["validation_accuracy"] == full["validation_accuracy"]
    assert scorer.prepared == [1] * 7, "each batch must be prepared separately"


def test_a_rank_without_held_out_rows_adds_nothing_to_the_loss(tmp_path: Path) -> None:
    sums: list[Tensor] = []

    class Rank(World):
        """One of two ranks, whose sums are recorded."""

        def sum(self, values: Tensor) -> Tensor:
            sums.append(values)
            return values

    model = tiny_model()
    for size in (1, 2):
        for rank in range(size):
            world = Rank(
                rank=rank, size=size, data_rank=rank, data_size=size, device=torch.device("cpu"), seed=0
            )
            held_out = HeldOutSet(Validation(fraction=0.5), pairs(3), [])
            validator = Validator(
                held_out, model, Margin(), SmallTokenizer(), 3, world, str(tmp_path), lambda: None
            )
            validator._mean_loss()
    single, first, second = sums
    assert_near(first + second, single, FLOAT64)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Score({}), "a score needs at least one term"),
        (
            Score({"loss": Term(torch.ones(()))}),
            "the name 'loss' is reserved for a built-in metric",
        ),
        (
            Score({"a": Term(torch.ones(()))}, {"a": Term(torch.ones(()))}),
            "the name 'a' is used by another term",
        ),
        (
            Score({"a": Term(torch.ones(()), "pairs")}),
            "a: batches have no count 'pairs'; expected targets",
        ),
    ],
)
def test_an_invalid_score_is_rejected(score: Score, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepSums([collate(examples()[:2], 0)], SINGLE_RANK).add(score)


@pytest.mark.parametrize("name", ["loss", "flops", "n_tokens", "total_count", "loss_scale"])
def test_reserved_names_are_rejected(name: str) -> None:
    batch = collate(examples(3)[:2], pad_id=0)
    score = Score({"next_token": Term(torch.ones(()))}, {name: Term(torch.ones(()))})
    with pytest.raises(ValueError, match=f"the name '{name}' is reserved for a built-in metric"):
        StepSums([batch], SINGLE_RANK).add(score)


def test_ranks_sum_counts_and_terms_in_name_order(monkeypatch: pytest.MonkeyPatch) -> None:
    sums_sent: list[list[float]] = []

    def record(_: World, values: Tensor) -> Tensor:
        sums_sent.append(values.tolist())
        return values

    monkeypatch.setattr(World, "sum", record)
    batch = evolve(collate(examples(2), pad_id=0), counts={"targets": 5, "pairs": 2})
    sums = StepSums([batch], SINGLE_RANK)
    sums.add(Score({"b": Term(torch.tensor(4.0)), "a": Term(torch.tensor(3.0), "pairs")}))
    numbers = sums.means({"flops": 7.0})
    assert sums_sent == [[2.0, 5.0, 1.0], [3.0, 4.0, 7.0]]
    assert {name: numbers[name].item() for name in "ab"} == {"a": 1.5, "b": 0.8}


def test_micro_batches_with_different_counts_in_a_step_are_rejected() -> None:
    batch = collate(examples(2), pad_id=0)
    with pytest.raises(ValueError, match=r"have different counts: \['targets'\] and \['pairs', 'targets'\]"):
        StepSums([batch, evolve(batch, counts={"targets": 1, "pairs": 1})], SINGLE_RANK)


def test_fp16_sum_is_divided_by_counts_beyond_the_fp16_range() -> None:
    batch = evolve(collate(examples(2), pad_id=0), counts={"targets": 100_000})
    total = torch.tensor(50_000.0, dtype=torch.float16)
    assert StepSums([batch], SINGLE_RANK).add(Score({"next_token": Term(total)})) == pytest.approx(
        0.5, rel=0.001
    )


def test_term_whose_count_is_missing_from_held_out_rows_is_rejected(tmp_path: Path) -> None:
    held_out = HeldOutSet(Validation(fraction=0.5), examples()[:2], [])
    validator = Validator(
        held_out, tiny_model(), PairSum(), SmallTokenizer(), 2, SINGLE_RANK, str(tmp_path), lambda: None
    )
    with pytest.raises(
        ValueError, match="sum: batches have no count 'pairs'; expected targets, micro_batches"
    ):
        validator._mean_loss()


class Referenced:
    """An object that an autograd graph refers to."""


def test_micro_batch_graph_is_freed_before_the_next_forward_pass() -> None:
    referenced = Referenced()
    reference = weakref.ref(referenced)
    total = (torch.ones(3, requires_grad=True) * 2).sum()
    total.register_hook(lambda _gradient, _held=referenced: None)  # type: ignore[no-untyped-call]
    sums = StepSums([collate(examples()[:2], 0)], SINGLE_RANK)
    loss = sums.add(Score({"a": Term(total)}, {"b": Term(total.detach())}))
    torch.autograd.backward(loss)
    del referenced, total, loss
    assert reference() is None


def test_scores_with_different_names_in_a_step_are_rejected() -> None:
    sums = StepSums([collate(examples()[:2], 0)] * 2, SINGLE_RANK)
    sums.add(Score({"a": Term(torch.ones(()))}))
    with pytest.raises(ValueError, match="the scores of the micro-batches have different terms"):
        sums.add(Score({"b": Term(torch.ones(()))}))


def test_trained_parameters_are_cast_in_score_and_prepare() -> None:
    dtypes = []

    class DtypeProbe(Scorer):
        """Records the dtype of a weight."""

        def prepare(self, model: Decoder, _micro_batches: Sequence[Batch]) -> None:
            dtypes.append(model.embed_tokens.weight.dtype)

        def score(self, model: Decoder, batch: Batch) -> Score:
            dtypes.append(model.embed_tokens.weight.dtype)
            return Score({"sum": Term(model.hidden(batch.tokens).float().sum())})

    with torch.device("meta"):
        model = tiny_decoder()
    place(model, SINGLE_RANK, dtype="bf16")
    batch = collate(examples()[:2], 0)
    scorer = DtypeProbe()
    scorer.before_step(model, [batch])
    torch.autograd.backward(scorer(model, batch).terms["sum"].total)
    assert dtypes == [torch.bfloat16] * 2
    assert model.embed_tokens.weight.dtype == torch.float32
    assert model.layers[0].mlp.up_proj.weight.grad.dtype == torch.float32  # type: ignore[union-attr]


def test_sums_added_by_layers_become_terms_of_the_next_token_score() -> None:
    class Penalized(FeedForward):
        """A feed-forward layer with a penalty on its outputs."""

        aggregate_names = ("size",)

        def forward(self, x: Tensor, context: PassContext | None = None) -> Tensor:
            assert context is not None
            y = super().forward(x, context)
            context.add("size", 0.1 * y.square().mean())
            return y

    @frozen
    class PenalizedSpec(DenseSpec):
        """Builds `Penalized`."""

        def build(self, architecture: Architecture, _index: int) -> Penalized:
            return Penalized(architecture.embed_dim, self)

    model = Decoder(TINY.evolve(feed_forward=PenalizedSpec, vocab_size=31)).double()
    batches = [collate(examples()[i : i + 2], 0) for i in (0, 3, 6)]
    sums, scorer = StepSums(batches, SINGLE_RANK), NextToken(LinearCrossEntropy())
    for batch in batches:
        torch.autograd.backward(sums.add(scorer(model, batch)))
    numbers = sums.means({})
    assert sums.reported == ["next_token", "size"]
    assert_near(numbers["loss"], numbers["next_token"] + numbers["size"], FLOAT64)
    expected = []
    for batch in batches:
        aggregates: dict[str, Tensor] = {}
        model.hidden(batch.tokens, aggregates=aggregates)
        expected.append(aggregates["size"].detach())
    assert_near(numbers["size"], torch.stack(expected).mean(), FLOAT64)
    assert clip_gradients(model, None) > 0
