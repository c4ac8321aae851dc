"""What is asked of `tune` that it does not do, or does under another name."""

import re
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.cli import verbs
from torchtune.runs import config_sources, recipe_names
from torchtune.runs._elsewhere import NOT_HERE, OTHERWISE, Job, pointer_for

PAGE = (Path(__file__).parents[2] / "docs/what_it_does.md").read_text(encoding="utf-8")
JOBS = (*NOT_HERE, *OTHERWISE)
WORDS = [word for job in JOBS for word in job.words.split()]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.words.split()[0])
def test_page_has_a_row_for_each_job(job: Job) -> None:
    words = ", ".join(f"`{word}`" for word in job.words.split())
    assert f"| {words} | {job.name} | {job.instead} |\n" in PAGE


def test_page_has_no_other_rows() -> None:
    assert len(re.findall(r"(?m)^\| `\w+`.* \|$", PAGE.partition("## It does not")[2])) == len(JOBS)


def test_words_are_those_of_one_job_and_of_nothing_that_exists() -> None:
    assert len(WORDS) == len(set(WORDS))
    assert not {*WORDS} & {*verbs(), *recipe_names(), *config_sources()}


@pytest.mark.parametrize("word", WORDS)
def test_word_is_answered_in_one_line(word: str, tune: Tune) -> None:
    for words in ((word,), (word.upper().replace("_", "-"), "--config", "x.yaml"), ("run", word)):
        result = tune(*words)
        assert result.status == 2
        assert result.out == ""
        head, line = result.err.splitlines()
        assert head == "1 mistake in the command line:"
        assert "is no recipe or verb; " in line


@pytest.mark.parametrize("name", ["lora_dpo_single_device", "full-grpo", "qat_distributed", "my_kd_recipe"])
def test_recipes_of_other_projects_are_answered_by_their_method(name: str, tune: Tune) -> None:
    assert re.search("(has|have) no recipe: |weights are not quantised: ", tune(name).err)


@pytest.mark.parametrize(
    "words",
    [
        "validate dpo",
        "validate lora_dpo_single_device --config x.yaml",
        "show dpo",
        "data dpo",
        "export dpo",
        "schema dpo",
        "run dpo --help",
        "validate lora_finetune --config dpo",
        "lora_finetune --config smollm2_dpo",
        "cp dpo my.py",
        "diff dpo smollm2_135m_lora",
        "diff smollm2_135m_lora dpo",
    ],
)
def test_every_command_that_takes_a_name_answers_as_tune_does(words: str, tune: Tune) -> None:
    result = tune(*words.split())
    assert result.status == 2
    assert "; preference tuning has no recipe: docs/own_recipe.md writes one" in result.err


@pytest.mark.parametrize("name", ["lora_finetun", "nonsense", "lora", "./train.py", "evaluation_of_mine"])
def test_other_names_are_answered_as_before(name: str, tune: Tune) -> None:
    assert pointer_for(name) is None
    assert tune(name).status == 2


@pytest.mark.parametrize("word", ["tensorboard", "wandb"])
def test_the_loggers_that_are_named_validate_as_they_are_written(word: str, tune: Tune) -> None:
    pytest.importorskip(word)
    pointer = pointer_for(word)
    assert pointer is not None
    overrides = [part for part in pointer[1].split() if "=" in part]
    assert len(overrides) > 1
    result = tune("validate", "lora_finetune", "--config", "smollm2_135m_lora", *overrides)
    assert result.out.startswith("ok"), result.err


def test_commands_that_are_named_exist() -> None:
    named = re.findall(r"(?<!-)\btune (?:--nproc_per_node 2 )?(\w+)", " ".join(job.instead for job in JOBS))
    assert len(named) > 15
    assert {*named} <= {*verbs(), *recipe_names()}
    configs = re.findall(r"--config ([a-z]\w*)", " ".join(job.instead for job in JOBS))
    assert {*configs} <= {*config_sources()}


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("out.gguf", "tune convert m out; python convert_hf_to_gguf.py out --outfile out.gguf"),
        ("a b/Out.Q4_K_M.GGUF", "a b/Out.Q4_K_M --outfile"),
        ("model.safetensors", "tune convert m model writes model/model.safetensors"),
        ("pytorch_model.bin", "tune convert m pytorch_model writes"),
        ("consolidated.00.pth", "tune convert m consolidated.00 writes"),
        ("x.onnx", "optimum-cli export onnx"),
    ],
)
def test_file_as_the_target_of_a_conversion_is_a_mistake_and_nothing_is_written(
    target: str, advice: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tune("convert", "m", target)
    assert result.status == 2
    assert f"{target}: a folder is written, and no such file; " in result.err
    assert advice in result.err
    assert not any(tmp_path.iterdir())


LAUNCHERS = {
    "~lora": "write lora=null or lora=default",
    "~dataset.split=x": "write dataset.split=null or dataset.split=default",
    "++batch_size=4": "write batch_size=4",
    "--multirun": "a call is one run",
    "hydra.job.name=x": "hydra's own settings are not read",
    "--nproc_per_node 2": "--nproc_per_node is torchrun's and stands before the recipe",
    "--nproc-per-node=2": "--nproc-per-node is torchrun's and stands before the recipe",
    "--standalone": "--standalone is torchrun's and stands before the recipe",
    "--num_processes 2": "write tune --nproc_per_node N before the recipe",
    "--num-gpus=2": "write tune --nproc_per_node N before the recipe",
    "--num_machines=2": "write tune --nnodes N before the recipe",
    "--local-rank=0": "ranks are numbered by torchrun",
    "CUDA_VISIBLE_DEVICES=0": "CUDA_VISIBLE_DEVICES=0 tune ...",
}


@pytest.mark.parametrize("words", LAUNCHERS)
def test_words_of_hydra_and_launchers_after_the_recipe_are_answered(words: str, tune: Tune) -> None:
    result = tune("lora_finetune", "--config", "smollm2_135m_lora", *words.split())
    assert result.status == 2
    assert LAUNCHERS[words] in result.err
    assert len(result.err.splitlines()) == 2
