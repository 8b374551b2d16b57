"""Nodes that fail in all the ways that public failover benchmarks know: another node answers, or a typed error does."""

from __future__ import annotations

from bench.scorecard import CASES, Seen, card, playground, problem, table

SUITE_SLACK_S = 2.0  # other tests run beside this one; `make scorecard` has none


async def test_every_fault_ends_in_an_answer_of_another_node_or_in_a_typed_error_in_time() -> None:
    async with playground() as server:
        rows = await card(server, slack_s=SUITE_SLACK_S)

    assert len(CASES) == 16
    assert len(rows) == 64
    assert all(row.is_right for row in rows), table(rows)


def test_an_answer_after_the_bound_is_wrong_however_right_it_is() -> None:
    case = CASES[0]
    late = Seen("all is well", node="x-good", took_s=case.within_s + 0.01, has_end=True)

    assert "took" in problem(case, late, case.within_s, streamed=True)
    assert not problem(case, late, case.within_s + 1, streamed=True)
