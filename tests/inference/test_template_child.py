"""Chat templates of files that nobody vouches for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from monolite.errors import Invalid
from monolite.inference.chat_template import CHATML, BadTemplate, ChatTemplate
from monolite.inference.template_child import TemplateChild

MESSAGES = [{"role": "user", "content": "Grüße, 世界! 🙂\n"}]


@contextmanager
def child(source: str | None, time_s: float = 20.0) -> Iterator[TemplateChild]:
    with closing(TemplateChild(source, bos_token="<s>", eos_token="</s>", time_s=time_s)) as made:
        yield made


@pytest.mark.parametrize("source", [None, CHATML, "{{ bos_token }}{{ messages[0].content }}"])
def test_it_renders_as_in_this_process(source: str | None) -> None:
    here = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    with child(source) as there:
        assert there.render(MESSAGES) == here.render(MESSAGES)
        assert there.render(MESSAGES * 3) == here.render(MESSAGES * 3)


def test_what_it_refuses_is_the_callers_fault() -> None:
    with (
        child("{{ raise_exception('roles must alternate') }}") as template,
        pytest.raises(Invalid, match="roles must alternate"),
    ):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for", "can't be read"),
        ("{{ 1 / 0 }}", "failed"),
        ("{{ ''.__class__.__mro__ }}", "failed"),
    ],
)
def test_one_that_fails_says_so_again_and_again(source: str, why: str) -> None:
    with child(source) as template:
        for _ in range(2):
            with pytest.raises(BadTemplate, match=why):
                template.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ messages[0].content * 10 ** 9 }}",
        "{% set n = namespace(x=messages) %}{% for _ in range(60) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
    ],
)
def test_one_that_fills_memory_fills_its_own(source: str) -> None:
    with child(source) as template:
        for _ in range(2):
            with pytest.raises(BadTemplate):
                template.render(MESSAGES)


def test_one_that_does_not_end_is_ended_and_the_next_is_answered() -> None:
    endless = (
        "{% if messages | length > 1 %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}done"
    )
    with child(endless, time_s=1.0) as template:
        with pytest.raises(BadTemplate, match="takes over 1 s"):
            template.render(MESSAGES * 2)
        template._time_s = 20.0
        assert template.render(MESSAGES) == "done"
