"""A mixture of experts requires only a spec and a module; all other features work with it unchanged."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import Tensor, nn

from tests.modules.adapters import randomize_adapters
from tests.modules.reference import TINY
from tests.tolerance import FLOAT64, assert_near
from torchtune.data import Example, collate
from torchtune.modules import (
    Architecture,
    Decoder,
    DenseSpec,
    FeedForward,
    FeedForwardSpec,
    LayerCache,
    Linear,
    PassContext,
    active_fractions,
    add_lora,
    lean,
    lora_state,
    merge_lora,
)
from torchtune.placement import ActivationCheckpointing
from torchtune.placement._activations import checkpoint_activations
from torchtune.training import step_flops

N_EXPERTS, N_ACTIVE = 4, 2


@frozen(kw_only=True)
class ExpertSpec(FeedForwardSpec):
    """Spec of a mixture of experts: those with the highest router scores process each token (arXiv 2401.04088)."""

    ffn_dim: int
    num_experts: int = field(default=N_EXPERTS)
    num_active_experts: int = field(default=N_ACTIVE)

    def build(self, architecture: Architecture, index: int) -> "ExpertFeedForward":
        return ExpertFeedForward(architecture.embed_dim, self)


class Experts(nn.ModuleList):
    """Feed-forward layers, only a few of which process each token."""

    def __init__(self, experts: list[FeedForward], active_fraction: float) -> None:
        super().__init__(experts)
        self.active_fraction = active_fraction


class ExpertFeedForward(nn.Module):
    """Experts weighted by the router's probabilities, with the load-balancing term of arXiv 2101.03961, equation 4."""

    aggregate_names = ("balance",)

    def __init__(self, embed_dim: int, spec: ExpertSpec) -> None:
        super().__init__()
        self.spec = spec
        self.router = Linear(embed_dim, spec.num_experts)
        dense = DenseSpec(ffn_dim=spec.ffn_dim)
        self.experts = Experts(
            [FeedForward(embed_dim, dense) for _ in range(spec.num_experts)],
            spec.num_active_experts / spec.num_experts,
        )

    def forward(self, x: Tensor, context: PassContext) -> Tensor:
        flat = x.flatten(0, 1)  # [n, d]
        probabilities = self.router(flat).softmax(-1)  # [n, e]
        weights, chosen = probabilities.topk(self.spec.num_active_experts)  # [n, k] each
        routed = F.one_hot(chosen, self.spec.num_experts).sum(1).to(x.dtype)  # [n, e]
        context.add("balance", self.spec.num_experts * routed.mean(0) @ probabilities.mean(0))
        y = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            token, rank = (chosen == i).nonzero(as_tuple=True)
            y = y.index_add(0, token, expert(flat[token]) * weights[token, rank, None])
        return y.view_as(x)


EXPERTS = TINY.evolve(feed_forward=ExpertSpec)
TOKENS = torch.randint(TINY.vocab_size, (2, 7), generator=torch.Generator().manual_seed(1))


def expert_decoder() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(EXPERTS).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def compute_loss(hidden: Tensor, aggregates: dict[str, Tensor]) -> Tensor:
    return hidden.square().sum() + 3.0 * aggregates["balance"]


def results(model: Decoder) -> dict[str, Tensor]:
    """Return the hidden states, the balance term, and the gradients of a loss that includes both."""
    aggregates: dict[str, Tensor] = {}
    hidden = model.hidden(TOKENS, aggregates=aggregates)
    torch.autograd.backward(compute_loss(hidden, aggregates))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"hidden": hidden.detach(), "balance": aggregates["balance"].detach(), **gradients}


def test_the_expert_feed_forward_matches_its_formula() -> None:
    part = expert_decoder().layers[0].get_submodule("mlp")
    assert isinstance(part, ExpertFeedForward)
    x = torch.randn(1, 5, TINY.embed_dim, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for t in range(5):
        p = part.router(x[0, t]).softmax(-1)
        for i in p.argsort(descending=True)[:N_ACTIVE]:
            expected[0, t] += p[i] * part.experts[int(i)](x[0, t])
    context = PassContext(rotation=None)  # type: ignore[arg-type]  # experts do not use positions
    assert_near(part(x, context), expected, FLOAT64)


def test_balance_term_is_summed_over_layers_and_its_gradient_reaches_every_router() -> None:
    model = expert_decoder()
    balances: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _m, _x, result: balances.append(result[1]["balance"]))
    aggregates: dict[str, Tensor] = {}
    model.hidden(TOKENS, aggregates=aggregates)
    assert len(balances) == TINY.num_layers
    assert_near(aggregates["balance"], torch.stack(balances).sum(), FLOAT64)
    assert torch.stack(balances).min() > 1 / N_EXPERTS
    torch.autograd.backward(aggregates["balance"])
    for name, p in model.named_parameters():
        if name.endswith("router.weight"):
            assert p.grad is not None
            assert p.grad.any()


