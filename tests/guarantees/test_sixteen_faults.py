"""Nodes that fail in all the ways that public failover benchmarks know: another node answers, or a typed error does."""

from __future__ import annotations

from bench.scorecard import CASES, card, playground, table


async def test_every_fault_ends_in_an_answer_of_another_node_or_in_a_typed_error_in_time() -> None:
    async with playground() as server:
        rows = await card(server)

    assert len(CASES) == 16
    assert len(rows) == 64
    assert all(row.is_right for row in rows), table(rows)
