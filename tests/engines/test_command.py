"""Commands of other people as workers: started, told where to listen, found out when they do not, and ended."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelyard.engines.command import NAME, Command, CommandRecipe, command_model
from modelyard.errors import LoadFailed, LoadStalled
from modelyard.memory.devices import SystemDevices
from modelyard.providers.worker_http import WorkerAnswer, post
from modelyard.types.address import LoopbackPort
from modelyard.types.model import Capability
from modelyard.workers.marked import RUN_VARIABLE, find_marked
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import StartedWorker, Starter, StartLimits
from tests.support.openai_server import __file__ as server_file

SERVER = (sys.executable, server_file)
BY_PORT = ("--port", "{port}")
BY_SOCKET = ("--uds", "{socket}")
SECRET = "canary-9f3b1c77"


@pytest.fixture
def run(folder: Path) -> Iterator[RunFolder]:
    with RunFolder(folder) as run:
        yield run


def recipe(*arguments: str, **fields: Any) -> CommandRecipe:
    return CommandRecipe((*SERVER, *arguments), **fields)


def living(run: RunFolder) -> list[psutil.Process]:
    return find_marked({RUN_VARIABLE: frozenset((run.mark,))})


async def start(run: RunFolder, given: CommandRecipe, **limits: float) -> StartedWorker:
    """Start it as a node would."""
    engine = Command(dict(os.environ), {"mine": given}, ("ram",))
    starter = Starter([engine], run, SystemDevices(gpus=False).process, StartLimits(**{"term_s": 1.0, **limits}))
    return await starter.start(command_model("mine", given), 1, lambda _phase, _ratio: None)


@asynccontextmanager
async def started(run: RunFolder, given: CommandRecipe) -> AsyncIterator[StartedWorker]:
    worker = await start(run, given)
    try:
        yield worker
    finally:
        await worker.stop()


async def asked(worker: StartedWorker, path: str = "/counters") -> WorkerAnswer:
    answer = await post(worker.socket, path, b"{}", request_id="r1", connect_s=2.0)
    answer.close()
    return answer


@pytest.mark.parametrize("place", [BY_PORT, BY_SOCKET], ids=["port", "socket"])
async def test_a_command_serves_where_it_is_told_to(run: RunFolder, place: tuple[str, ...]) -> None:
    async with started(run, recipe(*place)) as worker:
        answer = await asked(worker)

        assert answer.status == 200
        assert isinstance(worker.socket, LoopbackPort) == (place is BY_PORT)
        assert not worker.has_progress


async def test_every_load_has_a_port_and_a_token_of_its_own(run: RunFolder) -> None:
    given = recipe(*BY_PORT, environment={"SERVER_API_KEY": "{token}"})
    async with started(run, given) as first, started(run, given) as second:
        assert isinstance(first.socket, LoopbackPort)
        assert isinstance(second.socket, LoopbackPort)
        assert first.socket.number != second.socket.number
        assert first.socket.token != second.socket.token
        assert len(first.socket.token) >= 32
        assert first.socket.token not in repr(first.socket)
        assert (await asked(first)).status == 200

        stranger = await post(LoopbackPort(first.socket.number), "/counters", b"{}", request_id="r", connect_s=2.0)
        stranger.close()

        assert stranger.status == 401


async def test_a_command_that_exits_is_told_with_its_last_words(run: RunFolder) -> None:
    with pytest.raises(LoadFailed) as failed:
        await start(run, recipe(*BY_PORT, "--fault", "exit"))

    assert failed.value.fields["exit"] == "exit code 3"
    assert failed.value.fields["last_lines"] == ("no such device",)
    assert living(run) == []


async def test_a_program_that_is_not_there_is_named(run: RunFolder) -> None:
    with pytest.raises(LoadFailed, match="cannot start no-such-program: No such file"):
        await start(run, CommandRecipe(("/opt/somewhere/no-such-program", "--port", "{port}")))


async def test_a_command_that_hangs_is_stopped_when_it_has_shown_no_sign_of_life_for_so_long(run: RunFolder) -> None:
    with pytest.raises(LoadStalled) as stalled:
        await start(run, recipe(*BY_PORT, "--fault", "hang"), load_stall_s=1.0)

    assert stalled.value.code == "load_stalled"
    assert living(run) == []


async def test_a_command_on_another_port_is_told_apart_from_one_that_hangs(run: RunFolder) -> None:
    with pytest.raises(LoadStalled) as stalled:
        await start(run, recipe(*BY_PORT, "--fault", "elsewhere"), load_stall_s=1.0)

    assert str(stalled.value.fields["ports"]).isdecimal()
    assert any("does its command use the placeholder" in hint for hint in stalled.value.suggestions)


async def test_a_command_that_listens_off_loopback_is_refused_before_it_is_told_anything(run: RunFolder) -> None:
    with pytest.raises(LoadFailed, match=r"it listens on 0\.0\.0\.0, where others reach it") as failed:
        await start(run, recipe(*BY_PORT, "--host", "0.0.0.0"))

    assert any("--host 127.0.0.1" in hint for hint in failed.value.suggestions)
    assert living(run) == []


async def test_somebody_else_on_the_port_is_not_taken_for_the_worker(run: RunFolder) -> None:
    heard: list[bytes] = []

    class Taken(Command):
        """Whose port is taken between the choice and the start."""

        def _free_port(self) -> int:
            return port

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(stranger, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    given = recipe(*BY_PORT, "--api-key", "{token}", "--fault", "hang")
    starter = Starter([Taken({"PATH": os.environ["PATH"]}, {"mine": given})], run, SystemDevices(gpus=False).process)
    async with server:
        with pytest.raises(LoadFailed, match="another program listens on its port"):
            await starter.start(command_model("mine", given), 1, lambda _phase, _ratio: None)
        await asyncio.sleep(0)

    assert not any(heard), "the stranger was told something"


async def test_what_a_worker_is_given_in_secret_is_in_none_of_its_lines(run: RunFolder) -> None:
    given = recipe(
        *BY_PORT, "--api-key", "{token}", "--fault", "tells-secrets",
        environment={"HF_TOKEN": SECRET, "PLAIN": "visible"}, secrets=frozenset(("HF_TOKEN",)),
    )  # fmt: skip
    with pytest.raises(LoadFailed) as failed:
        await start(run, given)

    text = str(failed.value.fields["last_lines"])
    assert "visible" in text
    assert "HF_TOKEN': '********" in text
    assert "--api-key', '********" in text
    assert SECRET not in text


@pytest.mark.parametrize("fault", ["ignore-term", "double-fork"])
async def test_nothing_of_a_stopped_command_stays(run: RunFolder, fault: str) -> None:
    worker = await start(run, recipe(*BY_PORT, "--fault", fault))
    assert (await asked(worker)).status == 200

    await worker.stop()

    assert living(run) == []


async def test_a_server_that_was_forked_away_counts_as_the_worker_and_its_memory_as_the_workers(run: RunFolder) -> None:
    async with started(run, recipe(*BY_PORT, "--fault", "double-fork")) as worker:
        assert worker.memory().anonymous_bytes > 3 * 1024**2


async def test_the_stop_command_comes_before_the_signal(run: RunFolder, folder: Path) -> None:
    said = folder / "said"
    program = "import sys, urllib.request; open(sys.argv[1], 'w').write(sys.argv[2])"
    given = recipe(*BY_PORT, stop_argv=(sys.executable, "-c", program, str(said), "{port}"))
    worker = await start(run, given)
    assert isinstance(worker.socket, LoopbackPort)

    await worker.stop()

    assert said.read_text() == str(worker.socket.number)


async def test_a_stop_command_that_hangs_or_is_not_there_holds_nobody_up(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.workers.process.STOP_COMMAND_S", 0.2)
    for stop in (("sleep", "600"), ("no-such-program",)):
        worker = await start(run, recipe(*BY_PORT, stop_argv=stop))

        await worker.stop()

        assert living(run) == []


async def test_a_command_sees_a_scrubbed_environment_and_its_own_variables(run: RunFolder) -> None:
    given = recipe(*BY_PORT, environment={"MINE": "1"})
    engine = Command({"PATH": os.environ["PATH"], "OPENAI_API_KEY": SECRET}, {"mine": given})
    starter = Starter([engine], run, SystemDevices(gpus=False).process)
    worker = await starter.start(command_model("mine", given), 1, lambda _phase, _ratio: None)
    try:
        servers = [process for process in living(run) if server_file in process.cmdline()[:2]]
        environment = servers[0].environ()
    finally:
        await worker.stop()

    assert environment["MINE"] == "1"
    assert SECRET not in environment.values()
    assert {name for name in environment if not name.startswith("MODELYARD_")} <= {
        "PATH", "LANG", "LC_CTYPE", "MINE",
    }  # fmt: skip


def test_a_changed_command_is_another_identity_and_a_changed_secret_is_not() -> None:
    one = recipe(*BY_PORT, environment={"A": "1", "KEY": "s1"}, secrets=frozenset(("KEY",)))
    other = recipe(*BY_PORT, environment={"A": "1", "KEY": "s2"}, secrets=frozenset(("KEY",)))

    assert one.identity == other.identity
    assert one.identity != recipe(*BY_PORT, environment={"A": "2", "KEY": "s1"}, secrets=frozenset(("KEY",))).identity
    assert one.identity != recipe(*BY_PORT, "-v", environment=one.environment, secrets=one.secrets).identity


def test_a_path_that_is_not_there_is_a_problem_of_the_model_and_a_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x" * 1000)

    assert command_model("a", recipe(model_path=str(tmp_path / "m.gguf"))).size_bytes == 1000
    assert command_model("a", recipe(model_path=str(tmp_path))).size_bytes == 1000
    assert command_model("a", recipe(model_path="org/model")).problem == ""
    assert "No such file" in command_model("a", recipe(model_path=str(tmp_path / "no"))).problem


def test_what_it_calls_its_model_is_said_or_follows_from_its_path() -> None:
    assert command_model("A", recipe()).node_model == "A"
    assert command_model("a", recipe(model_path="org/m")).node_model == "org/m"
    assert command_model("a", recipe(model_path="org/m", served_name="m")).node_model == "m"


async def test_a_declared_size_is_taken_and_an_unknown_one_names_every_device() -> None:
    declared, unknown = recipe(footprint={"gpu0": 5}), recipe(capabilities=frozenset((Capability.CHAT,)))
    engine = Command({}, {"a": declared, "b": unknown}, ("ram", "gpu0"))
    a, b = command_model("a", declared), command_model("b", unknown)

    assert (await engine.footprint(a, engine.options(a))).reserved_bytes == {"gpu0": 5}
    assert not (await engine.footprint(b, engine.options(b))).is_known
    assert (await engine.footprint(b, engine.options(b))).bytes == {"ram": 0, "gpu0": 0}
    assert engine.options(a).is_fixed
    assert a.engine == NAME