def test_training_lowers_both_the_loss_and_the_balance_term() -> None:
    model = expert_decoder().float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for _ in range(30):
        aggregates: dict[str, Tensor] = {}
        hidden = model.hidden(TOKENS, aggregates=aggregates)
        loss = F.cross_entropy(model.logits(hidden)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        torch.autograd.backward(loss + aggregates["balance"])
        optimizer.step()
        optimizer.zero_grad()
        last = {"loss": loss.item(), "balance": aggregates["balance"].item()}
        first = first or last
    assert last["loss"] < 0.5 * first["loss"]
    assert last["balance"] < first["balance"]


@pytest.mark.parametrize("keep", ["inputs", "matmuls"])
def test_checkpointed_layers_add_sums_once_and_keep_gradients(keep: Any) -> None:
    model, plain = expert_decoder(), expert_decoder()
    checkpoint_activations(model, ActivationCheckpointing(keep=keep))
    assert_near(results(model), results(plain), FLOAT64)


def test_lean_experts_match_plain_experts() -> None:
    model, plain = expert_decoder(), expert_decoder()
    lean(model)
    assert_near(results(model), results(plain), FLOAT64)


def test_parameters_may_be_replaced_during_a_call() -> None:
    model = expert_decoder()
    doubled = {name: (2 * p).detach() for name, p in model.named_parameters()}
    expected = copy.deepcopy(model)
    expected.load_state_dict(doubled)
    assert_near(torch.func.functional_call(model, doubled, (TOKENS,)), expected(TOKENS), FLOAT64)


def test_experts_and_routers_are_adapted_and_merged() -> None:
    model, base = expert_decoder(), expert_decoder()
    add_lora(model, ["up_proj", "router"], rank=2, alpha=4.0)
    assert len(lora_state(model)) == 2 * TINY.num_layers * (N_EXPERTS + 1)
    randomize_adapters(model)
    trained = results(model)
    assert {name for name in trained if "adapter" in name} == lora_state(model).keys()
    assert_near(trained["hidden"], model.hidden(TOKENS), FLOAT64)
    assert not torch.equal(trained["hidden"], base.hidden(TOKENS))
    merge_lora(model)
    assert_near(model.hidden(TOKENS), trained["hidden"], FLOAT64)


def test_sums_are_discarded_unless_requested() -> None:
    model = expert_decoder()
    assert torch.equal(model.hidden(TOKENS), model.hidden(TOKENS, aggregates={}))
    aggregates: dict[str, Tensor] = {}
    Decoder(TINY).hidden(TOKENS, aggregates=aggregates)
    assert aggregates == {}


def test_tokens_are_generated_with_a_cache() -> None:
    from torchtune.generation import generate

    model = expert_decoder()
    tokens = list(generate(model, [1, 2, 3], max_new_tokens=4))
    sequence = torch.tensor([[1, 2, 3, *tokens]])
    assert model(sequence)[0, 2:-1].argmax(-1).tolist() == tokens
    assert LayerCache(4).length == 0


def test_flops_count_only_active_parameters() -> None:
    with torch.device("meta"):
        model, dense = Decoder(EXPERTS), Decoder(TINY)
    fractions = active_fractions(model)
    assert {fraction for name, fraction in fractions.items() if ".experts." in name} == {N_ACTIVE / N_EXPERTS}
    assert {fraction for name, fraction in fractions.items() if ".experts." not in name} == {1.0}
    assert set(active_fractions(dense).values()) == {1.0}
    routers = TINY.num_layers * TINY.embed_dim * N_EXPERTS
    experts = sum(p.numel() for name, p in dense.named_parameters() if "mlp" in name)
    batch = [collate([Example([1, 2, 3], [1, 2, 3])], 0)]
    extra = step_flops(model)(batch) - step_flops(dense)(batch)
    assert extra == 6 * 2 * (routers + (N_ACTIVE - 1) * experts)


def test_init_weights_initializes_every_module() -> None:
    with torch.device("meta"):
        model = Decoder(EXPERTS)
    model.to_empty(device="cpu")
    torch.manual_seed(5)
    model.init_weights()
    torch.manual_seed(5)
    expected = Decoder(EXPERTS)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
