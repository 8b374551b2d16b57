"""Schedules that once failed, made short, and what each showed. They are run every time, whatever else is."""

from __future__ import annotations

from .plan import Act, Schedule


def arrivals(*acts: tuple[float, int]) -> tuple[Act, ...]:
    return tuple(Act(at, "arrive", dice) for at, dice in acts)


REGRESSIONS = {
    "the oldest of those overtaken as often as may be was overtaken once more, by another's priority": Schedule(
        2713, frozenset(("priorities",)),
        (Act(53.465, "sleep", 4170761546), *arrivals(
            (54.575, 4119663173), (55.538, 2262169674), (57.604, 148245907), (63.341, 825820425), (66.003, 123825388),
            (75.754, 1796501369), (77.476, 634002139), (78.804, 1621260946), (80.229, 3531178876), (80.337, 698824608),
            (82.259, 1764655236), (85.612, 674398298), (94.231, 3425957537), (95.571, 1665567971), (97.612, 334467286),
        )), 120.0, is_narrow=True,
    ),
    "new launch options without a ladder, while the old ladder's first way had broken: there was no way left": Schedule(
        10691,
        frozenset((
            "deaf_workers", "late_exits", "tight_queue", "failing_loads", "groups", "rungs", "priorities", "wrong_sizes"
        )),
        (*arrivals((1.21, 2087193125), (1.883, 934777977)), Act(16.048, "change", 2810020863),
         *arrivals((16.439, 4062142821))), 80.0,
    ),
    "a model loaded for an urgent request was closed to that request by an older one, for ever": Schedule(
        37, frozenset(("priorities",)), (), 120.0, is_narrow=True
    ),
    "who waited for others' memory was refused while a model that was leaving passed for theirs": Schedule(
        7538, frozenset(("kinds", "late_exits", "repeated_messages")),
        arrivals((0.12, 2455701934), (0.391, 2880649617), (2.388, 1909063158)), 50.0,
    ),
    "a failure was held against a model that had been loaded well since, by an operator": Schedule(
        94, frozenset(("failing_loads", "cancels")),
        (*arrivals(
            (1.687, 2456015455), (4.415, 3087154958), (4.976, 3819363335), (5.429, 156133965), (7.882, 2075035145),
            (11.124, 1420089402),
        ), Act(11.348, "operate", 2610153857), *arrivals((13.842, 2647169744), (15.188, 1881762322))),
        50.0, is_narrow=True,
    ),
    "a younger line took, again and again, what an older one waited for together with something more": Schedule(
        2745, frozenset(("cancels", "unknown_sizes", "contexts")),
        arrivals((2.835, 4278416522), (3.132, 3689204531), (4.142, 3626949323), (11.154, 1951878644)), 50.0,
    ),
    "a load that broke for memory was tried again in the same way": Schedule(
        142, frozenset(("failing_loads",)), arrivals((10.83, 695971690), (13.178, 1747231371)), 80.0, is_narrow=True
    ),
}  # fmt: skip
