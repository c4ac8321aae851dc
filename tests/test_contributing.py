"""A new part of each kind works after changing exactly the files that CONTRIBUTING.md lists for it."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("torchtune", "recipes", "configs_py", "configs_yaml")

FAMILY = '''"""Toy models: Llamas whose embedding has a different name in checkpoints."""

from typing import Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Family, read_rope
from torchtune.models.llama2 import llama2_7b
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, auto_tokenizer

toy_1m = size("example/toy-1m", llama2_7b)(
    family="toy", vocab_size=64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=4, head_dim=8
)


def toy_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load the tokenizer of a toy model."""
    return auto_tokenizer(path, **options)


TOY_FAMILY = Family(
    model_type="toy", hf_class="ToyForCausalLM", gguf="toy", read=read_rope, names=(("embed_tokens.", "wte."),)
)

name_builders(__name__)
'''
FAMILY_WORKS = """
import torch
from torchtune.formats import architecture_from_hf, hf_config
from torchtune.formats.gguf._config import gguf_config
from torchtune.formats.hf._weights import hf_name
from torchtune.models.toy import toy_1m
with torch.device("meta"):
    model = toy_1m(max_seq_len=256)
assert architecture_from_hf(hf_config(model)) == model.architecture
assert hf_name("embed_tokens.weight", "toy") == "wte.weight"
class File:
    metadata = {"general.architecture": "toy", "toy.expert_count": 1}
try:
    gguf_config(File())
except ValueError as error:
    assert "experts" in str(error), error  # only a known family has this message
"""

ADAPTER = '''"""LoRA with a trained scale for each output feature."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from torchtune.modules._lora import LoRA

if TYPE_CHECKING:
    from torchtune.modules._linear import Linear


class RowLoRA(LoRA):
    """`x W^T + b + s x A^T B^T diag(m)`."""

    peft_settings: ClassVar[Mapping[str, bool]] = {"use_rows": True}
    peft_tensors: ClassVar[Mapping[str, str]] = {**LoRA.peft_tensors, "lora_rows": "lora_rows"}

    def create_parameters(self, in_features: int, out_features: int, like: Tensor) -> None:
        """Create A, B and m `[out]`."""
        super().create_parameters(in_features, out_features, like)
        self.lora_rows = nn.Parameter(like.new_empty(out_features))

    def reset(self, weight: Tensor) -> None:
        """Initialize m with ones."""
        super().reset(weight)
        nn.init.ones_(self.lora_rows)

    def forward(self, x: Tensor, layer: "Linear") -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        y = layer.apply_weight(x, layer.weight_matrix(), layer.bias)
        return y + self.low_rank_update(x) * self.lora_rows

    @torch.no_grad()
    def merge(self, weight: Tensor) -> Tensor:
        """Compute `W + s diag(m) B A`."""
        return weight + self.scale * self.lora_rows[:, None] * (self.lora_b @ self.lora_a)
'''
ADAPTER_WORKS = """
import tempfile, torch
from torchtune.formats import load_peft_adapter, save_peft_adapter
from torchtune.models.smollm2 import smollm2
from torchtune.modules import lora_state, merge_lora
from torchtune.training import Lora
def model():
    torch.manual_seed(0)
    return smollm2(vocab_size=32, num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=1, ffn_dim=8)
adapted, tokens = model(), torch.arange(5)[None]
Lora(targets=["all-linear"], kind="rows").add_to(adapted)
for parameter in lora_state(adapted).values():
    parameter.normal_()
logits = adapted(tokens)
assert not torch.allclose(logits, model()(tokens))
with tempfile.TemporaryDirectory() as folder:
    save_peft_adapter(adapted, folder + "/adapter", base_model=None)
    loaded = model()
    load_peft_adapter(loaded, folder + "/adapter")
assert torch.equal(loaded(tokens), logits)
merge_lora(adapted)
torch.testing.assert_close(adapted(tokens), logits)
"""

COMMAND = '''"""`tune greet`: print a greeting."""

from torchtune.cli._command import Argument, Command, Form
from torchtune.runs.command_line import Call, Option

LOUD = Option("--loud", "use capital letters")


def run(call: Call) -> int:
    """Print the greeting."""
    text = f"hello {call.arguments[0]}"
    print(text.upper() if call.has(LOUD) else text)
    return 0


FORMS = (Form((Argument("NAME"),), (LOUD,)),)
COMMAND = Command("greet", run, forms=FORMS, description="Prints a greeting.", examples=("tune greet you",))
'''
COMMAND_WORKS = """
import contextlib, io
from torchtune.cli import main
def output_of(*args):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(args) == 0
    return out.getvalue()
