"""If a command of another tool is not supported or has a different name in `tune`, `tune` prints advice."""

import re
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.cli import commands
from torchtune.runs import config_sources, recipe_names
from torchtune.runs._alternatives import OTHER_NAMES, UNSUPPORTED, Task, alternative_for

PAGE = (Path(__file__).parents[2] / "docs/what_it_does.md").read_text(encoding="utf-8")
TASKS = (*UNSUPPORTED, *OTHER_NAMES)
KEYWORDS = [keyword for task in TASKS for keyword in task.keywords.split()]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.keywords.split()[0])
def test_page_has_a_row_for_each_task(task: Task) -> None:
    keywords = ", ".join(f"`{keyword}`" for keyword in task.keywords.split())
    assert f"| {keywords} | {task.summary} | {task.alternative} |\n" in PAGE


def test_page_has_no_other_rows() -> None:
    assert len(re.findall(r"(?m)^\| `\w+`.* \|$", PAGE.partition("## Not supported")[2])) == len(TASKS)


def test_keywords_are_unique_and_differ_from_the_names_that_tune_accepts() -> None:
    assert len(KEYWORDS) == len(set(KEYWORDS))
    assert not {*KEYWORDS} & {*commands(), *recipe_names(), *config_sources()}


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_advice_for_a_keyword_is_one_line(keyword: str, tune: Tune) -> None:
    for args in ((keyword,), (keyword.upper().replace("_", "-"), "--config", "x.yaml"), ("run", keyword)):
        result = tune(*args)
        assert result.status == 2
        assert result.out == ""
        head, line = result.err.splitlines()
        assert head == "1 mistake on the command line:"
        assert "not a recipe or command; " in line


@pytest.mark.parametrize("name", ["lora_dpo_single_device", "full-grpo", "qat_distributed", "my_kd_recipe"])
def test_recipe_names_of_other_projects_get_advice_for_their_method(name: str, tune: Tune) -> None:
    assert re.search("there (is|are) no recipes? for |weights are not quantized: ", tune(name).err)


@pytest.mark.parametrize(
    "args",
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
def test_every_command_that_accepts_a_name_gives_the_same_advice(args: str, tune: Tune) -> None:
    result = tune(*args.split())
    assert result.status == 2
    assert (
        "; there is no recipe for preference tuning: docs/custom_recipe.md shows how to write one"
        in result.err
    )


@pytest.mark.parametrize("name", ["lora_finetun", "nonsense", "lora", "./train.py", "evaluation_of_mine"])
def test_other_unknown_names_get_no_advice(name: str, tune: Tune) -> None:
    assert alternative_for(name) is None
    assert tune(name).status == 2


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_overrides_in_the_advice_about_loggers_are_valid(logger: str, tune: Tune) -> None:
    pytest.importorskip(logger)
    alternative = alternative_for(logger)
    assert alternative is not None
    overrides = [part for part in alternative[1].split() if "=" in part]
    assert len(overrides) > 1
    result = tune("validate", "lora_finetune", "--config", "smollm2_135m_lora", *overrides)
    assert result.out.startswith("ok"), result.err


def test_commands_in_the_advice_exist() -> None:
    names = re.findall(
        r"(?<!-)\btune (?:--nproc_per_node 2 )?(\w+)", " ".join(task.alternative for task in TASKS)
    )
    assert len(names) > 15
    assert {*names} <= {*commands(), *recipe_names()}
    configs = re.findall(r"--config ([a-z]\w*)", " ".join(task.alternative for task in TASKS))
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
def test_converting_to_a_file_is_rejected_and_writes_nothing(
    target: str, advice: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tune("convert", "m", target)
    assert result.status == 2
    assert f"{target}: tune convert writes a folder, not a file; " in result.err
    assert advice in result.err
    assert not any(tmp_path.iterdir())


ADVICE_BY_ARGUMENTS = {
    "~lora": "use lora=null or lora=default",
    "~dataset.split=x": "use dataset.split=null or dataset.split=default",
    "++batch_size=4": "use batch_size=4",
    "--multirun": "a command starts a single run; start several",
    "hydra.task.summary=x": "Hydra's settings are not supported",
    "--nproc_per_node 2": "--nproc_per_node is an option of torchrun and comes before the recipe",
    "--nproc-per-node=2": "--nproc-per-node is an option of torchrun and comes before the recipe",
    "--standalone": "--standalone is an option of torchrun and comes before the recipe",
    "--num_processes 2": "use tune --nproc_per_node N before the recipe",
    "--num-gpus=2": "use tune --nproc_per_node N before the recipe",
    "--num_machines=2": "use tune --nnodes N before the recipe",
    "--local-rank=0": "torchrun assigns ranks",
    "CUDA_VISIBLE_DEVICES=0": "CUDA_VISIBLE_DEVICES=0 tune ...",
}


@pytest.mark.parametrize("args", ADVICE_BY_ARGUMENTS)
def test_hydra_and_launcher_arguments_after_the_recipe_get_advice(args: str, tune: Tune) -> None:
    result = tune("lora_finetune", "--config", "smollm2_135m_lora", *args.split())
    assert result.status == 2
    assert ADVICE_BY_ARGUMENTS[args] in result.err
    assert len(result.err.splitlines()) == 2
