"""Which components a field may hold: those of torchtune and of torch that fit its type."""

import difflib
import importlib
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from torchtune.config import Mistake, Passed
from torchtune.config.model import (
    COMPONENT_KEY,
    OWN_PACKAGES,
    Layers,
    Path,
    RejectedError,
    admits,
    component_type_of,
    describe,
    dotpath,
    is_anything,
    is_component_tree,
    is_component_type,
    is_reference,
    locate,
    members,
    parameters,
    passed_in,
    slots,
    strip,
)

PACKAGES: Final = (
    "torch.nn",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torch.utils.data",
    "torchtune.datasets",
    "torchtune.formats",
    "torchtune.models",
    "torchtune.modules",
    "torchtune.tokenizers",
    "torchtune.training",
    "torchtune.utils.metric_logging",
)
"""Where the components are looked for that a schema, the help and a suggestion list."""
MOST_LISTED: Final = 8
"""Components that help and messages list by name; of the others, they give the number."""
MOST_SUGGESTED: Final = 4
"""Components that a suggestion names."""


def components_of_field(t: Any) -> list[str]:
    """Return the dotpaths of the components that a field of a type may hold; none where it takes any value."""
    component = component_type_of(t)
    wanted = (typing.get_args(strip(component)) or (Any,))[0] if is_component_type(component) else component
    if component is None or is_anything(component):
        return []
    return [path for path, _ in components_for(wanted, passed_in(component))]


def listed(paths: Sequence[str]) -> str:
    """Return dotpaths as a list, torchtune's first, and the number of those that it leaves out."""
    ordered, others = sorted(paths, key=_foreign_last), len(paths) - MOST_LISTED
    return ", ".join([*ordered[:MOST_LISTED], *([f"{others} others"] if others > 0 else [])])


def matching(name: str, paths: Sequence[str]) -> list[str]:
    """Return the dotpaths whose last names are like the last of a name, the likeliest first.

    Those that are equal to it leave out all others. Otherwise it is those that begin with it or hold it, or are held in
    it, as `AdamW` is in `adamw_torch`; without any, the one that is spelt almost so.
    """
    word = _folded(name)
    folded = {path: _folded(path) for path in sorted(paths, key=_foreign_last)}
    equal = [path for path, last in folded.items() if last == word]
    if equal or len(word) < 2:
        return equal
    holding = [path for path, last in folded.items() if word in last]
    if holding:
        return sorted(
            holding, key=lambda path: (not folded[path].startswith(word), _foreign_last(path), len(path))
        )
    held = [path for path, last in folded.items() if len(last) > 2 and last in word]
    if held:
        return [max(held, key=lambda path: len(folded[path]))]
    near = difflib.get_close_matches(word, folded.values(), 1, 0.6)
    return [path for path, last in folded.items() if last in near][:1]


def note_unknown_components(layers: Layers) -> None:
    """Note the components of a config that do not exist, each with those that its field may hold."""
    for path, value, t in _component_values(layers.wanted or Any, layers.tree, ()):
        found = _not_found(value) if isinstance(value, Mapping) else _not_a_mapping(value, t)
        if found is not None:
            suggestion = _suggestion(found, components_of_field(t))
            layers.mistakes.append(layers.located(found._replace(path=path, suggestion=suggestion)))
            # It is not known yet what replaces the component below, and so which arguments are dropped.
            layers.dropped = [dropped for dropped in layers.dropped if dropped.path != path]


def _component_values(t: Any, tree: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Yield the components of a tree, and texts in fields that take a component and no text: path, value and type."""
    if is_component_tree(tree):
        yield path, tree, t
    known = slots(t, tree)
    for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        inner = known[key].type if key in known else Any
        if isinstance(value, Mapping | list):
            yield from _component_values(inner, value, (*path, key))
        elif isinstance(value, str) and not is_reference(value) and _takes_only_components(inner):
            yield (*path, key), value, inner


def _takes_only_components(t: Any) -> bool:
    """Tell whether a field takes a component or null, and nothing else."""
    rest = [m for m in members(t if is_component_type(t) else strip(t)) if m is not type(None)]
    return bool(rest) and all(component_type_of(m) is not None and not is_anything(m) for m in rest)


def _not_found(component: Mapping[str, Any]) -> Mistake | None:
    """Return the mistake of a component whose dotpath leads to nothing; None for any other."""
    path = component[COMPONENT_KEY]
    try:
        if isinstance(path, str) and not is_reference(path):
            locate(path)
    except RejectedError as rejected:
        return next((mistake for mistake in rejected.mistakes if mistake.got), None)
    return None


def _not_a_mapping(text: str, t: Any) -> Mistake:
    expected = f"{describe(t)}, a mapping with {COMPONENT_KEY}"
    return Mistake("wrong_type", expected=expected, got=repr(text))


def _suggestion(mistake: Mistake, known: Sequence[str]) -> str:
    """Return which components are meant, or may stand in a field; what the mistake says already of the user's own."""
    name = mistake.got.strip("'")
    is_of_user = "." in name and name.partition(".")[0] not in (*OWN_PACKAGES, "torch")
    near = matching(name, known or [path for path, _ in components_for(Any, Passed())])
    if is_of_user or not (near or known):
        return mistake.suggestion
    if near:
        *others, last = [repr(path) for path in near[:MOST_SUGGESTED]]
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    return f"write one of {listed(known)}, or package.module.Name of your own"


def _folded(name: str) -> str:
    """Return the last name of a dotpath as it is compared."""
    return name.rpartition(".")[2].lower().replace("_", "").replace("-", "")


def _foreign_last(path: str) -> bool:
    return path.startswith("torch.")


def components_for(wanted: Any, passed: Passed) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public components that a field admits, by their dotpaths."""
    seen: set[str] = set()
    for module in _modules():
        for name in sorted(getattr(module, "__all__", None) or vars(module)):
            fn = getattr(module, name, None)
            if name.startswith("_") or not callable(fn) or not admits(fn, wanted, passed):
                continue
            if "component" in parameters(fn):
                continue  # it builds what a config names, such as torchtune.training.build_optimizer
            try:
                path = dotpath(fn)
            except ValueError:
                continue
            if fn is strip(wanted) and path.startswith("torch."):
                continue  # torch.optim.Optimizer is what others derive from
            if path not in seen:
                seen.add(path)
                yield path, fn


def _modules() -> Iterator[Any]:
    for name in PACKAGES:
        module = importlib.import_module(name)
        yield module
        if name == "torchtune.models":  # its families are modules
            for entry in pkgutil.iter_modules(module.__path__):
                if not entry.name.startswith("_"):
                    yield importlib.import_module(f"{name}.{entry.name}")
