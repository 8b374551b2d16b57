"""The names this node answers to. Resolving is a look-up in a table made when the models change; no file is touched."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from modelyard.errors import ModelFileError, ModelNotFound
from modelyard.types.model import NAME_CHARS_MAX, Model

NEAR_COUNT_MAX = 3
NEAR_RATIO_MIN = 0.5
COMPARED_COUNT_MAX = 2000
ALIAS_STEPS_MAX = 8


class Catalog:
    """Models by name. One owner replaces them after a scan; everybody else reads."""

    def __init__(
        self,
        models: Iterable[Model] = (),
        aliases: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
    ) -> None:
        """Roles are aliases that also keep account of for whom a model is in memory."""
        self._roles = frozenset(_folded(role) for role in roles or {})
        given = {**(aliases or {}), **(roles or {})}
        self._configured = {_folded(alias): _folded(target) for alias, target in given.items()}
        self._models: tuple[Model, ...] = ()
        self._by_name: Mapping[str, Model] = {}
        self.replace(models)

    def list(self) -> tuple[Model, ...]:
        """Every model, by name, damaged ones included."""
        return self._models

    def aliases(self) -> Mapping[str, str]:
        """Every other name that leads to a model, and the model's name."""
        return MappingProxyType({n: model.name for n, model in self._by_name.items() if n != model.name})

    def role_of(self, text: str) -> str:
        """The role that a name is; empty for any other name, a model's own among them."""
        model = self.find(text)
        name = _folded(text) if model is not None else ""
        return name if name in self._roles and model is not None and _folded(model.name) != name else ""

    def replace(self, models: Iterable[Model]) -> None:
        """Take new models in place of the old ones; configured aliases stay."""
        ordered = tuple(sorted(models, key=lambda model: model.name))
        by_name: dict[str, Model] = {}
        for model in ordered:
            by_name.setdefault(_folded(model.name), model)
        # (1) names, (2) configured aliases, (3) aliases from files: what comes first wins.
        for alias in self._configured:
            end = self._end_of(alias, by_name)
            target = by_name.get(end) or _by_own_alias(ordered, end)
            if target is not None:
                by_name.setdefault(alias, target)
        for model in ordered:
            for own in model.aliases:
                by_name.setdefault(_folded(own), model)
        self._models, self._by_name = ordered, by_name

    def find(self, text: str) -> Model | None:
        """The model of that name, whatever its state; case and the tag `latest` do not matter."""
        return self._by_name.get(_folded(text)) if len(text) <= NAME_CHARS_MAX else None

    def resolve(self, text: str) -> Model:
        """The servable model of that name, or `ModelNotFound`, or `ModelFileError` for a damaged one."""
        model = self.find(text)
        if model is None:
            near = self._near(_folded(text[:NAME_CHARS_MAX]))
            shown = text if len(text) <= NAME_CHARS_MAX else text[:NAME_CHARS_MAX] + "..."
            if near:
                raise ModelNotFound(model=shown, near=", ".join(near), param="model")
            raise ModelNotFound(model=shown, param="model")
        if model.problem:
            path = str(model.files[0]) if model.files else model.name
            raise ModelFileError(path=path, problem=model.problem, param="model")
        return model

    def _end_of(self, alias: str, by_name: Mapping[str, Model]) -> str:
        """Follow aliases of aliases up to a model's name. A circle ends nowhere, and so leads to no model."""
        name = alias
        for _step in range(ALIAS_STEPS_MAX):
            if name in by_name or name not in self._configured:
                return name
            name = self._configured[name]
        return ""

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

    >>> _folded(" Qwen:Latest ")
    'qwen'
    """
    return text.strip().lower().removesuffix(":latest")


def _by_own_alias(models: tuple[Model, ...], folded: str) -> Model | None:
    return next((model for model in models if folded in (_folded(alias) for alias in model.aliases)), None)
