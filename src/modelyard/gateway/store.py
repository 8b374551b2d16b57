"""Fetching, removing and copying models, here or at a node: whoever has, or is to have, the file is told to act.

A name may say where (`name@node`); else it is where the model is, if that is one place. What comes from a registry goes
into our store. Files here are removed only from the store and the configured folders, after the model has left memory.
Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from modelyard.errors import N_, BadRequest, ModelNotFound, NotBuilt
from modelyard.models.catalog import Catalog
from modelyard.registry import reference
from modelyard.registry.pulls import Pulls
from modelyard.registry.transfer import disk_errors
from modelyard.types.model import Model, ModelRef

from .audit import audited
from .keys import Caller
from .node_operations import NodeOperations
from .operations import Operations

HERE = "local"


class ModelStore:
    """What can be done to model files, wherever they are."""

    def __init__(
        self,
        catalog: Catalog,
        operations: Operations,
        nodes: NodeOperations,
        folders: Callable[[], Sequence[Path]],
        pulls: Pulls,
    ) -> None:
        self._catalog, self._operations, self._nodes, self._folders = catalog, operations, nodes, folders
        self._pulls = pulls

    async def pull(self, caller: Caller, name: str, node: str | None = None) -> AsyncIterator[Mapping[str, object]]:
        """Bring a registry's model into our store, or have a node fetch one. One that is here already is reported."""
        if node in (None, HERE) and (wanted := _registered(name)) is not None:
            with audited(caller, "pull", wanted.source):
                async with aclosing(self._pulls.pull(wanted)) as steps:  # type: ignore[type-var]
                    async for step in steps:
                        yield step
            return
        plain, node = _split(name, node)
        with audited(caller, "pull", f"{plain}@{node}" if node else plain):
            found = self._catalog.find(plain)
            if found is not None and not found.node and node in (None, HERE):
                yield {"status": "success"}
                return
            async for progress in self._nodes.pull(self._puller(plain, node), plain):
                yield progress

    async def delete(self, caller: Caller, name: str, node: str | None = None) -> None:
        """Remove a model's files, where it is."""
        plain, node = _split(name, node)
        with audited(caller, "delete", f"{plain}@{node}" if node else plain):
            model = self._one(plain, node)
            if plain.lower().removesuffix(":latest") not in (model.bare_name, *model.aliases):
                raise BadRequest(
                    N_("{name} is another name for {model}, from the configuration. Nothing was deleted."),
                    hints=(N_("Delete {model} by its own name, or remove the alias from the configuration."),),
                    param="model", name=plain, model=model.bare_name,
                )  # fmt: skip
            if model.node:
                await self._nodes.delete(model.node, model.node_model)
                return
            files = () if model.is_stored else self._own_files(model)
            if files and files[0].suffix != ".gguf":
                raise BadRequest(
                    N_("{model} is a folder that this server did not make. Nothing was deleted."),
                    hints=(N_("Delete the folder itself. What `modelyard pull` brought is removed whole."),),
                    param="model", model=model.name,
                )  # fmt: skip
            await self._operations.unload(caller, model.name)
            if model.is_stored:
                with disk_errors(model.name):
                    await asyncio.to_thread(self._pulls.store.remove, model.name)
            else:
                await asyncio.to_thread(_remove, files)
            await self._operations.rescan(caller)

    async def copy(self, caller: Caller, name: str, to: str, node: str | None = None) -> None:
        """Give a model a second name, where it is."""
        plain, node = _split(name, node)
        with audited(caller, "copy", f"{plain} {to}"):
            target, target_node = _split(to, node)
            model = self._one(plain, node or target_node)
            if model.node:
                await self._nodes.copy(model.node, model.node_model, target)
                return
            if model.is_stored:
                with disk_errors(target):
                    await asyncio.to_thread(self._pulls.store.copy, model.name, target)
                await self._operations.rescan(caller)
                return
            files = self._own_files(model)
            if len(files) != 1 or files[0].suffix != ".gguf":
                raise NotBuilt(what=N_("copying a model of several files"), hints=(N_("Use an alias instead."),))
            if set(target) & set("/:"):
                raise BadRequest(N_("A copy here is named without / and :."), param="destination")
            await asyncio.to_thread(_link, files[0], files[0].with_name(f"{target}.gguf"))
            await self._operations.rescan(caller)

    def _puller(self, name: str, node: str | None) -> str:
        able = self._nodes.can_pull()
        if node == HERE or (node is None and len(able) != 1):
            raise BadRequest(
                N_("Nobody here can fetch {model}: name a node that can, as {model}@NODE. Those that can: {nodes}."),
                hints=(
                    N_("For this machine, name a repository: hf:ORGANISATION/NAME."),
                    N_("Or put the file into a folder of models.folders."),
                ),
                param="model", model=name, nodes=", ".join(able) or "none",
            )  # fmt: skip
        return node or able[0]

    def _one(self, name: str, node: str | None) -> Model:
        """The one model that is meant."""
        wanted = f"{HERE}/{name}" if node == HERE else f"{name}@{node}" if node else name
        found = self._catalog.find(wanted)
        if found is not None and found.is_stored and found.problem:
            return found  # a damaged one can still be removed
        models = self._catalog.candidates(wanted).models
        here = [model for model in models if not model.node]
        if len(models) > 1 and not here:
            raise BadRequest(
                N_("Several nodes have {model}: {nodes}. Say which, as {model}@NODE."),
                param="model", model=name, nodes=", ".join(model.node for model in models),
            )  # fmt: skip
        return (here or models)[0]

    def _own_files(self, model: Model) -> tuple[Path, ...]:
        """Its files, if all of them lie in folders that are ours to change."""
        folders = [folder.resolve() for folder in self._folders()]
        files = tuple(path.resolve() for path in model.files)
        if not files or not all(any(path.is_relative_to(folder) for folder in folders) for path in files):
            raise BadRequest(N_("The files of {model} are not in a folder of models.folders."), model=model.name)
        return files


def _registered(name: str) -> reference.Reference | None:
    """What of a registry is meant; None for a plain name."""
    try:
        return reference.parse(name)
    except ValueError as problem:
        raise BadRequest(N_("{name} is not a model: {problem}"), name=ascii(name[:100]), problem=problem) from None


def _split(name: str, node: str | None) -> tuple[str, str | None]:
    """A name and where it is, from `name@node` or told apart. Nothing that is not a name goes any further."""
    try:
        ref = ModelRef.parse(name)
    except ValueError:
        raise ModelNotFound(model=ascii(name[:200]), param="model") from None
    if ref.node is None:
        return name, node
    if node is not None and node != ref.node:
        raise BadRequest(N_("The name says one node and the member `node` another."), param="node")
    return name.rpartition("@")[0], ref.node


def _remove(files: Sequence[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """A second name for the same bytes; a copy of them where the file system has no such names."""
    if target.exists():
        raise BadRequest(N_("There is a model of that name already."), param="destination")
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
