"""Cases for type checkers, which must report every line marked `error` and no line marked `ok`.

mypy's error code follows `error`; `test_type_checkers.py` maps it to basedpyright rules. This file is never imported.
"""

from typing import Annotated, Any

from attrs import define, evolve, field
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from configs_py.llama2 import alpaca_llama2_full_finetune
from configs_py.smollm2 import smollm2_135m_full, smollm2_135m_lora
from recipes.full_finetune import FullFinetuneConfig
from recipes.lora_finetune import LoraFinetuneConfig
from torchtune.config import (
    Component,
    Passed,
    above,
    instantiate,
    lazy,
    load,
    nested,
    parse,
    ref,
    render,
    resolve,
)
from torchtune.data import Tokenizer
from torchtune.datasets import AlpacaDataset, InstructDataset
from torchtune.models.smollm2 import smollm2_135m, smollm2_tokenizer
from torchtune.training import Lora, cosine_with_warmup
from torchtune.utils.metric_logging import DiskLogger

# Components

lazy(AdamW, lr=2e-5)  # ok
lazy(AdamW, lrr=2e-5)  # error: call-arg
lazy(AdamW, lr="fast")  # error: arg-type
lazy(AdamW, betas=(0.9, 0.95))  # ok
lazy(AdamW, betas=0.9)  # error: arg-type
lazy(InstructDataset, source="rows.json")  # ok
lazy(InstructDataset, sorce="rows.json")  # error: call-arg
lazy(InstructDataset, source=3)  # error: arg-type
lazy(smollm2_135m)  # ok
lazy(smollm2_135m, max_seq_len=128)  # ok
lazy(smollm2_135m, max_seq_len="128")  # error: arg-type
lazy(smollm2_135m, layers=3)  # error: call-arg
lazy(smollm2_tokenizer, path=ref("tokenizer_directory"))  # ok
lazy(smollm2_tokenizer, path="a", stop_tokens=["x"], template_arguments={"think": False})  # ok
lazy(smollm2_tokenizer, path="a", stop_tokenss=["x"])  # error: call-arg
lazy(smollm2_tokenizer, path="a", stop_tokens=3)  # error: arg-type
lazy(smollm2_tokenizer, path="a", date=ref("run_date"))  # ok
lazy(cosine_with_warmup, warmup_steps=3)  # ok
lazy(cosine_with_warmup, warmup="3")  # error: call-arg
lazy(DiskLogger, log_dir=3)  # error: arg-type
lazy(DiskLogger, log_dir="${output_dir}")  # ok


def build_dataset(tokenizer: Tokenizer) -> AlpacaDataset:
    """Build a dataset from a tokenizer."""
    return AlpacaDataset(tokenizer)


lazy(build_dataset, tokenizer=nested(smollm2_tokenizer, path="x"))  # ok
lazy(build_dataset, tokenizer=nested(smollm2_tokenizer, pth="x"))  # error: call-arg
lazy(build_dataset, tokenizer=nested(AdamW, []))  # error: arg-type
lazy(build_dataset, tokenizer=lazy(smollm2_tokenizer, path="x"))  # error: arg-type

# Fields of a config

cfg = smollm2_135m_full()
cfg.batch_size = 4  # ok
cfg.batch_size = "4"  # error: assignment
cfg.batch_sizee = 4  # error: attr-defined
cfg.batch_size = ref("epochs")  # ok
cfg.seed = None  # ok
cfg.epochs = None  # error: assignment
cfg.optimizer = lazy(SGD, lr=0.1)  # ok
cfg.optimizer = lazy(nn.Linear, 1, 2)  # error: arg-type
cfg.optimizer = AdamW  # error: assignment
cfg.optimizer = None  # error: assignment
cfg.lr_scheduler = None  # ok
cfg.lr_scheduler = lazy(StepLR, step_size=3)  # ok
cfg.loss = lazy(nn.CrossEntropyLoss)  # ok
cfg.loss = lazy(AdamW)  # error: arg-type
cfg.optimizer.lr = 3  # error: attr-defined
cfg.optimizer.keywords["lr"] = 3  # error: index

lora = smollm2_135m_lora()
lora.lora = Lora(rank=4)  # ok
lora.lora.rank = 4  # ok
lora.lora.rnk = 4  # error: attr-defined
lora.lora = Lora(rank="4")  # error: arg-type
evolve(cfg, batch_size=4)  # ok
cfg.metric_logger = lazy(DiskLogger, log_dir=ref("output_dir"))  # ok
cfg.dataset = lazy(AlpacaDataset, use_clean=True)  # ok
cfg.dataset = lazy(AlpacaDataset, use_clean="yes")  # error: arg-type
cfg.model = lazy(smollm2_135m)  # ok
cfg.model = lazy(smollm2_tokenizer, path="x")  # error: arg-type

FullFinetuneConfig(output_dir="x")  # error: call-arg
LoraFinetuneConfig(  # ok
    output_dir="x",
    model=lazy(smollm2_135m),
    model_directory=None,
    tokenizer=lazy(smollm2_tokenizer, path="x"),
    dataset=lazy(InstructDataset, source="rows.json"),
)


def variant() -> FullFinetuneConfig:
    """Return a variant of a config."""
    variant_config = alpaca_llama2_full_finetune()
    variant_config.output_dir = 3  # error: assignment
    return variant_config


def wrong_variant() -> LoraFinetuneConfig:
    """Return the config of another recipe."""
    return smollm2_135m_full()  # error: return-value


# A custom config class and recipe


@define(kw_only=True)
class Mine:
    """A config class."""

    steps: int = field(default=3, validator=above(0))
    """Steps."""
    optimizer: Annotated[Component[Optimizer], Passed(1)] = lazy(AdamW, lr=1e-3)  # ok
    """The optimizer."""
    model: Component[nn.Module] = lazy(nn.Linear, 1, 2)  # ok
    """The model."""
    tokenizer: Component[Tokenizer] = lazy(AdamW, lr=1e-3)  # error: arg-type
    """The tokenizer."""


@parse
def main(mine: Mine) -> None:
    """A recipe."""
    optimizer: Optimizer = instantiate(mine.optimizer, [])  # ok
    model: Optimizer = instantiate(mine.model)  # error: assignment
    nothing: None = instantiate(None)  # ok
    del optimizer, model, nothing


main(Mine(steps=2))  # ok
main(cfg)  # error: arg-type
main(3)  # error: arg-type
same: Mine = resolve(Mine())  # ok
other: FullFinetuneConfig = resolve(Mine())  # error: assignment
text: str = render(cfg)  # ok
loaded: FullFinetuneConfig = load(text, FullFinetuneConfig)  # ok
anything: Any = load(text, "FullFinetuneConfig")  # error: arg-type
