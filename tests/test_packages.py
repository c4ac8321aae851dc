"""Package layers: a file imports only from lower layers, and there are no import cycles."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The packages of this project that each package may import, in addition to itself.
MAY_IMPORT = {
    "torchtune.internals": set[str](),
    "torchtune.config": {"internals"},
    "torchtune.modules": {"internals"},
    "torchtune.data": set[str](),
    "torchtune.files": set[str](),
    "torchtune.utils": {"runs"},
    "torchtune.runs": {"internals", "config", "files"},
    "torchtune.datasets": {"config", "data"},
    "torchtune.tokenizers": {"data", "files", "runs"},
    "torchtune.models": {"modules", "data", "tokenizers"},
    "torchtune.formats": {"modules", "data", "files", "runs", "tokenizers", "models"},
    "torchtune.generation": {"modules", "data", "datasets", "runs", "tokenizers", "models", "formats"},
    "torchtune.distributed": {"runs"},
    "torchtune.placement": {"internals", "config", "modules", "formats", "distributed"},
    "torchtune.training": {
        "internals", "config", "modules", "data", "files", "utils", "runs", "tokenizers", "models", "formats",
        "generation", "distributed", "placement",
    },
    "torchtune.checks": {
        "config", "modules", "data", "runs", "tokenizers", "models", "formats", "distributed", "placement",
        "training",
    },
    "torchtune.selftest": {"modules", "models", "runs", "tokenizers", "placement", "training"},
    "torchtune.plots": {"config", "files", "runs", "utils"},
    "torchtune.migrate": {"config", "runs"},
    "torchtune.cli": {
        "internals", "config", "files", "runs", "plots", "migrate", "data", "utils", "formats", "distributed",
        "placement", "training", "checks", "selftest",
    },
    "recipes": {
        "config", "modules", "data", "runs", "tokenizers", "models", "formats", "datasets", "utils", "generation",
        "distributed", "placement", "training",
    },
    "configs_py": {
        "config", "modules", "data", "tokenizers", "models", "formats", "datasets", "utils", "placement", "training",
        "recipes",
    },
}  # fmt: skip

# Imports from a higher layer, with the reason. (The registry of recipes is read by path, not imported.)
UPWARD_IMPORTS = {
    ("torchtune.config", "runs"): "`config.parse` is defined in runs and imported on first use",
}

# Third-party packages that `config` may import at the top of a file.
LIGHT = {"attrs", "cattrs", "yaml"}
EXTRA_IMPORTS = {"pytest_plugin": {"pytest"}}


@cache
def parsed(file: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield the modules that a file imports, and whether each import is in a function or only for type checkers."""
    tree = parsed(file)
    deferred: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or typing_only:
            deferred.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "torchtune":
                yield from ((f"torchtune.{alias.name}", node in deferred) for alias in node.names)
            else:
                yield node.module, node in deferred


def package_of(name: str) -> str:
    """Return the package in MAY_IMPORT that contains a module, without the prefix `torchtune.`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "torchtune" and len(parts) > 1 else parts[0]


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports, even in functions; a re-exported name counts for its definition."""
    files = {file for package in MAY_IMPORT for file in files_of(package)}
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files
    }
    trees = {name: parsed(file) for name, file in modules.items()}

    def names(node: ast.AST, *, for_type_checkers: bool) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_type_checkers:
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from names(child, for_type_checkers=for_type_checkers)

    exported = {
        name: {attribute: module for module, attribute in names(tree, for_type_checkers=True)}
        for name, tree in trees.items()
        if modules[name].name == "__init__.py" or name == "torchtune.config.model"
    }

    def defining_module(module: str, name: str) -> str:
        if f"{module}.{name}" in modules:
            return f"{module}.{name}"
        if name in exported.get(module, {}):
            return defining_module(exported[module][name], name)
        return module

    return {
        name: {defining_module(*pair) for pair in names(tree, for_type_checkers=False)}
        & modules.keys() - {name}
        for name, tree in trees.items()
    }