assert output_of("greet", "you", "--loud") == "HELLO YOU\\n"
assert "print a greeting" in output_of("--help")
assert "use capital letters" in output_of("greet", "--help")
assert output_of("__complete", "bash", "tune gre").split() == ["greet"]
assert "--loud" in output_of("__complete", "bash", "tune greet --")
"""

LOGGER = '''

class QuietLogger(MetricLogger):
    """Records the logged steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Record the step."""
        self.steps.append(step)

    def close(self) -> None:
        """Do nothing."""
'''
LOGGER_PATH = "torchtune.utils.metric_logging.QuietLogger"

DATASET = '''"""A dataset of numbers."""

from torch.utils.data import Dataset

from torchtune.data import Example, Tokenizer, plain_example


class NumberDataset(Dataset[Example]):
    """The numbers from 0 to n - 1, one per row.

    Args:
        tokenizer: Encodes the numbers.
        n: Number of rows.
    """

    def __init__(self, tokenizer: Tokenizer, n: int = 10) -> None:
        self._tokenizer, self._n = tokenizer, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Example:
        return plain_example(self._tokenizer, str(index))
'''

ITEM = '''"""An item with one example, counted as one answer."""

from collections.abc import Sequence
from typing import Self

from attrs import evolve, frozen

from torchtune.data._batch import Batch
from torchtune.data._collate import join_sequences
from torchtune.data._example import Example
from torchtune.data._item import Item, Side


@frozen
class Answer(Item):
    """One answer."""

    example: Example

    @property
    def sequences(self) -> tuple[Example, ...]:
        """The answer's sequence."""
        return (self.example,)

    @property
    def counts(self) -> dict[str, int]:
        """One answer and its target tokens."""
        return {"answers": 1, "targets": self.example.n_targets}

    def truncated(self, length: int, side: Side) -> Self | None:
        """Truncate the sequence."""
        short = self.example.truncated(length, side)
        return None if short is None else evolve(self, example=short)

    @classmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> Batch:
        """Join the sequences and count the answers."""
        del share_prefixes
        batch = join_sequences([[item.example for item in row] for row in rows], pad_id)
        return evolve(batch, counts={"answers": sum(map(len, rows)), **batch.counts})
'''
ITEM_WORKS = """
from torchtune.data import Answer, Batches, Example
items = [Answer(Example([1, 2, 3], [-100, 2, 3])), Answer(Example([1, 4], [-100, 4]))]
batch = next(Batches(items, 1, shuffle=False, seed=0, pad_id=0, packed_length=8))
assert batch.counts == {"answers": 2, "targets": 3}
"""

RECIPE = '''"""Print numbers.

tune count
"""

from attrs import define

from torchtune import config


@define(kw_only=True)
class CountConfig:
    """The config of the count recipe."""

    steps: int = 3
    """The largest printed number."""


@config.parse
def main(cfg: CountConfig) -> None:
    """Print the numbers."""
    print(*range(1, cfg.steps + 1))


if __name__ == "__main__":
    main()
