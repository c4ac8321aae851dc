"""Configs of other projects, turned into ours or explained key by key."""

from torchtune.migrate._datasets import ImportedDataset, import_dataset
from torchtune.migrate._methods import other_method
from torchtune.migrate._models import model_places
from torchtune.migrate._projects import explain_keys, project_of
from torchtune.migrate._tokenizers import import_tokenizer, why_none

__all__ = [
    "ImportedDataset",
    "explain_keys",
    "import_dataset",
    "import_tokenizer",
    "model_places",
    "other_method",
    "project_of",
    "why_none",
]