def test_there_are_no_import_cycles() -> None:
    graph = import_graph()
    assert "torchtune.training._run_memory" in graph["torchtune.training._start"]
    assert "torchtune.runs._folder" in graph["torchtune.cli._run"] | graph["torchtune.runs._recipe"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_from_lower_layers(package: str) -> None:
    importer = package_of(package)
    packages = {package_of(name) for name in MAY_IMPORT}
    violations = []
    assert files_of(package)
    for file in files_of(package):
        for name, deferred in imports(file):
            target = package_of(name)
            if target not in packages or target == importer or target in MAY_IMPORT[package]:
                continue
            if not (deferred and (package, target) in UPWARD_IMPORTS):
                violations.append(f"{file.relative_to(ROOT)} imports {name}")
    assert violations == []


def test_may_import_lists_every_package() -> None:
    packages = {f"torchtune.{p.parent.name}" for p in (ROOT / "torchtune").glob("*/__init__.py")}
    assert packages | {"recipes", "configs_py"} == MAY_IMPORT.keys()


def test_config_imports_no_heavy_package_at_the_top_of_a_file() -> None:
    n_imports = 0
    for file in files_of("torchtune.config"):
        for name, deferred in imports(file):
            first = name.partition(".")[0]
            n_imports += 1
            assert (
                deferred
                or first
                in LIGHT | {"torchtune"} | EXTRA_IMPORTS.get(file.stem, set()) | sys.stdlib_module_names
            ), f"{file.name} imports {name}"
            assert first != "torch" or deferred
    assert n_imports > 50


ROOT_MODULES = {
    f"torchtune.{name}"
    for name in (
        "_field_docs",
        "_pluralize",
        "_hints",
        "_home",
        "_lazy",
        "_similar_paths",
        "_bundled_packages",
    )
}
"""Private modules that every package may import."""


def test_private_modules_are_imported_only_by_their_own_package() -> None:
    for package in MAY_IMPORT:
        for file in files_of(package):
            for name, _ in imports(file):
                if name in ROOT_MODULES or (package == "torchtune.internals" and name.startswith("torch.")):
                    continue
                if any(part.startswith("_") and not part.startswith("__") for part in name.split(".")):
                    assert name.startswith(f"{package}."), f"{file.relative_to(ROOT)} imports {name}"


def test_files_have_at_most_400_lines_and_recipes_200() -> None:
    for package in MAY_IMPORT:
        for file in files_of(package):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            limit = 200 if package == "recipes" else 400
            assert lines <= limit, f"{file.relative_to(ROOT)} has {lines} lines"


@pytest.mark.parametrize(
    "code",
    [
        "import torchtune, torchtune.config, recipes, configs_py",
        "from torchtune.internals import calling_frame, calling_line, limit_heap_growth",
        "from torchtune.cli import main; main(['ls'])",
        "from torchtune.cli import main; main(['--help'])",
        "from torchtune.cli import main; main(['cp', 'smollm2_135m_lora', '{folder}/a.yaml'])",
        "from torchtune.cli import main; main(['diff', 'smollm2_135m_lora', 'smollm2_135m_full'])",
        "from torchtune.cli import main; main(['__complete', 'fish', 'tune full_finetune optimizer='])",
        "from torchtune.cli import main; main(['completion', 'bash'])",
    ],
)
def test_light_commands_import_no_heavy_package(code: str, tmp_path: Path) -> None:
    heavy = ["torch", "tyro", "datasets", "transformers", "numpy", "cattrs"]
    check = f"import sys; {code.format(folder=tmp_path)}; print([m for m in {heavy} if m in sys.modules])"
    completed = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert completed.stdout.splitlines()[-1] == "[]"


MAX_ASSIGNMENT_EXPRESSIONS = 20
"""Maximum for the library and the recipes. Use an assignment expression only if statements are harder to read."""


def nodes_of(kind: type[ast.expr], *folders: str) -> Iterator[tuple[ast.expr, str]]:
    """Yield the expressions of a kind in the files of packages, each with its location."""
    for folder in folders:
        for file in files_of(folder):
            for node in ast.walk(parsed(file)):
                if isinstance(node, kind):
                    yield node, f"{file.relative_to(ROOT)}:{node.lineno}"


def test_conditional_expressions_are_not_nested() -> None:
    nested = [
        location
        for node, location in nodes_of(ast.IfExp, "torchtune", "recipes", "configs_py")
        if any(isinstance(part, ast.IfExp) and part is not node for part in ast.walk(node))
    ]
    assert nested == []


def test_assignment_expressions_are_rare() -> None:
    locations = [location for _, location in nodes_of(ast.NamedExpr, "torchtune", "recipes")]
    assert len(locations) <= MAX_ASSIGNMENT_EXPRESSIONS, "\n".join(locations)


def test_no_package_has_more_than_4500_lines() -> None:
    packages = [folder for folder in (ROOT / "torchtune").iterdir() if (folder / "__init__.py").is_file()]
    lines = {
        package.name: sum(len(file.read_text().splitlines()) for file in package.rglob("*.py"))
        for package in packages
    }
    assert len(lines) > 10
    assert {name: n for name, n in lines.items() if n > 4500} == {}
