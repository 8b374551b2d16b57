"""What becomes of a load: it succeeds, breaks, dies, ends, is adopted from another node, or is to be replaced. Pure."""

from __future__ import annotations

from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency

from .messages import Adopt, Adopted, Left, LoadBroke, Loaded, RecycleAsked, Unloaded, WorkerDied
from .settling import Settling
from .state import Record, Setback


class Lifecycle(Settling):
    """Events of one load. Each answers whether that is all: whether nobody else can be affected."""

    def _worker_changed(self, event: Loaded | LoadBroke | WorkerDied | Unloaded) -> bool:
        record = self._of_epoch(event.model, event.epoch)
        if record is None:
            return True  # an old epoch changes nothing
        match event:
            case Loaded() if record.state is Residency.LOADING:
                self._loaded(record, event)
            case LoadBroke() if record.state is Residency.LOADING:
                self._remove(record)
                self._tell("model.load_failed", record, code=event.error.code, problem=str(event.error))
                if not (event.is_memory and self._goes_on(record)):
                    self.failures.load_broke(event.model, self._now, event.error)
                    self._refuse_line(event.model, self.failures.refusal(event.model, self._now) or event.error)
            case WorkerDied() if record.state in (Residency.RESIDENT, Residency.DRAINING):
                self.failures.died(event.model, self._now, event.error)
                self._tell("model.crashed", record, code=event.error.code, problem=str(event.error))
                self._send_away(record, "crash")
                looping = self.failures.refusal(event.model, self._now)
                if looping is not None:
                    self._refuse_line(event.model, looping)
            case Unloaded() | LoadBroke() if record.state is Residency.LEAVING:
                self._remove(record)
            case _:
                return True  # said twice, or too late
        return False

    def _goes_on(self, record: Record) -> bool:
        """After a load that broke for memory: whether another try makes sense. Each is made once, so it ends.

        (1) The same way, without the idle models beside it. (2) The next smaller way.
        """
        line = self.queue.lines.get(record.spec.name)
        if line is None:
            return False
        devices = record.held.keys()
        idle = [
            one for one in self.records.values()
            if one.is_open and not one.leases and not self.is_pinned(one.spec) and devices & one.held.keys()
        ]  # fmt: skip
        setback = self.setbacks.get(record.spec.name)
        if setback is None or setback.identity != line.spec.identity:
            setback = self.setbacks[record.spec.name] = Setback(line.spec.identity, self._now)
        setback.at = self._now
        if idle and not setback.is_alone:  # (1)
            setback.is_alone = True
            return True
        ways = line.spec.ways
        broken = next((n for n, way in enumerate(ways) if way == record.spec), 0)
        setback.ways_broken = max(setback.ways_broken, broken + 1)  # (2)
        while setback.ways_broken < len(ways) and not _is_smaller(ways[setback.ways_broken], record.spec):
            setback.ways_broken += 1
        if setback.ways_broken < len(ways):
            return True
        del self.setbacks[record.spec.name]  # after the cooldown it begins anew
        return False

    def _adopted(self, event: Adopted) -> bool:
        """Another node brought it in: resident from the start. Its expiry is that node's business."""
        spec = event.spec
        if spec.name in self.records or self.is_shutting_down:
            return True
        self._epochs += 1
        held = dict(event.in_use)
        record = Record(spec, self._epochs, Residency.RESIDENT, self._now, held=held, base=dict(held))
        record.slots, record.keep_alive_s = event.slots, -1.0
        record.idle_since = self._now
        record.loaded_at = self._now - self.limits.residence_s_max  # it has been there for a while
        record.load_s = spec.load_s_expected
        self.records[spec.name] = record
        record.measure(held)
        self._are_books_stale = self._is_room_stale = True
        self._effects.append(Adopt(spec.name, record.epoch, spec))
        self._tell("model.adopted", record, held_bytes=held)
        return False

    def _left(self, event: Left) -> bool:
        """Another node took it out by itself. Leases of it are void, and who waits for it waits for a load."""
        record = self._of_epoch(event.model, event.epoch)
        if record is None or record.state is Residency.LOADING:
            return True
        self._tell("model.left", record)
        self._remove(record)
        return False

    def _recycle_asked(self, event: RecycleAsked) -> bool:
        record = self._of_epoch(event.model, event.epoch)
        if record is None or not record.is_open or record.recycle_by is not None:
            return True
        self._recycle(record, event.why)
        return False

    def _loaded(self, record: Record, event: Loaded) -> None:
        self._is_room_stale = True
        record.state = Residency.RESIDENT
        record.slots = event.slots
        record.base = dict(event.held)
        record.loaded_at = record.idle_since = self._now
        record.load_s = event.load_s
        self.setbacks.pop(event.model, None)
        if self._kind_in_use not in ("", record.spec.kind):
            self._tell("model.switched", record, switched_from=self._kind_in_use, switched_to=record.spec.kind)
        self._kind_in_use = record.spec.kind
        record.idle_ttl_s = record.spec.idle_ttl_s
        record.measure(event.in_use)
        self._are_books_stale = True
        self.failures.loaded(event.model)


def _is_smaller(way: ModelSpec, than: ModelSpec) -> bool:
    """Whether it needs less on some device, and more on none."""
    ours, theirs = way.footprint.bytes, than.footprint.bytes
    return ours != theirs and all(count <= theirs.get(device, 0) for device, count in ours.items())
