"""Chat templates come with models, and models come from anywhere: nothing they do harms whoever renders them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from psutil import Process

from modelyard.demo import hf_folder
from modelyard.engines.templates import Renderer, TemplateBroken

HELLO = {"messages": [{"role": "user", "content": "héllo"}], "add_generation_prompt": True}
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('touch CANARY') }}",
    "{{ strftime_now.__globals__.os.system('touch CANARY') }}",
    "{{ ('%c' % 95 * 2 ~ 'class' ~ '%c' % 95 * 2) and ''|attr('__class__') }}",
    "{{ messages|map(attribute='__class__')|list|attr('__init__') }}{{ ''['__class__'].x }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='system') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
)
BOTTOMLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro a() %}{% for n in range(99999) %}{{ range(99999) | sum }}{% endfor %}{% endmacro %}{{ a() }}",
    "{{ (9999999 ** 9999999) ** 99 }}",
)
GREEDY = (
    "{{ 'a' * 10 ** 10 }}",
    "{% for a in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ range(10 ** 9) | list }}",
    "{% set x = namespace(t='a') %}{% for n in range(60) %}{% set x.t = x.t ~ x.t %}{% endfor %}{{ x.t }}",
)

Rendering = Callable[..., Awaitable[str]]


@pytest.fixture
async def render(tmp_path: Path) -> AsyncIterator[Rendering]:
    """Renders a template, in a folder where nothing may appear."""
    made: list[Renderer] = []

    async def rendered(template: str, render_s: float = 30.0, **values: Any) -> str:
        made.append(Renderer(template, os.environ, render_s=render_s))
        return await made[-1].render({**HELLO, **values})

    yield rendered
    for one in made:
        await one.close()


async def test_a_models_own_template_makes_its_prompt(render: Rendering) -> None:
    template = json.loads((hf_folder() / "tokenizer_config.json").read_text())["chat_template"]

    assert await render(template) == "<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n"


async def test_templates_find_what_they_are_written_for(render: Rendering) -> None:
    template = (
        "{{ bos_token }}{{ strftime_now('%Y') | length }}{% generation %}x{% endgeneration %}"
        "{% set n = namespace(i=0) %}{% for m in messages %}{% set n.i = n.i + 1 %}{% break %}{% endfor %}{{ n.i }}"
        "{{ {'b': '<', 'a': 'é'} | tojson }}"
    )

    assert await render(template, bos_token="<s>") == '<s>4x1{"b": "<", "a": "é"}'


async def test_what_a_template_raises_is_told(render: Rendering) -> None:
    with pytest.raises(TemplateBroken, match="roles must alternate"):
        await render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("template", ["{{ x", "{% nothing %}", "{{ 1 / 0 }}"])
async def test_a_template_that_is_none_is_an_error(render: Rendering, template: str) -> None:
    with pytest.raises(TemplateBroken):
        await render(template)


async def test_no_template_reaches_beyond_its_sandbox(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    async def tried(template: str) -> None:
        renderer = Renderer(template.replace("CANARY", str(canary)), os.environ)
        with suppress(TemplateBroken):  # some only show themselves, which is no escape
            text = await renderer.render(HELLO)
            assert "root:" not in text
            assert "<module" not in text
        await renderer.close()

    for template in ESCAPES:
        await tried(template)

    assert not canary.exists()


@pytest.mark.parametrize("template", BOTTOMLESS)
async def test_a_template_that_does_not_end_is_ended(render: Rendering, template: str) -> None:
    with pytest.raises(TemplateBroken, match="not rendered within"):
        await render(template, render_s=0.5)


@pytest.mark.parametrize("template", GREEDY)
async def test_a_template_that_wants_all_memory_gets_an_error(render: Rendering, template: str) -> None:
    with pytest.raises(TemplateBroken):
        await render(template)


async def test_after_an_endless_one_the_next_request_is_served_by_a_new_process() -> None:
    renderer = Renderer(
        "{% if endless %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}ok",
        os.environ, render_s=0.5,
    )  # fmt: skip
    assert await renderer.render({"endless": False}) == "ok"

    with pytest.raises(TemplateBroken):
        await renderer.render({"endless": True})

    assert await renderer.render({"endless": False}) == "ok"
    assert len([child for child in Process().children() if "template_worker" in " ".join(child.cmdline())]) == 1
    await renderer.close()


async def test_whoever_leaves_in_the_middle_hands_its_text_to_nobody_else() -> None:
    renderer = Renderer("{% for n in range(99999) %}{{ '' }}{% endfor %}{{ who }}", os.environ)
    await renderer.begin()
    first = asyncio.create_task(renderer.render({"who": "first"}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    assert await renderer.render({"who": "second"}) == "second"
    await renderer.close()
