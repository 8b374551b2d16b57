from __future__ import annotations

from modelyard.events import BACKLOG_MAX, EventBus


async def test_every_subscriber_gets_every_event_in_order() -> None:
    bus = EventBus()
    with bus.subscribe() as first, bus.subscribe() as second:
        bus.publish("model.loading", 1.0, model="a")
        bus.publish("model.loaded", 2.0, model="a")

        for subscription in (first, second):
            assert [(await subscription.next()).name for _ in range(2)] == ["model.loading", "model.loaded"]


async def test_a_slow_subscriber_loses_its_oldest_events_and_is_told() -> None:
    bus = EventBus()
    with bus.subscribe() as slow:
        for number in range(BACKLOG_MAX + 3):
            bus.publish("tick", float(number))

        assert slow.lost_count == 3
        assert (await slow.next()).at == 3.0


async def test_a_newcomer_can_ask_for_what_it_missed() -> None:
    bus = EventBus()
    for number in range(5):
        bus.publish("tick", float(number))

    with bus.subscribe(after=3) as late:
        assert [(await late.next()).number for _ in range(2)] == [4, 5]


def test_a_subscriber_that_left_is_forgotten() -> None:
    bus = EventBus()
    with bus.subscribe() as gone:
        pass

    bus.publish("tick", 0.0)

    assert gone.lost_count == 0
    assert not bus.is_full
