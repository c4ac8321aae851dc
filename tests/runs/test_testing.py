"""torchtune's helpers for testing configs with pytest."""

import types
from pathlib import Path

import pytest

from tests.config import sample
from torchtune.config import ConfigError
from torchtune.config.model import dotted
from torchtune.runs import testing

pytest_plugins = ["pytester"]


def broken() -> sample.Config:
    """Return a config with two mistakes."""
    return sample.Config(output_dir="x", batch_size=0, dtype="fp23")  # type: ignore[arg-type]  # under test


def test_check_returns_the_resolved_config() -> None:
    cfg = testing.check(sample.rich, recipe=sample.main)
    assert cfg.batch_size == 8
    assert cfg.extra[0].keywords["source"] == "data/more.json"
    assert testing.check("smollm2_135m_lora", "optimizer.lr=0.5").optimizer.keywords["lr"] == 0.5


def test_check_raises_every_mistake_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        testing.check(broken, "epochs=0", recipe=sample.main)
    assert [dotted(m.path) for m in caught.value.mistakes] == ["dtype", "batch_size", "epochs"]
    assert str(caught.value.mistakes[0].location).endswith("test_testing.py:18")


def test_check_infers_the_recipe_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("_base_: smollm2_135m_full\nseed: 3\n")
    assert testing.check(tmp_path / "my.yaml").seed == 3
    (tmp_path / "mine.yaml").write_text("# recipe: lora_finetune\noutput_dir: x\n")
    with pytest.raises(ConfigError, match="mistakes in the config of lora_finetune"):
        testing.check(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match="did you mean 'smollm2_135m_lora'"):
        testing.check("smollm2_135m_lor")
    (tmp_path / "none.yaml").write_text("nothing: x\n")
    with pytest.raises(ConfigError, match="its fields match no recipe"):
        testing.check(tmp_path / "none.yaml")


def test_functions_of_a_module_include_only_config_functions() -> None:
    assert testing.functions_of(sample) == [sample.plain, sample.rich]
    with pytest.raises(ValueError, match="no function with a config class as its return annotation"):
        testing.functions_of(types.ModuleType("empty"))


def test_golden_error_lists_the_differing_leaves(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not exist yet; create it with pytest --update-configs"):
        testing.compare_with_golden(sample.plain, tmp_path)
    testing.compare_with_golden(sample.plain, tmp_path, update=True)
    testing.compare_with_golden(sample.plain, tmp_path)
    file = tmp_path / "plain.yaml"
    file.write_text(file.read_text().replace("batch_size: 8", "batch_size: 9"))
    with pytest.raises(AssertionError, match="batch_size: 9 -> 8"):
        testing.compare_with_golden(sample.plain, file)


def test_user_suite_writes_and_then_checks_golden_configs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        guarded_configs="""
            from configs_py.smollm2 import smollm2_135m_full
            from recipes.full_finetune import FullFinetuneConfig

            def mine() -> FullFinetuneConfig:
                cfg = smollm2_135m_full()
                cfg.batch_size = 2
                return cfg
        """,
        test_mine="""
            from pathlib import Path
            import guarded_configs, pytest
            from torchtune.runs import testing

            @pytest.mark.parametrize("make", testing.functions_of(guarded_configs))
            def test_config(make, golden_config):
                testing.check(make)
                golden_config(make, Path("goldens"))
        """,
    )
    pytester.syspathinsert()
    plugin = ("-p", "no:cacheprovider")
    pytester.runpytest(*plugin).assert_outcomes(failed=1)
    pytester.runpytest(*plugin, "--update-configs").assert_outcomes(passed=1)
    pytester.runpytest(*plugin).assert_outcomes(passed=1)
    golden = pytester.path / "goldens/mine.yaml"
    golden.write_text(golden.read_text().replace("batch_size: 2", "batch_size: 3"))
    result = pytester.runpytest(*plugin)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*batch_size: 3 -> 2*"])
