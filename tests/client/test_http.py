"""The client against a real server: what comes back, and which error says what went wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from modelyard import errors
from modelyard.client.http import YardClient
from modelyard.types.chat import Delta, Message, Usage
from tests.client.yard_server import DEADLINE_S, GIB, STATUS, YardServer, yard_server

HELLO = [Message("user", "hello")]


@pytest.fixture(scope="module")
def server() -> Iterator[YardServer]:
    with yard_server() as running:
        yield running


@pytest.fixture
def client(server: YardServer) -> Iterator[YardClient]:
    with YardClient(server.url, language="zh_TW") as opened:
        yield opened


def text_of(client: YardClient, model: str) -> str:
    with client.chat(model, HELLO) as stream:
        return "".join(piece.text for piece in stream if isinstance(piece, Delta))


def test_an_answer_comes_in_pieces_and_ends_with_usage(client: YardClient, server: YardServer) -> None:
    with client.chat("good", HELLO, options={"max_tokens": 9}) as stream:
        pieces = list(stream)

    assert [piece.text for piece in pieces if isinstance(piece, Delta)] == ["one\u2028 ", "two ", "三", ""]
    assert [piece for piece in pieces if isinstance(piece, Usage)] == [Usage(5, 3)]
    assert pieces[0] is None  # a comment is a sign of life
    assert stream.request_id == "r-7"
    assert server.seen[-1][2]["max_tokens"] == 9
    assert server.languages[-1] == "zh-TW"


def test_leaving_an_answer_ends_the_work_on_the_server(client: YardClient, server: YardServer) -> None:
    server.left.clear()

    with client.chat("slow", HELLO) as stream:
        for piece in stream:
            if isinstance(piece, Delta):
                break

    assert server.left.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("cut", errors.UpstreamInvalid, "cut off the answer"),
        ("broken", errors.WorkerCrashed, "it died"),
        ("garbage", errors.UpstreamInvalid, "not JSON"),
        ("page", errors.UpstreamInvalid, "no event stream"),
        ("full", errors.InsufficientMemory, "9.0 GiB"),
        ("absent", errors.ModelNotFound, "no model named absent"),
    ],
)
def test_a_failed_answer_is_the_error_of_our_tree(
    client: YardClient, model: str, kind: type[errors.YardError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        text_of(client, model)

    assert type(caught.value) is kind


def test_an_error_keeps_the_servers_hints_and_request_id(client: YardClient) -> None:
    with pytest.raises(errors.InsufficientMemory) as caught:
        text_of(client, "full")

    assert caught.value.suggestions == ("Unload another.",)
    assert caught.value.__notes__ == ["request id: r-9"]


def test_models_are_listed_with_what_the_server_knows(client: YardClient) -> None:
    good, _damaged, foreign = client.models()

    assert (good.name, good.state, good.context_length, good.aliases) == ("good", "resident", 4096, ("best",))
    assert good.details["launch"] == {"values": {"threads": 2}, "reasons": {"threads": "2 physical cores"}}
    assert (foreign.name, foreign.size_bytes, foreign.state) == ("foreign", None, "")


def test_one_model_is_shown(client: YardClient) -> None:
    assert client.show("good").engine == "llamacpp"
    with pytest.raises(errors.ModelNotFound):
        client.show("absent")


def test_the_status_is_the_servers_own_value(client: YardClient) -> None:
    assert client.status() == STATUS


def test_loading_and_unloading_return_receipts(client: YardClient, server: YardServer) -> None:
    loaded = client.load("org/good:4b")
    client.unload("good", force=True)
    client.pin("good", pinned=False)

    assert loaded is not None
    assert loaded.freed_bytes == {"ram": -2 * GIB}
    assert server.seen[-3:] == [
        ("POST", "/admin/models/org/good:4b/load", {}),
        ("POST", "/admin/models/good/unload", {"force": True}),
        ("POST", "/admin/models/good/pin", {"pinned": False}),
    ]


def test_a_problem_document_is_understood_too(client: YardClient) -> None:
    with pytest.raises(errors.ModelNotFound, match="no model named absent"):
        client.load("absent")


@pytest.mark.parametrize("name", ["../../v1/models", "a b", "", "a/../b", "x?y", "x#y"])
def test_what_is_no_name_reaches_no_server(client: YardClient, server: YardServer, name: str) -> None:
    before = len(server.seen)

    with pytest.raises(errors.ModelNotFound):
        client.unload(name)

    assert len(server.seen) == before


def test_without_a_server_the_error_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with YardClient(f"http://127.0.0.1:{port}") as client, pytest.raises(errors.UpstreamUnreachable) as caught:
        client.models()

    assert "modelyard serve" in caught.value.suggestions[0]
    assert "Errno" not in str(caught.value)


def test_a_key_opens_what_is_closed_without_one() -> None:
    with yard_server(key="k" * 20) as server:
        with YardClient(server.url, "k" * 20) as client:
            assert len(client.models()) == 3
        with YardClient(server.url) as client, pytest.raises(errors.NotAuthenticated) as caught:
            client.models()

    assert "MODELYARD_KEY" in caught.value.suggestions[0]


def test_the_base_url_of_other_clients_is_understood(server: YardServer) -> None:
    with YardClient(server.url + "/v1/") as client:
        assert client.status() == STATUS


@pytest.mark.parametrize("url", ["ftp://here", "http://", "http://127.0.0.1:99999"])
def test_an_address_that_cannot_be_one_is_told(url: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        YardClient(url)

    assert "http://127.0.0.1:11435" in caught.value.suggestions[0]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "box"])
def test_an_address_that_cannot_be_is_a_matter_of_configuration(url: str) -> None:
    with pytest.raises(errors.ConfigError):
        YardClient(url)
