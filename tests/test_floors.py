"""design.md's floors: a file imports only from floors below its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each place may import of this project, beside itself.
MAY_IMPORT = {
    "torchtune.config": set[str](),
    "torchtune.modules": set[str](),
    "torchtune.data": set[str](),
    "torchtune.models": {"modules", "data"},
    "torchtune.datasets": {"config", "data"},
    "torchtune.utils": set[str](),
    "torchtune.generation": {"models", "modules", "data", "datasets"},
    "torchtune.training": {"models", "modules", "data", "utils", "config", "generation"},
    "torchtune.migrate": {"config"},
    "torchtune.cli": {"config", "migrate"},
    "recipes": {"config", "modules", "data", "models", "datasets", "utils", "generation", "training"},
    "configs_py": {"config", "modules", "data", "models", "datasets", "utils", "training", "recipes"},
}

# Imports inside a function, each with its reason.
LATE_IMPORTS = {
    (
        "torchtune.config",
        "cli",
    ): "Recipe.__call__ without a config is the command line; testing finds a file's recipe",
    ("torchtune.config", "training"): "check_device asks torch for the device, once a run is about to start",
    ("torchtune.config", "recipes"): "the registry is the lists in recipes/__init__.py",
    ("torchtune.cli", "models"): "tune convert",
    ("torchtune.cli", "training"): "tune validate counts what a model needs, tune data makes batches",
    ("torchtune.cli", "data"): "tune data looks at rows",
    ("torchtune.cli", "utils"): "tune plot reads metrics",
}

# Third-party packages that a floor may import at the top of a file.
LIGHT = {"attrs", "cattrs", "yaml"}
ALSO = {"pytest_plugin": {"pytest"}}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield what a file imports, and whether it does so inside a function or for type checkers only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or typing_only:
            late.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "torchtune":
                yield from ((f"torchtune.{alias.name}", node in late) for alias in node.names)
            else:
                yield node.module, node in late


def place(name: str) -> str:
    """Return the place of MAY_IMPORT that a module belongs to, without the package's name."""
    parts = name.split(".")
    return parts[1] if parts[0] == "torchtune" and len(parts) > 1 else parts[0]


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_floor_imports_only_from_floors_below(package: str) -> None:
    own = place(package)
    ours = {place(name) for name in MAY_IMPORT}
    wrong = []
    assert files_of(package)
    for file in files_of(package):
        for name, late in imports(file):
            target = place(name)
            if target not in ours or target == own or target in MAY_IMPORT[package]:
                continue
            if not (late and (package, target) in LATE_IMPORTS):
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_every_package_has_its_floor() -> None:
    packages = {f"torchtune.{p.parent.name}" for p in (ROOT / "torchtune").glob("*/__init__.py")}
    assert packages | {"recipes", "configs_py"} == MAY_IMPORT.keys()


def test_config_imports_nothing_heavy_at_the_top_of_a_file() -> None:
    seen = 0
    for file in files_of("torchtune.config"):
        for name, late in imports(file):
            first = name.partition(".")[0]
            seen += 1
            assert (
                late or first in LIGHT | {"torchtune"} | ALSO.get(file.stem, set()) | sys.stdlib_module_names
            ), f"{file.name} imports {name}"
            assert first != "torch" or late
    assert seen > 50


OF_TORCH = {"torch.utils._python_dispatch", "torch._subclasses.fake_tensor"}
"""Modules of torch whose names begin with an underscore and that its documentation sends people to nevertheless."""


def test_private_modules_are_imported_by_their_own_package_only() -> None:
    for package in MAY_IMPORT:
        for file in files_of(package):
            for name, _ in imports(file):
                if name in OF_TORCH:
                    continue
                if any(part.startswith("_") and not part.startswith("__") for part in name.split(".")):
                    assert name.startswith(f"{package}."), f"{file.relative_to(ROOT)} imports {name}"


def test_files_and_recipes_stay_short() -> None:
    for package in MAY_IMPORT:
        for file in files_of(package):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            longest = 200 if package == "recipes" else 400
            assert lines <= longest, f"{file.relative_to(ROOT)} has {lines} lines"


@pytest.mark.parametrize(
    "code",
    [
        "import torchtune, torchtune.config, recipes, configs_py",
        "from torchtune.cli import main; main(['ls'])",
        "from torchtune.cli import main; main(['--help'])",
        "from torchtune.cli import main; main(['cp', 'smollm2_135m_lora', '{folder}/a.yaml'])",
        "from torchtune.cli import main; main(['diff', 'smollm2_135m_lora', 'smollm2_135m_full'])",
        "from torchtune.cli import main; main(['__complete', 'fish', 'tune full_finetune optimizer='])",
        "from torchtune.cli import main; main(['completion', 'bash'])",
    ],
)
def test_light_calls_load_nothing_heavy(code: str, tmp_path: Path) -> None:
    heavy = ["torch", "tyro", "datasets", "transformers", "numpy", "cattrs"]
    check = f"import sys; {code.format(folder=tmp_path)}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
