"""What goes to the same node again, for whom, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelyard.routing.affinity import Affinities, affinity_key

texts = st.text(max_size=30)


@given(st.tuples(texts, texts, texts, texts), st.tuples(texts, texts, texts, texts))
def test_keys_are_alike_only_for_the_same_tenant_and_model_and_session_or_beginning(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    def meaning(parts: tuple[str, str, str, str]) -> tuple[object, ...]:
        *whose, session, beginning = parts
        return (*whose, "session", session) if session else (*whose, "prompt", beginning) if beginning else ()

    assert (affinity_key(*one) == affinity_key(*other)) == (meaning(one) == meaning(other))


def test_two_tenants_never_share_a_key() -> None:
    assert affinity_key("a", "m", "s", "hello") != affinity_key("b", "m", "s", "hello")
    assert affinity_key("a", "m", "", "hello") != affinity_key("b", "m", "", "hello")
    assert affinity_key("ab", "m", "c", "") != affinity_key("a", "m", "bc", "")


def test_what_one_model_has_read_is_nothing_to_another() -> None:
    assert affinity_key("a", "m", "s", "hello") != affinity_key("a", "n", "s", "hello")


def test_a_session_counts_more_than_how_a_prompt_begins() -> None:
    assert affinity_key("a", "m", "s", "hello") == affinity_key("a", "m", "s", "good evening")
    assert affinity_key("a", "m", "hello", "") != affinity_key("a", "m", "", "hello")


def test_a_key_tells_nothing_of_the_prompt_and_is_short() -> None:
    key = affinity_key("tenant", "m", "", "secret" * 1000)

    assert len(key) == 32
    assert "secret" not in key


def test_text_that_is_no_text_has_a_key_too() -> None:
    assert affinity_key("a", "m", "", "\ud800")


def test_nothing_to_go_by_is_no_key_and_is_not_kept() -> None:
    kept = Affinities()
    kept.remember(affinity_key("a", "m", "", ""), "one", 0)

    assert len(kept) == 0
    assert kept.node_for("", 0) is None


def test_a_node_is_remembered_from_its_last_use_on() -> None:
    kept = Affinities(ttl_s=10)
    kept.remember("k", "one", now=0)
    kept.remember("k", "one", now=9)

    assert kept.node_for("k", 18.9) == "one"
    assert kept.node_for("k", 19) is None
    assert len(kept) == 0


def test_this_machine_is_a_node_like_others() -> None:
    kept = Affinities()
    kept.remember("k", "", now=0)

    assert kept.node_for("k", 1) == ""


def test_the_keys_unused_for_longest_are_forgotten_first() -> None:
    kept = Affinities(count_max=2)
    for key in ("a", "b", "a", "c"):
        kept.remember(key, "one", now=0)

    assert [kept.node_for(key, 0) for key in "abc"] == ["one", None, "one"]


def test_what_is_too_old_takes_no_room() -> None:
    kept = Affinities(ttl_s=10)
    kept.remember("a", "one", now=0)
    kept.remember("b", "one", now=10)

    assert len(kept) == 1


def test_a_node_that_lost_its_caches_is_forgotten() -> None:
    kept = Affinities()
    kept.remember("a", "one", now=0)
    kept.remember("b", "two", now=0)
    kept.forget_node("one")

    assert (kept.node_for("a", 0), kept.node_for("b", 0)) == (None, "two")


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 20)), max_size=200))
def test_whatever_comes_it_never_holds_more_than_its_bound(uses: list[tuple[int, float]]) -> None:
    kept, now = Affinities(ttl_s=50, count_max=7), 0.0
    for key, step_s in uses:
        now += step_s
        kept.remember(str(key), "one", now)

        assert len(kept) <= 7
        assert kept.node_for(str(key), now) == "one"
