"""The names this node answers to. Resolving is a look-up in a table made when models change; nothing is asked for it.

    llama3.1:8b            every copy of that name: ours, and those that other nodes have
    llama3.1:8b@studio     the copy at one node
    ollama/llama3.1:8b     the copies of one kind (local, ollama, openai); `ollama_llama3.1:8b` means the same
    fast                   a configured alias: another name, or several of which one is picked

An exact name wins over reading a prefix.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

from modelyard.errors import ModelNotFound, YardError
from modelyard.types.model import NAME_CHARS_MAX, Candidates, Kind, Model, Pick

from .problems import unusable

NEAR_COUNT_MAX = 3
NEAR_RATIO_MIN = 0.5
COMPARED_COUNT_MAX = 2000
ALIAS_STEPS_MAX = 8
KINDS: tuple[Kind, ...] = ("local", "ollama", "openai")

Alias = str | tuple[Pick, Sequence[str]]  # another name, or several of which one is picked


class Catalog:
    """Models by name. Owners replace their part of it, after a scan or a look at a node; everybody else reads."""

    def __init__(
        self,
        models: Iterable[Model] = (),
        aliases: Mapping[str, Alias] | None = None,
        roles: Mapping[str, str] | None = None,
        order: Sequence[Kind] = KINDS,
    ) -> None:
        """Roles are aliases that also keep account of for whom a model is in memory. `order` is that of copies."""
        # Why there is nothing of a name at a node, if that is about the node.
        self.why_nothing_at: Callable[[str, str], YardError | None] = lambda _name, _node: None
        self._here: tuple[Model, ...] = tuple(models)
        self._there: dict[str, tuple[Model, ...]] = {}
        self._models: tuple[Model, ...] = ()
        self._by_name: Mapping[str, Candidates] = {}
        self.configure(aliases or {}, roles or {}, order)

    def list(self) -> tuple[Model, ...]:
        """Every model and every copy of one, by name, damaged ones included."""
        return self._models

    def role_of(self, text: str) -> str:
        """The role that a name is; empty for any other name, a model's own among them."""
        found = self._by_name.get(name := _folded(text)) if len(text) <= NAME_CHARS_MAX else None
        return name if name in self._roles and found is not None and found.name != name else ""

    def configure(
        self, aliases: Mapping[str, Alias], roles: Mapping[str, str], order: Sequence[Kind] | None = None
    ) -> None:
        """Take other configured names in place of the old ones."""
        self._roles = frozenset(_folded(role) for role in roles)
        self._configured = {
            _folded(alias): _folded(target)
            if isinstance(target, str)
            else (target[0], tuple(_folded(name) for name in target[1]))
            for alias, target in {**aliases, **roles}.items()
        }
        if order is not None:
            rest = tuple(kind for kind in KINDS if kind not in order)
            self._places = {kind: place for place, kind in enumerate((*order, *rest))}
        self._index()

    def replace(self, models: Iterable[Model]) -> None:
        """Take new models of this machine in place of the old ones."""
        self._here = tuple(models)
        self._index()

    def replace_node(self, node: str, models: Iterable[Model]) -> bool:
        """Take what a node has now; none: forget it. Tell whether that changed anything."""
        now = tuple(sorted(models, key=lambda model: model.name))
        if self._there.get(node, ()) == now:
            return False
        self._there[node] = now
        if not now:
            del self._there[node]
        self._index()
        return True

    def find(self, text: str) -> Model | None:
        """The first model of that name, whatever its state; case and the tag `latest` do not matter."""
        found = self._lead(text)
        return found.models[0] if found is not None else None

    def resolve(self, text: str) -> Model:
        """The first servable model of that name, or `ModelNotFound`, or `ModelFileError` for a damaged one."""
        return self.candidates(text).models[0]

    def candidates(self, text: str) -> Candidates:
        """Every servable model that may answer for a name. Raises as `resolve` does."""
        found = self._lead(text)
        if found is None:
            near = self._near(_folded(text[:NAME_CHARS_MAX]))
            shown = text if len(text) <= NAME_CHARS_MAX else text[:NAME_CHARS_MAX] + "..."
            _name, at, node = _folded(shown).rpartition("@")
            if at and (error := self.why_nothing_at(shown, node)) is not None:
                raise error
            if near:
                raise ModelNotFound(model=shown, near=", ".join(near), param="model")
            raise ModelNotFound(model=shown, param="model")
        if not any(model.problem for model in found.models):
            return found
        servable = tuple(model for model in found.models if not model.problem)
        if not servable:
            raise unusable(found.models[0], param="model")
        return Candidates(found.name, servable, found.pick)

    def _lead(self, text: str) -> Candidates | None:
        name = _folded(text)
        return (self._by_name.get(name) or _of_kind(name, self._by_name)) if len(text) <= NAME_CHARS_MAX else None

    def _index(self) -> None:
        copies = (model for models in self._there.values() for model in models)
        ordered = tuple(sorted((*self._here, *copies), key=lambda model: model.name))
        bare: dict[str, list[Model]] = {}
        for model in ordered:
            bare.setdefault(_folded(model.bare_name), []).append(model)
        # (1) names, (2) names of single copies, (3) configured aliases, (4) aliases from files: the first wins.
        by_name = {
            name: Candidates(models[0].bare_name, tuple(sorted(models, key=lambda model: self._places[model.kind])))
            for name, models in bare.items()
        }
        own: dict[str, Candidates] = {}
        for model in ordered:
            by_name.setdefault(_folded(model.name), Candidates(model.bare_name, (model,)))
            for alias in model.aliases:
                own.setdefault(_folded(alias), by_name[_folded(model.bare_name)])
        ends = ((alias, self._end_of(alias, by_name, own)) for alias in self._configured if alias not in by_name)
        self._by_name = {**own, **{alias: end for alias, end in ends if end is not None}, **by_name}
        self._models = ordered

    def _end_of(
        self, name: str, names: Mapping[str, Candidates], own: Mapping[str, Candidates], steps: int = ALIAS_STEPS_MAX
    ) -> Candidates | None:
        """Follow aliases of aliases up to models. A circle ends nowhere, and so leads to no model."""
        if name in names:
            return names[name]
        target = self._configured.get(name)
        if target is None:
            return own.get(name) or _of_kind(name, names)
        if not steps:
            return None
        if isinstance(target, str):
            return self._end_of(target, names, own, steps - 1)
        pick, several = target
        ends = (self._end_of(one, names, own, steps - 1) for one in several)
        models = {model.name: model for end in ends if end is not None for model in end.models}
        return Candidates(name, tuple(models.values()), pick) if models else None

    def _near(self, folded: str) -> tuple[str, ...]:
        names = [*self._by_name][:COMPARED_COUNT_MAX]
        parts = [name for name in names if len(folded) >= 3 and (folded in name or name in folded)]
        alike = difflib.get_close_matches(folded, names, NEAR_COUNT_MAX, NEAR_RATIO_MIN)
        nearest: dict[str, None] = {}
        for name in [*alike, *parts]:
            nearest.setdefault(self._by_name[name].name)
        return (*nearest,)[:NEAR_COUNT_MAX]


def _folded(text: str) -> str:
    """A name as it is compared.

    >>> _folded(" Qwen:Latest "), _folded("qwen:latest@studio")
    ('qwen', 'qwen@studio')
    """
    name, at, node = text.strip().lower().partition("@")
    return name.removesuffix(":latest") + at + node


def _of_kind(name: str, names: Mapping[str, Candidates]) -> Candidates | None:
    """Where a name begins with a kind: the copies of that kind."""
    for kind in KINDS:
        if name.startswith((f"{kind}/", f"{kind}_")):
            found = names.get(name[len(kind) + 1 :])
            models = tuple(model for model in found.models if model.kind == kind) if found is not None else ()
            return Candidates(models[0].bare_name, models) if models else None
    return None
