"""The scripted worker: a real process that serves OpenAI-style HTTP on a Unix socket and computes nothing.

It loads, streams, queues, fails and dies as its script says, and counts what it did at `/counters`, so that a test can
prove that work has stopped. Started as `python -m modelyard.engines.echo_worker --socket PATH --settings JSON`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress

from modelyard.engines.echo_answer import DONE, Frames, Question, Refused, counted, read_question
from modelyard.engines.echo_http import HttpRequest, Reply, serve
from modelyard.engines.echo_settings import EchoSettings
from modelyard.engines.worker_cell import enter

LOAD_STEPS = 10
PREFILL_BATCH_TOKENS = 64
_COUNTERS = (
    "started", "finished", "cancelled", "failed", "tokens", "running", "running_max", "waiting", "waiting_max",
)  # fmt: skip
_PATHS = {
    "/v1/chat/completions": True, "/chat/completions": True,
    "/v1/completions": False, "/completions": False,
}  # fmt: skip


class EchoWorker:
    """One worker's state. Owned by its event loop."""

    def __init__(self, settings: EchoSettings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.slots)
        self._is_loaded = False
        self._held: list[bytes] = []  # memory taken because the script says so
        self._counters = dict.fromkeys(_COUNTERS, 0)

    async def load(self) -> None:
        """Take time and memory, and say so, or fail."""
        settings = self._settings
        if settings.stall_load:
            await asyncio.Event().wait()
        steps = LOAD_STEPS if settings.load_s or settings.allocate_bytes else 1
        for step in range(steps):
            await asyncio.sleep(settings.load_s / steps)
            self._hold(settings.allocate_bytes // steps)
            _say(f"loading: {(step + 1) * 100 // steps} %")
            if settings.fail_load and step >= steps // 2:
                _say(settings.fail_load)
                os._exit(settings.fail_load_code)
        self._is_loaded = True
        _say("ready")

    async def answer(self, request: HttpRequest, reply: Reply) -> None:
        """Serve one request."""
        if request.path == "/counters":
            await reply.json(200, self._counters)
        elif not self._is_loaded:
            await reply.json(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
        elif request.path == "/health":
            await reply.json(200, {"status": "ok"})
        elif request.path in ("/v1/models", "/models"):
            await reply.json(200, {"object": "list", "data": [{"id": "echo", "object": "model"}]})
        elif request.method == "POST" and request.path in ("/apply-template", "/tokenize"):
            await reply.json(200, counted(request.path, request.body))
        elif request.method == "POST" and request.path in _PATHS:
            await self._complete(request, reply)
        else:
            await reply.json(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})

    async def _complete(self, request: HttpRequest, reply: Reply) -> None:
        counters = self._counters
        reply.cut_after_bytes = self._cut_after(counters["started"])
        counters["started"] += 1
        request_id = request.headers.get("x-request-id") or str(counters["started"])
        try:
            question = read_question(
                request.body, is_chat=_PATHS[request.path], request_id=request_id, settings=self._settings
            )
        except Refused as refused:
            counters["failed"] += 1
            await reply.json(refused.status, refused.body)
            return
        try:
            await self._in_slot(question, reply)
        except (asyncio.CancelledError, BrokenPipeError, ConnectionResetError):  # the client has left
            counters["cancelled"] += 1
            raise
        except BaseException:
            counters["failed"] += 1
            raise
        counters["finished"] += 1

    def _cut_after(self, answers_before: int) -> int | None:
        settings = self._settings
        first = settings.cut_after_bytes
        return None if first is None else first + answers_before * settings.cut_step_bytes

    async def _in_slot(self, question: Question, reply: Reply) -> None:
        with _counted(self._counters, "waiting"):
            await self._slots.acquire()
        try:
            with _counted(self._counters, "running"):
                await self._speak(question, reply)
        finally:
            self._slots.release()

    async def _speak(self, question: Question, reply: Reply) -> None:
        frames = Frames(question, int(time.time()), self._settings)
        began = time.monotonic()
        if question.is_stream:
            reply.begin_stream()
        if self._settings.stall_before_first:
            await asyncio.Event().wait()
        await self._prefill(question, frames, reply)
        read = time.monotonic()
        if question.is_stream:
            await reply.send(frames.first())
        for number in range(question.tokens):
            await self._pace(read, number)
            await self._misbehave(number, reply)
            self._counters["tokens"] += question.choices
            self._hold(self._settings.growth_bytes_per_token)
            if question.is_stream:
                await reply.send(frames.content(number))
        await self._misbehave(question.tokens, reply)
        prompt_ms, predicted_ms = (read - began) * 1000, (time.monotonic() - read) * 1000
        timings = {
            "cache_n": 0, "prompt_n": len(question.words), "prompt_ms": prompt_ms,
            "predicted_n": question.tokens, "predicted_ms": predicted_ms,
        }  # fmt: skip
        if not question.is_stream:
            await reply.json(200, frames.whole(timings))
            return
        usage = frames.usage(timings) if question.wants_usage else b""
        await reply.send(frames.finish() + usage + DONE)
        await reply.end_stream()

    async def _prefill(self, question: Question, frames: Frames, reply: Reply) -> None:
        began, total, speed = time.monotonic(), len(question.words), self._settings.prefill_tokens_per_s
        done = 0
        while done < total:
            done = min(total, done + PREFILL_BATCH_TOKENS)
            if speed:
                await asyncio.sleep(began + done / speed - time.monotonic())
            if question.is_stream and question.wants_progress:
                await reply.send(frames.progress(done, (time.monotonic() - began) * 1000))

    async def _pace(self, began: float, number: int) -> None:
        speed = self._settings.tokens_per_s
        await asyncio.sleep(began + (number + 1) / speed - time.monotonic() if speed else 0)

    async def _misbehave(self, number: int, reply: Reply) -> None:
        """What the script wants after `number` tokens."""
        settings = self._settings
        if number == settings.crash_after_tokens:
            _say("crashing, as the script says")
            os.kill(os.getpid(), settings.crash_signal)
        if number == settings.stall_after_tokens:
            await asyncio.Event().wait()
        if number == settings.garbage_after_tokens and reply.is_stream:
            await reply.send(b'data: {"choices":[{"delta":\x00\xff\n\n')

    def _hold(self, count: int) -> None:
        if not count:
            return
        try:
            self._held.append(b"\x01" * count)  # not zeros: every page is really touched
        except MemoryError:  # as engines do: a word, and the end
            _say("MemoryError")
            os._exit(1)


class _counted:  # noqa: N801 - reads as a phrase in `with`
    """Counts those inside, and the most there ever were."""

    def __init__(self, counters: dict[str, int], name: str) -> None:
        self._counters, self._name = counters, name

    def __enter__(self) -> None:
        self._counters[self._name] += 1
        peak = self._name + "_max"
        self._counters[peak] = max(self._counters[peak], self._counters[self._name])

    def __exit__(self, *_exception: object) -> None:
        self._counters[self._name] -= 1


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _obey_signals(settings: EchoSettings, loop: asyncio.AbstractEventLoop) -> None:
    if settings.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif settings.exit_late_s:
        loop.add_signal_handler(signal.SIGTERM, lambda: loop.call_later(settings.exit_late_s, os._exit, 0))
    with suppress(PermissionError):  # not a pipe: nothing to be learnt from it
        loop.add_reader(0, _on_input)


def _on_input() -> None:
    """The node holds our standard input open; its end is the node's end, where there is no parent-death signal."""
    if not os.read(0, 4096):
        os._exit(0)


async def run(socket: str, settings: EchoSettings) -> None:
    """Serve until killed."""
    worker = EchoWorker(settings)
    _obey_signals(settings, asyncio.get_running_loop())
    server = await serve(socket, worker.answer)
    async with server:
        await worker.load()
        await server.serve_forever()


def main(arguments: list[str]) -> None:
    """`--socket PATH --settings JSON`, in this order: argparse costs a tenth of the start."""
    enter(os.environ)
    match arguments:
        case ["--socket", socket, "--settings", settings]:
            asyncio.run(run(socket, EchoSettings.parse(json.loads(settings))))
        case _:
            raise SystemExit("usage: echo_worker --socket PATH --settings JSON")


if __name__ == "__main__":
    main(sys.argv[1:])
