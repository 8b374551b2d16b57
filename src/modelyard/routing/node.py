"""One other node: what the configuration says of it, what can be asked of it, and the figures of what it did for us.

Written by the fleet alone. Figures are moving averages over answers that ended well; they guide the ranking and prove
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from modelyard.providers.base import NodeControl, NodeModels, NodeProvider
from modelyard.providers.ticket import Ticket
from modelyard.types.fleet import NodeLook, ResidentCopy
from modelyard.types.model import Kind, Model

from .health import NodeHealth
from .room import LOAD_S_LEAST, NodeMemory, has_room, load_seconds

NEW_RATIO = 0.2  # how much the newest figure counts
LOAD_BYTES_PER_S = 512 * 1024**2  # until one was measured: a fair disk
OLLAMA_STAY_S = 300.0  # after an answer, unless the request or its configuration says otherwise
SIZE_BYTES_ASSUMED = 4 * 1024**3  # of a model whose node does not tell


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What the configuration says of a node."""

    name: str
    kind: Kind
    url: str  # as shown to who may see it; holds no secret
    weight: float = 1.0  # 0: drained
    draining: bool = False
    slots: int = 0  # requests at a time per model; 0: nobody knows
    models: tuple[str, ...] = ()  # names or patterns of those that are offered; none given: all
    look_s: float = 10.0
    health_timeout_s: float = 10.0  # for one look or probe
    continues: bool = False  # it can go on from the middle of an assistant's turn
    shares_devices: bool = False  # its models are entries of our ledger

    def offers(self, model: Model) -> bool:
        """Whether a model it has is offered."""
        return not self.models or any(fnmatchcase(model.bare_name, pattern.lower()) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class NodeParts:
    """How a node is reached."""

    provider: NodeProvider
    control: NodeControl
    models: NodeModels | None  # what can be done to its models, if anything
    close: Callable[[], Awaitable[None]]
    drop_idle: Callable[[], None] = lambda: None  # of the connections for answers those that nobody uses
    heard_at: Callable[[], float] = lambda: float("-inf")  # when any control call was last answered, monotonic


@dataclass(slots=True, eq=False)
class FleetNode:
    """A node, and all we know of it."""

    rules: NodeRules
    parts: NodeParts
    health: NodeHealth
    look: NodeLook | None = None
    looked_at: float | None = None  # monotonic
    residents: dict[str, ResidentCopy] = field(default_factory=dict)  # by our name of the copy
    in_flight: Counter[str] = field(default_factory=Counter)  # by our name of the copy
    queued_tokens: Counter[str] = field(default_factory=Counter)  # work in flight, by our name of the copy
    tokens_per_s: dict[str, float] = field(default_factory=dict)  # of one answer, by our name of the copy
    load_bytes_per_s: float = LOAD_BYTES_PER_S
    error_ratio: float = 0.0
    waiting: set[Ticket] = field(default_factory=set)  # requests that wait there for their first content
    most_bytes: int = 0  # it was ever seen to hold at once
    coming: dict[str, int] = field(default_factory=dict)  # sizes of models it was asked for and did not hold, by name
    configured: NodeRules = field(init=False)
    edits: dict[str, object] = field(default_factory=dict)  # an operator's, on top of what is configured

    def __post_init__(self) -> None:
        self.configured = self.rules

    @property
    def name(self) -> str:
        return self.rules.name

    @property
    def is_draining(self) -> bool:
        return self.rules.draining or self.rules.weight <= 0

    def edit(self, changed: Mapping[str, object]) -> None:
        """An operator changes fields of the rules."""
        self.edits |= changed
        self._put_together()

    def configure(self, rules: NodeRules) -> None:
        """Take other rules from the configuration. Of an operator's edits only those of fields that differ end."""
        self.edits = {
            name: value for name, value in self.edits.items() if getattr(rules, name) == getattr(self.configured, name)
        }
        self.configured = rules
        self._put_together()

    def _put_together(self) -> None:
        self.rules = replace(self.configured, **self.edits) if self.edits else self.configured  # type: ignore[arg-type]

    def saw(self, look: NodeLook, now: float) -> None:
        """Take note of a look."""
        self.look, self.looked_at = look, now
        by_node_model = {model.node_model: model.name for model in look.models}
        self.residents = {
            by_node_model[one.node_model]: one for one in look.residents or () if one.node_model in by_node_model
        }
        self.most_bytes = max(self.most_bytes, self.resident_bytes)
        self.coming = {name: size for name, size in self.coming.items() if self._is_still_coming(name)}

    @property
    def tells_residents(self) -> bool:
        """Whether it says what it has in memory."""
        return self.look is None or self.look.residents is not None

    def is_resident(self, model: Model) -> bool:
        """Whether it has the model in memory, or never says: a server of one model has it there."""
        if not self.tells_residents:
            return True
        found = self.residents.get(model.name)
        return found is not None and found.state in ("resident", "draining")

    @property
    def resident_bytes(self) -> int:
        """What its models held at the last look."""
        return sum(one.total_bytes for one in self.residents.values())

    def load_s(self, model: Model) -> float:
        """How long until a model that is not in memory could answer there."""
        ahead = [size for name, size in self.coming.items() if name != model.name]
        return load_seconds(model.size_bytes or SIZE_BYTES_ASSUMED, self.load_bytes_per_s, ahead)

    def has_room(self, model: Model) -> bool | None:
        """Whether a model fits there without anybody leaving; None if nobody can know."""
        ahead = tuple(size for name, size in self.coming.items() if name != model.name)
        free_bytes = self.look.free_bytes if self.look is not None else None
        memory = NodeMemory(self.resident_bytes, self.most_bytes, free_bytes, ahead)
        return has_room(model.size_bytes or SIZE_BYTES_ASSUMED, memory)

    def asked_for(self, model: Model) -> None:
        """A request is sent there; what it does not hold it will have to load."""
        if not self.is_resident(model):
            self.coming[model.name] = model.size_bytes or SIZE_BYTES_ASSUMED

    def _is_still_coming(self, name: str) -> bool:
        return name not in self.residents and self.in_flight[name] > 0

    def loaded(self, model: Model, took_s: float) -> None:
        """An answer of a model that was not in memory began after that time."""
        if took_s > LOAD_S_LEAST and model.size_bytes:
            self.load_bytes_per_s += NEW_RATIO * (model.size_bytes / took_s - self.load_bytes_per_s)
        self.coming.pop(model.name, None)
        held = ResidentCopy(model.node_model, model.size_bytes, expires_in_s=OLLAMA_STAY_S)
        self.residents.setdefault(model.name, held)

    def kept(self, model: Model, keep_alive_s: float | None) -> None:
        """An answer ended whose request said how long the model should stay: seen at the next look, known by now."""
        if not self.tells_residents or self.rules.kind != "ollama" or model.name not in self.residents:
            return
        if keep_alive_s == 0 and not self.in_flight[model.name]:
            del self.residents[model.name]
        elif keep_alive_s != 0:
            left_s = OLLAMA_STAY_S if keep_alive_s is None else keep_alive_s
            held = self.residents[model.name]
            if keep_alive_s is not None or held.expires_in_s is not None:
                self.residents[model.name] = replace(held, expires_in_s=left_s if left_s >= 0 else None)

    def spoke(self, model: str, tokens_per_s: float) -> None:
        """An answer came at that pace."""
        known = self.tokens_per_s.get(model, tokens_per_s)
        self.tokens_per_s[model] = known + NEW_RATIO * (tokens_per_s - known)

    def ended(self, *, failed: bool) -> None:
        """An answer ended, well or by the node's fault."""
        self.error_ratio += NEW_RATIO * (float(failed) - self.error_ratio)
