"""Which node had a session last: a hint that tells nothing, and is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from modelyard.routing.affinity import Affinities, affinity_key


def test_a_key_is_of_one_tenant_and_a_session_counts_more_than_a_beginning() -> None:
    assert affinity_key("a", "s", "x") == affinity_key("a", "s", "y")
    assert affinity_key("a", "s", "x") != affinity_key("b", "s", "x")
    assert affinity_key("a", "", "x") != affinity_key("a", "x", "")
    assert affinity_key("a", "", "") == ""
    assert "secret" not in affinity_key("a", "secret", "")


@given(some.text(max_size=20), some.text(max_size=20), some.text(max_size=20), some.text(max_size=20))
def test_texts_of_one_kind_cannot_pose_as_others(one: str, two: str, three: str, four: str) -> None:
    if (one, two) != (three, four) and two and four:
        assert affinity_key(one, two, "") != affinity_key(three, four, "")


def test_it_is_kept_from_its_last_use_on() -> None:
    kept = Affinities(ttl_s=10)
    kept.remember("k", "a", 0)
    kept.remember("k", "b", 9)

    assert kept.node_for("k", 18.9) == "b"
    assert kept.node_for("k", 19) is None
    assert kept.node_for("never", 0) is None
    assert len(kept) == 0


def test_those_unused_for_longest_are_forgotten_first() -> None:
    kept = Affinities(ttl_s=1000, count_max=3)
    for at, key in enumerate("abca"):
        kept.remember(key, f"node of {key}", at)
    kept.remember("d", "", 4)
    kept.remember("", "nobody", 5)

    assert [key for key in "abcd" if kept.node_for(key, 5) is not None] == ["a", "c", "d"]
    assert kept.node_for("d", 5) == ""


def test_a_node_that_is_gone_is_nobodys() -> None:
    kept = Affinities()
    kept.remember("k", "a", 0)
    kept.remember("l", "b", 0)
    kept.forget_node("a")

    assert (kept.node_for("k", 0), kept.node_for("l", 0)) == (None, "b")
