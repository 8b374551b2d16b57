"""Whose fault an error is, and whether another node may be asked after it."""

from __future__ import annotations

import asyncio

import pytest

from modelyard import errors
from modelyard.errors import YardError
from modelyard.routing.failures import Failure, failure_of, is_local, may_try_another

OF_NODES = {
    errors.UpstreamError: Failure.SERVER,
    errors.WorkerCrashed: Failure.SERVER,
    errors.LoadFailed: Failure.SERVER,
    errors.LoadStalled: Failure.SERVER,
    errors.EngineMissing: Failure.SERVER,
    errors.DigestMismatch: Failure.SERVER,
    errors.UpstreamUnreachable: Failure.CONNECT,
    errors.UpstreamTimeout: Failure.TIMEOUT,
    errors.UpstreamStalled: Failure.STALLED,
    errors.UpstreamInvalid: Failure.INVALID,
    errors.UpstreamLimited: Failure.LIMITED,
    errors.UpstreamOverloaded: Failure.OVERLOADED,
    errors.UpstreamRefusedKey: Failure.AUTH,
    errors.UpstreamModelMissing: Failure.MODEL_MISSING,
    errors.OutOfMemory: Failure.OUT_OF_MEMORY,
}


def every_error(root: type[YardError] = YardError) -> set[type[YardError]]:
    found = {root}
    for kind in root.__subclasses__():
        found |= every_error(kind)
    return {kind for kind in found if kind.__module__ == errors.__name__}


@pytest.mark.parametrize("kind", OF_NODES, ids=lambda kind: kind.__name__)
def test_an_error_of_a_node_has_its_class(kind: type[YardError]) -> None:
    assert failure_of(kind()) is OF_NODES[kind]


def test_every_class_of_failure_comes_of_some_error() -> None:
    assert set(OF_NODES.values()) == set(Failure)


def test_no_other_error_is_held_against_a_node() -> None:
    others = every_error() - OF_NODES.keys()

    assert len(others) > 25
    assert {kind.__name__ for kind in others if failure_of(kind()) is not None} == set()
    elsewhere = {kind for kind in others if may_try_another(kind(), retry_on_timeout=True)}
    assert elsewhere == {errors.NotOfferedThere}, "what one node does not have another may"


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError(), KeyboardInterrupt(), TimeoutError()])
def test_our_own_bugs_and_cancellations_are_not_held_against_a_node(error: BaseException) -> None:
    assert failure_of(error) is None
    assert not may_try_another(error)


def test_a_node_that_reports_a_lack_of_memory_has_failed_by_that() -> None:
    told = errors.UpstreamError(verdict={"code": "out_of_memory"})
    other = errors.UpstreamError(verdict={"code": "crashed"})
    limit = errors.UpstreamLimited(verdict={"code": "out_of_memory"})

    assert failure_of(told) is Failure.OUT_OF_MEMORY
    assert failure_of(other) is Failure.SERVER
    assert failure_of(limit) is Failure.LIMITED


@pytest.mark.parametrize("kind", OF_NODES, ids=lambda kind: kind.__name__)
def test_another_node_is_asked_after_slowness_only_if_that_is_wished(kind: type[YardError]) -> None:
    is_late = OF_NODES[kind] in (Failure.TIMEOUT, Failure.STALLED)

    assert may_try_another(kind()) is not is_late
    assert may_try_another(kind(), retry_on_timeout=True)


def test_only_a_failed_connection_may_be_our_own_fault() -> None:
    assert [failure for failure in Failure if is_local(failure)] == [Failure.CONNECT]
