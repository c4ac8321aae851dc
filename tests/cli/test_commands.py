"""The commands of `tune`: their help, their errors, and their output for the registered configs."""

import json
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.cli import commands

LORA = ("lora_finetune", "--config", "smollm2_135m_lora")


def test_help_shows_the_usage_and_every_command(tune: Tune) -> None:
    result = tune("--help")
    assert result.status == 0
    for text in (
        "tune <recipe> --config",
        "ls",
        "cp",
        "show",
        "export",
        "validate",
        "diff",
        "download",
        "convert",
    ):
        assert text in result.out


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_fits_a_terminal(command: str, tune: Tune) -> None:
    lines = tune(*filter(None, [command]), "--help").out.splitlines()
    assert lines
    assert max(map(len, lines)) <= (95 if command else 80)  # some example commands are long


def test_tune_without_arguments_prints_its_usage_and_fails(tune: Tune) -> None:
    assert tune().status == 2


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(command: str, tune: Tune) -> None:
    result = tune(command, "--help")
    assert result.status == 0
    assert result.out.startswith(f"usage: tune {command}")
    assert "  tune " in result.out


def test_ls_lists_recipes_and_their_configs_one_per_line(tune: Tune) -> None:
    lines = tune("ls").out.splitlines()
    assert lines[0].split()[0] == "full_finetune"
    assert any(line.startswith("  smollm2_135m_lora") and "LoRA" in line for line in lines)
    assert [line.split()[0] for line in tune("ls", "lora_finetune").out.splitlines()] == [
        "lora_finetune",
        "alpaca_llama2_lora_finetune",
        "smollm2_135m_lora",
        "lora",
    ]
    assert json.loads(tune("ls", "--json").out)[0]["recipe"] == "full_finetune"


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("lora_finetun", "--config", "x"), "no recipe 'lora_finetun'; did you mean 'lora_finetune'?"),
        (("lora_finetune", "--config", "smollm_135m_lora"), "did you mean 'smollm2_135m_lora'?"),
        (
            ("lora_finetune", "--config", "smollm2_135m_full"),
            "returns a FullFinetuneConfig; this recipe expects",
        ),
        (("lora_finetune", "--config"), "--config: expected a value"),
        (("lora_finetune", "--config", "none.yaml"), "none.yaml: no such file"),
        (("./none.py", "--config", "none.yaml"), "./none.py: no such file"),
        (("validate",), "no recipe given; tune ls lists the recipes"),
        (("ls", "nothing"), "no recipe 'nothing'"),
        (("ls", "--what"), "--what: unknown option; tune ls --help lists the options"),
        (("cp", "smollm2_135m_lor", "x.yaml"), "did you mean 'smollm2_135m_lora'?"),
        (("cp", "smollm2_135m_lora", "x.txt"), "configs can only be copied to .py or .yaml files"),
        (("diff", "smollm2_135m_lora"), "smollm2_135m_lora: not a run's folder; pass a second config"),
        (("diff", "smollm2_135m_lora", "none.yaml"), "none.yaml: no such file"),
        (("convert", "none.gguf", "out"), "none.gguf"),
        (("download", "a/b"), "tune download expects a repository and --output-dir"),
    ],
)
def test_invalid_arguments_exit_with_status_2_and_advice(
    args: tuple[str, ...], part: str, tune: Tune
) -> None:
    result = tune(*args)
    assert result.status == 2
    assert part in result.err


def test_copied_yaml_is_valid_and_equals_the_original(tune: Tune, tmp_path: Path) -> None:
    path = str(tmp_path / "mine.yaml")
    assert tune("cp", "smollm2_135m_lora", path).status == 0
    assert tune("validate", "lora_finetune", "--config", path).status == 0
    assert tune("show", "lora_finetune", "--config", path).out == tune("show", *LORA).out
    assert tune("cp", "smollm2_135m_lora", path).status == 2
    assert tune("cp", "smollm2_135m_lora", path, "--force").status == 0


@pytest.mark.slow
def test_validate_itemises_the_memory_per_step(tune: Tune) -> None:
    args = (
        "validate",
        "full_finetune",
        "--config",
        "smollm2_135m_full",
        "loading.packing.length=256",
        "batch_size=1",
    )
    lines = tune(*args, "device=cpu", "--memory").out.partition("\n\n")[2].splitlines()
    sizes = {line[4:20].strip(): line[20:30].strip() for line in lines}
    assert list(sizes)[:4] == ["weights", "optimizer state", "gradients", "activations"]
    assert list(sizes)[-2:] == ["heap", "peak"]
    assert (sizes["weights"], sizes["optimizer state"]) == ("513 MiB", "1.00 GiB")
    assert sizes["peak"].endswith("GiB")
    assert "1 batch row of 256 tokens" in lines[3]
    needs = json.loads(tune(*args, "device=cpu", "--json").out)["needs"]
    assert needs["total"] < needs["peak"] - needs["heap"] < needs["total"] + needs["activations"]
    assert needs["mapped"] == 0
    assert "heap" not in tune(*args, "device=cuda", "--memory").out


