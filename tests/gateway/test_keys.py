"""Keys: kept as hashes, found in constant time, with exactly the rights they were given."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import time

import pytest

from modelyard.errors import ConfigError
from modelyard.gateway import keys as keys_module
from modelyard.gateway.keys import KeyEntry, KeyRing, Right, hash_secret, new_secret

SECRET = "correct-horse-battery"


def test_a_secret_is_found_and_nothing_else_is() -> None:
    ring = KeyRing([KeyEntry("a", SECRET), KeyEntry("b", "another-secret")])

    found = ring.find(SECRET)

    assert found is not None
    assert (found.id, found.models) == ("a", None)
    assert found.rights == {Right.INFER, Right.READ}
    for wrong in ("", SECRET[:-1], SECRET + "x", SECRET.upper(), "x" * 10_000, "\ud800", hash_secret(SECRET)):
        assert ring.find(wrong) is None


def test_a_secret_may_be_given_as_its_hash() -> None:
    ring = KeyRing([KeyEntry("a", hash_secret(SECRET))])

    assert ring.find(SECRET) is not None
    assert hash_secret(SECRET) == "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest()


def test_neither_the_ring_nor_an_entry_shows_a_secret() -> None:
    entry = KeyEntry("a", SECRET)
    ring = KeyRing([entry])

    assert SECRET not in repr(entry)
    kept = pickle.dumps(ring.__dict__)
    assert SECRET.encode() not in kept
    assert hashlib.sha256(SECRET.encode()).digest() not in kept


def test_two_rings_keep_different_hashes() -> None:
    first, second = KeyRing([KeyEntry("a", SECRET)]), KeyRing([KeyEntry("a", SECRET)])

    assert first._callers.keys() != second._callers.keys()


def test_secrets_are_compared_in_constant_time() -> None:
    source = inspect.getsource(KeyRing)

    assert "compare_digest" in source
    assert "== secret" not in inspect.getsource(keys_module)


def test_a_near_miss_takes_as_long_as_a_far_one() -> None:
    ring = KeyRing([KeyEntry(str(n), f"secret-number-{n}") for n in range(200)])

    def took_s(guess: str) -> float:
        rounds = []
        for _round in range(15):
            start = time.perf_counter()
            for _turn in range(500):
                ring.find(guess)
            rounds.append(time.perf_counter() - start)
        return min(rounds)

    near, far = took_s("secret-number-19x"), took_s("zzzzzzzzzzzzzzzzz")

    assert 0.25 < near / far < 4  # a smoke test: the machine is shared


def test_admin_implies_read_and_metrics_but_not_infer() -> None:
    caller = KeyRing([KeyEntry("a", SECRET, frozenset((Right.ADMIN,)))]).find(SECRET)

    assert caller is not None
    assert caller.rights == {Right.ADMIN, Right.READ, Right.METRICS}


def test_a_key_may_be_bound_to_models_whatever_their_case() -> None:
    caller = KeyRing([KeyEntry("a", SECRET, models=frozenset(("Org/Tiny",)))]).find(SECRET)

    assert caller is not None
    assert caller.may_use("org/tiny")
    assert not caller.may_use("org/tiny2")


@pytest.mark.parametrize(
    "entries",
    [[KeyEntry("a", "short")], [KeyEntry("a", "sha256:xyz")], [KeyEntry("a", "sha256:00")], [KeyEntry("a", "x" * 600)],
     [KeyEntry("", SECRET)], [KeyEntry("a\n", SECRET)], [KeyEntry("a", SECRET), KeyEntry("a", "another-secret")],
     [KeyEntry("a", SECRET), KeyEntry("b", SECRET)]],
)  # fmt: skip
def test_unusable_keys_are_configuration_errors_that_do_not_show_them(entries: list[KeyEntry]) -> None:
    with pytest.raises(ConfigError) as refusal:
        KeyRing(entries)

    assert SECRET not in str(refusal.value)


def test_new_secrets_are_long_and_never_the_same() -> None:
    secrets = {new_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert min(map(len, secrets)) > 40


def test_a_ring_without_keys_is_false() -> None:
    assert not KeyRing()
    assert len(KeyRing([KeyEntry("a", SECRET)])) == 1
