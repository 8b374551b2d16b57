"""Everything the tour says. One line each, in the person's language; sizes as tools around Ollama write them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from modelyard.cli.markdown.inline import Piece
from modelyard.cli.markdown.wrapping import Wrapping
from modelyard.cli.output import table, write_listing
from modelyard.cli.session import Session
from modelyard.cli.tour.failures import Failure
from modelyard.cli.tour.nodes import Kind, Left, TourModel
from modelyard.cli.tour.visit import OUTCOMES, Visit, junit
from modelyard.diagnosis import Code
from modelyard.diagnosis.timeouts import IN_VRAM_MIN, PHASES, RESIDENTS, Resident, is_same_model, named
from modelyard.errors import N_
from modelyard.units import format_duration, format_size

COLUMNS = ("NAME", "LOAD", "FIRST TOKEN", "TOKENS/S", "MEMORY", "VRAM", "VERDICT")
_KEPT = {
    "busy": N_("⏸️  {model} is still in use"),
    "pinned": N_("📌 {model} is pinned and stays"),
    "forbidden": N_("🔒 {model} stays: there is no right to unload it"),
    "held": N_("❌ {model} is no longer listed, and its memory has not come back"),
}
SHORTLY: dict[Code, str] = {  # why a budget ran out, in the table
    "out_of_memory": N_("out of time: no room, most likely"),
    "too_slow": N_("out of time: too slow"),
    "partly_in_ram": N_("out of time: partly in system memory"),
    "load_timeout": N_("out of time: loaded too late"),
    "still_loading": N_("out of time: still loading"),
    "unreachable": N_("out of time: server silent"),
}
INDENT = "   "


class Voice:
    """Speaks on stderr; answers and the report go to stdout."""

    def __init__(self, session: Session, form: str) -> None:
        self._terminal = session.terminal
        self.is_machine = form != "table"
        self._form = form

    def begin(self, kind: Kind, url: str, models: Sequence[TourModel]) -> None:
        text = self._terminal.counted(
            len(models), "{kind} at {url}: {count} model", "{kind} at {url}: {count} models", kind=kind, url=url
        )
        self._terminal.note(text)

    def no_models(self, url: str) -> None:
        self._terminal.say(N_("⚠️  {url} has no models."), url=url)

    def title(self, number: int, count: int, model: TourModel) -> None:
        """The model's name, before anything else about it."""
        marks = [format_size(model.size)] if model.size else []
        if model.is_cloud:
            marks.append(self._terminal._(N_("in the cloud")))
        beside = f" ({', '.join(marks)})" if marks else ""
        self._terminal.note("")
        heading = f"[{number}/{count}] 🤖 {model.name}{beside}"
        self._terminal.strong(heading)

    def making_room(self, residents: Sequence[Resident]) -> None:
        text = self._terminal.counted(
            len(residents),
            "🧹 Unloading {count} loaded model to free memory ({size} in all)…",
            "🧹 Unloading {count} loaded models to free memory ({size} in all)…",
            size=format_size(sum(one.size for one in residents)),
        )
        self._terminal.note(text)

    def left(self, left: Left) -> None:
        """One line for each model that was asked to leave."""
        if left.is_gone and left.freed_bytes:
            freed = format_size(left.freed_bytes)
            self._terminal.say(N_("  ✅ {model} ({freed} came back)"), model=left.model, freed=freed)
        elif left.is_gone:
            self._terminal.say(N_("  ✅ {model}"), model=left.model)
        elif left.kept:
            self._terminal.note("  " + self._terminal._(_KEPT[left.kept], model=left.model))
        else:
            self._terminal.say(N_("  ❌ {model}: {problem}"), model=left.model, problem=left.problem)

    def no_right(self) -> None:
        self._terminal.say(N_("🔒 There is no right to unload models here; the tour goes on without it."))

    def resources(self, model: str, residents: Sequence[Resident]) -> None:
        """The memory picture at the first token."""
        found = next((one for one in residents if is_same_model(one.name, model)), None)
        if found is None:
            self._terminal.say(N_("📊 Resources: nothing is known about the model"))
            return
        if not found.size:
            return
        size = format_size(found.size)
        if found.vram is None or found.vram_ratio is None:
            self._terminal.say(N_("📊 Resources: model size {size}"), size=size)
            return
        percent, vram = round(100 * found.vram_ratio), format_size(found.vram)
        self._terminal.say(
            N_("📊 Resources: model size {size}, VRAM {vram} ({percent}%)"), size=size, vram=vram, percent=percent
        )
        if not found.vram:
            self._terminal.say(N_("   The model runs on the CPU."))
        elif found.vram_ratio < IN_VRAM_MIN:
            self._terminal.say(N_("⚠️  A part of the model is in system memory; answers will be slower."))

    def vector(self, dimensions: int) -> None:
        self._terminal.say(N_("🧭 An embedding model: one vector of {dimensions} numbers"), dimensions=dimensions)

    def failure(self, kind: Kind, failure: Failure, *, is_skipped: bool = True) -> None:
        """What went wrong, by its kind, then what is known about why, then what to do."""
        say, problem = self._terminal._, failure.message
        if failure.phase is not None:
            budget = f"{failure.budget_s:g}"
            late = N_("⏱️  No complete answer within {budget} seconds; skipping this model.")
            self._lines(
                say(late if is_skipped else N_("⏱️  No complete answer within {budget} seconds."), budget=budget)
            )
            self._lines(say(N_("It ran out while {phase}."), phase=say(PHASES[failure.phase])), INDENT)
            self._lines(problem, INDENT)
        elif failure.outcome == "out_of_memory":
            text = N_("💥 Out of memory (OOM): this model cannot be loaded or run: {problem}")
            self._lines(say(text, problem=problem))
        elif failure.outcome == "network":
            self._lines(say(N_("❌ Failed to get an answer: {problem}"), problem=problem))
        else:
            self._lines(say(N_("❌ {server} error: {problem}"), server=kind, problem=problem))
        for hint in failure.hints:
            self._lines(f"→ {hint}", INDENT)

    def _lines(self, text: str, indent: str = "") -> None:
        """A text over as many lines as the window needs; what begins further lines stands below the first."""
        text = " ".join(text.split("\n"))
        if not self._terminal.is_watched:
            self._terminal.note(indent + text)
            return
        hang = indent + "  " * text.startswith("→")
        whole = Wrapping(self._terminal.columns, Piece(indent), Piece(hang), has_colour=False)
        self._terminal.note((whole.add([Piece(text, "")]) + whole.end()).rstrip("\n"))

    def in_memory(self, residents: Sequence[Resident]) -> None:
        """Who has the memory that was missing."""
        self._lines(self._terminal._(RESIDENTS, models=named(residents)), INDENT)

    def strangers(self, residents: Sequence[Resident], url: str) -> None:
        self._terminal.say(
            N_("{url} has models in memory that this tour did not load: {models}"), url=url, models=named(residents)
        )

    def strangers_stay(self) -> None:
        self._terminal.say(N_("They stay; --yes unloads them."))

    def chat_begins(self) -> None:
        self._terminal.say(N_("💬 Say something; n or /bye goes on to the next model."))

    def answer_interrupted(self) -> None:
        self._terminal.say(N_("(interrupted)"))

    def interrupted(self) -> None:
        self._terminal.say(N_("⏭️  Interrupted; on to the next model. Ctrl-C again leaves the tour."))

    def skipped(self) -> None:
        self._terminal.say(N_("Skipping this model"))

    def finished(self) -> None:
        self._terminal.say(N_("✅ All models have been visited"))

    def report(self, visits: Sequence[Visit], url: str) -> None:
        """The comparison, in the form that was asked for."""
        if self._form == "junit":
            self._terminal.listing(junit(visits, url))
            return
        if self._form == "table":
            rows = [self._row(visit) for visit in visits]
            self._terminal.listing("\n" + table(self._terminal, COLUMNS, rows))
        else:
            rows = [_plain_row(visit) for visit in visits]
            objects = [visit.to_json() for visit in visits]
            write_listing(self._terminal, self._form, "models", COLUMNS, rows, objects, {"url": url})
        sys.stdout.flush()

    def _row(self, visit: Visit) -> tuple[str, ...]:
        verdict = self._terminal._(OUTCOMES[visit.outcome])
        if visit.outcome == "timeout" and (code := visit.verdict.get("code")) in SHORTLY:
            verdict = self._terminal._(SHORTLY[code])
        ratio = visit.vram_ratio
        return (
            visit.model + (" ☁" if visit.is_cloud else ""),
            "-" if visit.load_s is None else format_duration(visit.load_s),
            "-" if visit.first_token_s is None else format_duration(visit.first_token_s),
            "-" if visit.tokens_per_s is None else f"{visit.tokens_per_s:.1f}",
            format_size(visit.size_bytes) if visit.size_bytes else "-",
            "-" if ratio is None else f"{round(100 * ratio)}%",
            verdict,
        )


def _plain_row(visit: Visit) -> tuple[str, ...]:
    """For scripts: the name and nothing beside it, seconds, bytes, a share of 1, and the outcome's English word."""
    numbers = (visit.load_s, visit.first_token_s, visit.tokens_per_s)
    return (
        visit.model,
        *("-" if one is None else f"{one:.3f}" for one in numbers),
        str(visit.size_bytes or "-"),
        "-" if visit.vram_ratio is None else f"{visit.vram_ratio:.3f}",
        visit.outcome,
    )
