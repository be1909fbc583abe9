"""Templates of reports: a value never becomes markup, quoted text stays to the letter, words follow the language."""

import pytest
from markupsafe import Markup

from kvlab.language import Message, speaking
from kvlab.results.rendering import Quoted, environment

EVIL = "<b>*x* | `y`</b>"


def draw(template: str, markdown: bool, **values) -> str:
    return environment().from_string(template).render(markdown=markdown, **values)


def test_a_value_is_escaped_for_the_format_of_its_template():
    assert draw("{{ x }}", False, x=EVIL) == "&lt;b&gt;*x* | `y`&lt;/b&gt;"
    assert draw("{{ x }}", True, x=EVIL) == r"\<b\>\*x\* \| \`y\`\</b\>"
    assert draw("{{ x }} {{ y }}", True, x="# a", y="1. b") == r"\# a 1\. b"
    assert draw("{{ x }}{{ none }}", False, x=Markup("<p>")) == "<p>–"


def test_quoted_text_is_code_alone_within_words_and_in_a_table():
    assert draw("{{ x }}", False, x=Quoted(EVIL)) == "<code>&lt;b&gt;*x* | `y`&lt;/b&gt;</code>"
    assert draw("{{ x }}", True, x=Quoted("a `` b")) == "```a `` b```"
    said = draw('{{ say("Name: {name}", name=x) }}', True, x=Quoted("a_b"))
    assert said == "Name: `a_b`"
    assert draw("{{ x|cell }}", True, x=Quoted("a|b")) == r"`a\|b`"
    assert draw("{{ x|fenced }}", True, x="```\n# a") == "````text\n```\n# a\n````"


@pytest.mark.parametrize("markdown", [False, True])
def test_a_message_is_spoken_with_its_own_values_untranslated_and_escaped(markdown):
    message = Message("not loaded: {error}", error=Message("the run ended at step {step}", step=EVIL))
    with speaking("zh"):
        spoken = draw("{{ x }}", markdown, x=message)
    assert spoken.startswith("未能加载：运行在第 ") and "<b>" not in spoken and "x" in spoken
    assert draw("{{ x }}", markdown, x=Message("{share:.0%} of {n}", share=float("nan"), n=None)) == "– of –"