def test_copied_python_config_equals_the_original(tune: Tune, tmp_path: Path) -> None:
    path = str(tmp_path / "my_copied_runs.py")
    assert tune("cp", "smollm2_135m_lora", path).status == 0
    assert (
        tune("show", "lora_finetune", "--config", f"{path}:smollm2_135m_lora").out == tune("show", *LORA).out
    )
    assert tune("show", "lora_finetune", "--config", path).out == tune("show", *LORA).out


def test_copied_recipe_is_valid(tune: Tune, tmp_path: Path) -> None:
    path = str(tmp_path / "my_copied_recipe.py")
    assert tune("cp", "full_finetune", path).status == 0
    yaml = str(tmp_path / "my.yaml")
    tune("cp", "smollm2_135m_full", yaml)
    assert tune("validate", path, "--config", yaml).out.startswith("ok")


def test_origins_show_the_location_of_every_value(tune: Tune) -> None:
    lines = tune("show", *LORA, "--origins", "--override", "optimizer.lr=1e-4").out.splitlines()
    assert any(
        line.startswith("optimizer.lr: 0.0001 ") and "--override optimizer.lr=1e-4" in line for line in lines
    )
    assert all(
        "# configs_py/smollm2.py:" in line or "# default of" in line or "--override" in line for line in lines
    )


def test_export_is_complete_and_reproducible(tune: Tune, tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    assert tune("export", *LORA, "-o", first).status == 0
    assert tune("export", "lora_finetune", "--config", first, "-o", second).status == 0
    text = Path(first).read_text()
    assert text == Path(second).read_text()
    assert "betas:" in text
    assert "${model_directory}" in text
    assert "${" not in tune("export", *LORA, "--resolved").out


def test_diff_prints_the_differing_fields(tune: Tune, tmp_path: Path) -> None:
    path = str(tmp_path / "a.yaml")
    tune("cp", "smollm2_135m_lora", path)
    assert tune("diff", "smollm2_135m_lora", path).out == "no differences\n"
    Path(path).write_text(Path(path).read_text().replace("batch_size: 8", "batch_size: 2"))
    assert tune("diff", "smollm2_135m_lora", path).out == "batch_size: 8 -> 2\n"


@pytest.mark.slow
def test_validate_all_accepts_every_registered_config(tune: Tune) -> None:
    result = tune("validate", "--all")
    assert result.status == 0
    assert result.out.count(": ok") == len(result.out.splitlines()) >= 6
    assert "lora_finetune --config lora: ok (to be set: model_directory, dataset.source)\n" in result.out


def test_help_of_a_recipe_shows_fields_types_values_and_documentation(tune: Tune) -> None:
    text = " ".join(tune(*LORA, "--help").out.replace("│", " ").split())
    for part in (
        "--batch_size INT Number of examples (or packs) per forward pass on each rank. (config: 8)",
        "--optimizer.lr FLOAT Learning rate",
        "--lora.rank INT Rank (inner dimension) of an adapter. (config: 16)",
        "--dataset.source PATH|LIST The rows",
    ):
        assert part in text


def test_missing_gpu_is_reported_before_anything_is_written(tune: Tune, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = tune(*LORA, "--override", "device=cuda", f"output_dir={tmp_path / 'r'}")
    assert result.status == 2
    assert "device: this machine has no CUDA GPU" in result.err
    assert not (tmp_path / "r").exists()


def test_help_documents_a_component_set_by_an_override(tune: Tune) -> None:
    result = tune("lora_finetune", "--config", "smollm2_135m_lora", "--help", "optimizer=torch.optim.SGD")
    assert "--optimizer.momentum" in result.out
    assert "--optimizer.betas" not in result.out
    assert "torch.optim.SGD" in result.out


def test_config_of_a_recipe_without_a_config_class_can_have_any_components(
    tune: Tune, tmp_path: Path
) -> None:
    recipe, config = tmp_path / "own.py", tmp_path / "own.yaml"
    recipe.write_text(
        "from torchtune import config\n\n\n@config.parse\ndef main(cfg):\n    print(cfg.steps)\n"
    )
    tokenizer = "{_component_: torchtune.tokenizers.HFTokenizer, path: tokenizer.json}"
    dataset = "{_component_: torchtune.datasets.InstructDataset, source: rows.json}"
    config.write_text(f"steps: 1\ntokenizer: {tokenizer}\ndataset: {dataset}\n")
    result = tune("validate", str(recipe), "--config", str(config))
    assert (result.status, result.out) == (0, "ok\n")