'''
RECIPE_WORKS = """
from torchtune.cli import main
from torchtune.recipes.count import CountConfig, main as count
assert main(["ls"]) == 0
count(CountConfig(steps=4))
"""

SHOW = """
import sys
from torchtune.cli import main
sys.exit(main(["show", "full_finetune", "--config", "smollm2_135m_full", *{overrides}]))
"""
RENDER_CONFIGS = """
from pathlib import Path
from torchtune.config import render
from torchtune.runs import config_names, config_source, folder_of, load_module
for name in config_names()["full_finetune"]:
    cfg = getattr(load_module(config_source(name).file), name)()
    head = "# yaml-language-server: $schema=schemas/full_finetune.json\\n"
    Path(folder_of("configs_yaml"), f"{name}.yaml").write_text(head + render(cfg))
"""


def python(tree: Path, code: str) -> str:
    """Run Python code in a copy of the project and return its output."""
    completed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def add_family(tree: Path) -> None:
    models = tree / "torchtune/models"
    (models / "toy.py").write_text(FAMILY)
    table = models / "_families.py"
    edit(table, "FAMILIES = {", "from torchtune.models.toy import TOY_FAMILY\n\nFAMILIES = {")
    edit(table, "    for family in (\n", "    for family in (\n        TOY_FAMILY,\n")
    python(tree, FAMILY_WORKS)
    assert "toy_1m" in python(tree, SHOW.format(overrides=["model=torchtune.models.toy.toy_1m"]))


def add_size(tree: Path) -> None:
    size = 'smollm2_tiny = size("example/tiny", smollm2_135m)(num_layers=2)\n'
    edit(tree / "torchtune/models/smollm2.py", "\nsmollm2 = ", f"\n{size}smollm2 = ")
    overrides = ["model=torchtune.models.smollm2.smollm2_tiny", "model.max_seq_len=64"]
    assert "smollm2_tiny" in python(tree, SHOW.format(overrides=overrides))


def add_adapter(tree: Path) -> None:
    modules = tree / "torchtune/modules"
    (modules / "_row_lora.py").write_text(ADAPTER)
    table = modules / "_adapter_kinds.py"
    edit(
        table,
        "import EmbeddingLoRA, LoRA\n",
        "import EmbeddingLoRA, LoRA\nfrom torchtune.modules._row_lora import RowLoRA\n",
    )
    edit(table, 'Literal["lora", ', 'Literal["rows", "lora", ')
    edit(table, '= {"lora": LoRA, ', '= {"rows": RowLoRA, "lora": LoRA, ')
    python(tree, ADAPTER_WORKS)
    lora = SHOW.replace("full_finetune", "lora_finetune").replace("135m_full", "135m_lora")
    assert "kind: rows" in python(tree, lora.format(overrides=["lora.kind=rows"]))


def add_command(tree: Path) -> None:
    (tree / "torchtune/cli/_greet.py").write_text(COMMAND)
    python(tree, COMMAND_WORKS)


def add_logger(tree: Path) -> None:
    file = tree / "torchtune/utils/metric_logging.py"
    file.write_text(file.read_text() + LOGGER)
    assert LOGGER_PATH in python(tree, SHOW.format(overrides=[f"metric_logger={LOGGER_PATH}"]))


def add_dataset(tree: Path) -> None:
    (tree / "torchtune/datasets/_number.py").write_text(DATASET)
    exports = tree / "torchtune/datasets/__init__.py"
    text = exports.read_text()
    text = text.replace("\n\n__all__", "\nfrom torchtune.datasets._number import NumberDataset\n\n__all__")
    exports.write_text(text.replace("__all__ = [", '__all__ = [\n    "NumberDataset",'))
    overrides = ["dataset=torchtune.datasets.NumberDataset", "dataset.n=3"]
    assert "n: 3" in python(tree, SHOW.format(overrides=overrides))


def add_item(tree: Path) -> None:
    (tree / "torchtune/data/_answer.py").write_text(ITEM)
    exports = tree / "torchtune/data/__init__.py"
    edit(exports, "\n\n__all__", "\nfrom torchtune.data._answer import Answer\n\n__all__")
    edit(exports, "__all__ = [", '__all__ = [\n    "Answer",')
    python(tree, ITEM_WORKS)


def add_recipe(tree: Path) -> None:
    (tree / "recipes/count.py").write_text(RECIPE)
    edit(tree / "recipes/__init__.py", '"alpaca_generate"]\n\n', '"alpaca_generate", "count"]\n\n')
    stubs = tree / "torchtune/recipes"
    text = (stubs / "full_finetune.pyi").read_text()
    (stubs / "count.pyi").write_text(text.replace("full_finetune", "count"))
    lines = python(tree, RECIPE_WORKS).splitlines()
    assert any(line.split() == ["count", "Print", "numbers."] for line in lines)
    assert lines[-1] == "1 2 3 4"


def add_field(tree: Path) -> None:
    recipe = tree / "recipes/full_finetune.py"
    text = recipe.read_text()
    head = r"(class FullFinetuneConfig\(.*\n(?:.*\n){2})"
    text = re.sub(head, r'\1\n    remark: str = "none"\n    """A remark."""\n', text)
    start = "    with training.start(cfg)"
    recipe.write_text(text.replace(start, f"    print(cfg.remark)\n{start}"))
    python(tree, RENDER_CONFIGS)
    assert "remark: none" in (tree / "configs_yaml/smollm2_135m_full.yaml").read_text()
    assert "remark: mine" in python(tree, SHOW.format(overrides=["remark=mine"]))


ADDERS: dict[str, Callable[[Path], None]] = {
    "model size": add_size,
    "model family": add_family,
    "adapter kind": add_adapter,
    "command": add_command,
    "logger": add_logger,
    "dataset": add_dataset,
    "item": add_item,
    "recipe": add_recipe,
    "config field of a recipe": add_field,
}


def listed_files() -> dict[str, list[str]]:
    """Return the files that CONTRIBUTING.md lists for each kind of part, with `*` in place of placeholders."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| new | files |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {
        kind: [re.sub(r"<\w+>", "*", file) for file in re.findall(r"`([^`]*/[^`]*)`", files)]
        for kind, files in rows
    }


def contents(tree: Path) -> dict[str, bytes]:
    files = (f for folder in COPIED for f in (tree / folder).rglob("*") if f.is_file())
    return {str(f.relative_to(tree)): f.read_bytes() for f in files if f.suffix != ".pyc"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "dataset" else pytest.mark.slow) for kind in listed_files()],
)
def test_new_part_changes_exactly_the_listed_files(kind: str, tmp_path: Path) -> None:
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = contents(tmp_path)
    ADDERS[kind](tmp_path)
    after = contents(tmp_path)
    changed = {file for file in before.keys() | after.keys() if before.get(file) != after.get(file)}
    patterns = listed_files()[kind]
    assert [f for f in changed if not any(fnmatch.fnmatch(f, pattern) for pattern in patterns)] == []
    assert [p for p in patterns if not fnmatch.filter(changed, p)] == []


def test_contributing_lists_every_kind_of_part() -> None:
    assert listed_files().keys() == ADDERS.keys()
