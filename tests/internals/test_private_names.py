"""Code outside torchtune/internals does not use the internals of other libraries."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    file
    for folder in ("torchtune", "recipes", "configs_py")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if not file.is_relative_to(ROOT / "torchtune/internals")
]
REPLACED = {"__class__", "__init__", "__setattr__", "forward"}
"""Attributes that must not be assigned on objects."""
ALLOWED = {
    "_exit": "documented by os",
    "_asdict": "documented for named tuples",
    "_replace": "documented for named tuples",
    "_RECIPE_LIST": "required by the specification",
    "_CONFIG_LISTS": "required by the specification",
    "_is_protocol": "typing has no public name for it before Python 3.13",
    "_type": "the key of a feature's type in files of `datasets`",
}
"""Private names that do not belong to the internals of torch, attrs or glibc."""


def targets(node: ast.AST) -> list[ast.expr]:
    """Return the targets of an assignment, with tuples flattened."""
    if isinstance(node, ast.Assign):
        assigned = node.targets
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        assigned = [node.target]
    else:
        return []
    return [part for t in assigned for part in (t.elts if isinstance(t, ast.Tuple) else [t])]


def defined_attributes(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a file's classes define or set on `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.FunctionDef):
                    yield statement.name
                for target in targets(statement):
                    if isinstance(target, ast.Name):
                        yield target.id
                        slots = getattr(statement, "value", None) if target.id == "__slots__" else None
                        yield from ast.literal_eval(slots) if slots else ()
        for target in targets(node):
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                yield target.attr


def attributes_of_other_objects(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and name of every attribute that a file reads or sets on an object other than `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant):
                yield node.lineno, str(name.value)


def test_private_names_are_defined_in_this_project() -> None:
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    defined = {name for tree in trees.values() for name in defined_attributes(tree)}
    assert len(trees) > 200
    violations = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file, tree in trees.items()
        for line, name in attributes_of_other_objects(tree)
        if name.startswith("_") and not name.endswith("__") and name not in defined | ALLOWED.keys()
    ]
    assert violations == []


def test_no_method_or_class_of_an_object_is_replaced() -> None:
    violations = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for target in targets(node):
                if isinstance(target, ast.Attribute):
                    owner = ast.unparse(target.value).rpartition(".")[2]
                    is_step = target.attr == "step" and owner in ("optimizer", "scheduler")
                    if target.attr in REPLACED or is_step:
                        violations.append(f"{file.relative_to(ROOT)}:{target.lineno} {ast.unparse(target)}")
    assert violations == []


def test_frames_overrides_and_c_library_settings_are_used_only_in_internals() -> None:
    """Only `torchtune.internals` uses frames, torch's overrides and settings of C libraries, and calls exec."""
    forbidden = (
        "_getframe",
        "f_locals",
        "GLIBC_TUNABLES",
        "MALLOC_",
        "ONEDNN_",
        "os.exec",
        "ctypes",
        "__torch_",
    )
    violations = [
        f"{file.relative_to(ROOT)} {word}"
        for file in FILES
        for word in forbidden
        if word in file.read_text(encoding="utf-8")
    ]
    assert violations == []
