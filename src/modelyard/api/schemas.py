"""Which JSON schemas a worker is asked to follow: a schema becomes a grammar there, and a bad one stops every slot.

llama.cpp hangs and grows without end on a minimum above its maximum, and takes exponential time over alternatives it
cannot tell apart. What could cost it more than a moment is refused here, with the place at fault. The costs were found
by trying; they stand beside the limits. Knows nothing about requests.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from modelyard.errors import N_, BadRequest, RequestTooLarge
from modelyard.units import format_bytes

from .bodies import check_nesting, invalid

SCHEMA_BYTES_MAX = 64 * 1024
SCHEMA_ITEMS_MAX = 20_000
WALK_DEPTH_MAX = 96  # references followed count, too
ALTERNATIVES_MAX = 256  # of one value: 1,000 stop all slots for a second
EXPANDED_MAX = 4096  # alternatives with every reference written out
OPTIONAL_COST_MAX = 20_000  # the sum of squares of an object's optional properties: 300 take two seconds
PATTERN_CHARS_MAX = 512
PATTERN_COST_MAX = 16  # see `pattern_cost`: 48 is more than ten seconds
PATTERN_WEIGHT = 8  # times the square of its cost: so much a pattern counts among the alternatives
COUNT_MAX = 2**31 - 1

_BOUNDS = (("minLength", "maxLength"), ("minItems", "maxItems"))
_MAPS = ("properties", "patternProperties")  # definitions are looked at where they are used
_SINGLE = ("items", "additionalProperties", "additionalItems", "not", "contains", "if", "then", "else")
_REPEAT = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}")


class SchemaCheck:
    """Checks the schemas of one request, which share what they may cost."""

    def __init__(self) -> None:
        self._bytes_left = SCHEMA_BYTES_MAX
        self._cost_left = OPTIONAL_COST_MAX

    def check(self, schema: dict[str, Any], param: str) -> None:
        """Raise for a schema that could cost a worker too much."""
        check_nesting(schema, param, SCHEMA_ITEMS_MAX)
        try:
            self._bytes_left -= len(orjson.dumps(schema))
        except TypeError:
            raise invalid(param, N_("it has a number or a text that JSON cannot carry")) from None
        if self._bytes_left < 0:
            raise RequestTooLarge(what=N_("the request's schemas"), limit=format_bytes(SCHEMA_BYTES_MAX), param=param)
        walk = _Walk(schema, param, self._cost_left)
        walk.visit(schema, 0)
        self._cost_left = walk.cost_left


class _Walk:
    """One look at every part of a schema that a grammar is made of, through its references."""

    def __init__(self, root: dict[str, Any], param: str, cost_left: int) -> None:
        self.cost_left = cost_left
        self._root = root
        self._param = param
        self._active: set[int] = set()
        self._seen: dict[int, tuple[int, bool]] = {}

    def visit(self, node: object, depth: int) -> tuple[int, bool]:
        """How many alternatives there are below, written out; and whether it contains itself somewhere."""
        if not isinstance(node, dict):
            return 0, False
        if id(node) in self._active:
            return 0, True
        known = self._seen.get(id(node))
        if known is not None:
            return known
        if depth > WALK_DEPTH_MAX:
            raise self._refusal("its references lead too deep")
        self._active.add(id(node))
        self._check_bounds(node)
        self._check_optional(node)
        expanded, is_recursive = self._alternatives(node, depth)
        expanded += self._pattern_weight(node)
        for child in self._children(node):
            below, is_below = self.visit(child, depth + 1)
            expanded, is_recursive = expanded + below, is_recursive or is_below
        if expanded > EXPANDED_MAX:
            raise self._refusal("it has too many alternatives, or too costly patterns")
        self._active.discard(id(node))
        self._seen[id(node)] = expanded, is_recursive
        return expanded, is_recursive

    def _children(self, node: dict[str, Any]) -> list[object]:
        found: list[object] = [node.get(name) for name in _SINGLE]
        for name in _MAPS:
            if isinstance(part := node.get(name), dict):
                found.extend(part.values())
        for name in ("allOf", "prefixItems", "items"):
            if isinstance(part := node.get(name), list):
                found.extend(part)
        if "$ref" in node:
            found.append(self._target(node["$ref"]))
        return found

    def _alternatives(self, node: dict[str, Any], depth: int) -> tuple[int, bool]:
        count, is_recursive = 0, False
        for name in ("anyOf", "oneOf"):
            branches = node.get(name)
            if not isinstance(branches, list):
                continue
            looks = [self.visit(branch, depth + 1) for branch in branches]
            count += len(branches) + sum(below for below, _ in looks)
            recursive = [branch for branch, (_, is_) in zip(branches, looks, strict=True) if is_]
            is_recursive = is_recursive or bool(recursive)
            if len(recursive) > 1 and not self._are_tagged(recursive):
                # Each level would double what the worker must keep in mind.
                raise self._refusal(f"{name} has several alternatives that contain themselves and begin alike")
        for name in ("enum", "type"):
            if isinstance(values := node.get(name), list):
                count += len(values)
                if len(values) > ALTERNATIVES_MAX:
                    raise self._refusal(f"{name} has more than {ALTERNATIVES_MAX} values")
        return count, is_recursive

    def _are_tagged(self, branches: list[object]) -> bool:
        """Whether each is an object whose first required property is a constant of its own."""
        tags = [self._tag(branch) for branch in branches]
        return None not in tags and len(set(tags)) == len(tags)

    def _tag(self, branch: object) -> str | None:
        for _hop in range(WALK_DEPTH_MAX):
            if not (isinstance(branch, dict) and "$ref" in branch):
                break
            branch = self._target(branch["$ref"])
        properties = branch.get("properties") if isinstance(branch, dict) else None
        required = branch.get("required") if isinstance(branch, dict) else None
        if not isinstance(properties, dict) or not isinstance(required, list):
            return None
        name, first = next(iter(properties.items()), ("", None))
        if name not in required or not isinstance(first, dict):
            return None
        values = first.get("enum", [first.get("const")])
        alone = values[0] if isinstance(values, list) and len(values) == 1 else None
        return f"{name}={alone}" if isinstance(alone, str) else None

    def _target(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise self._refusal("a $ref must begin with # and stay inside the schema")
        node: object = self._root
        for written in reference[1:].split("/")[1:]:
            step = written.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(node):
                node = node[int(step[:9])]
            else:
                raise self._refusal("a $ref leads nowhere")
        return node

    def _check_bounds(self, node: dict[str, Any]) -> None:
        for low_name, high_name in _BOUNDS:
            low, high = node.get(low_name, 0), node.get(high_name, COUNT_MAX)
            if not all(type(bound) is int and 0 <= bound <= COUNT_MAX for bound in (low, high)):
                raise self._refusal(f"{low_name} and {high_name} must be whole numbers that are possible")
            if low > high:
                raise self._refusal(f"{low_name} is greater than {high_name}")
        low, high = node.get("minimum"), node.get("maximum")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            raise self._refusal("minimum is greater than maximum")

    def _pattern_weight(self, node: dict[str, Any]) -> int:
        pattern = node.get("pattern")
        if not isinstance(pattern, str):
            return 0
        if len(pattern) > PATTERN_CHARS_MAX:
            raise self._refusal(f"a pattern has more than {PATTERN_CHARS_MAX} characters")
        cost = pattern_cost(pattern)
        if cost > PATTERN_COST_MAX:
            raise self._refusal("a pattern repeats too much that it cannot tell apart")
        return PATTERN_WEIGHT * cost * cost

    def _check_optional(self, node: dict[str, Any]) -> None:
        properties, required = node.get("properties"), node.get("required")
        if not isinstance(properties, dict):
            return
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        self.cost_left -= len(properties.keys() - names) ** 2
        if self.cost_left < 0:
            raise self._refusal("it has too many optional properties")

    def _refusal(self, problem: str) -> BadRequest:
        return invalid(self._param, problem)


def pattern_cost(pattern: str) -> int:
    """How many places of a pattern the worker may have to keep in mind at once, roughly.

    A branch and a repetition cost one each, an endless repetition doubles what is inside, a counted one multiplies it.

    >>> pattern_cost("^[a-z]+(-[a-z]+)*$"), pattern_cost("^((a*)*)*$"), pattern_cost("^(a{0,9}){0,9}$")
    (4, 7, 10)
    """
    costs, last = [0], 0  # of the groups that are open, the outermost first; of the piece just read
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        step = 1
        if sign == "\\":
            last, step = 0, 2
        elif sign == "[":
            last, step = 0, _class_length(pattern, at)
        elif sign == "(":
            costs.append(0)
            last = 0
        elif sign == ")" and len(costs) > 1:
            last = costs.pop()
            costs[-1] += last
        elif sign == "|":
            costs[-1] += 1
            last = 0
        elif sign in "*+?":
            more = 1 if sign == "?" else last + 1
            costs[-1] += more
            last += more
        elif sign == "{" and (found := _REPEAT.match(pattern, at)):
            step = len(found[0])
            more = _repeat_cost(found, last)
            costs[-1] += more
            last += more
        else:
            last = 0
        at += step
    return sum(costs)


def _repeat_cost(found: re.Match[str], inside: int) -> int:
    low, comma, high = found.groups()
    least = int(low[:9] or 0)
    most = least if not comma else int(high[:9]) if high else least + 1
    if most < least:
        return PATTERN_COST_MAX + 1
    return inside * max(most - 1, 0) + (1 if comma else 0)


def _class_length(pattern: str, at: int) -> int:
    end = at + 1
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end - at + 1
