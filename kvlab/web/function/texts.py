"""Greedy continuations side by side, marking tokens that the continuation from the own cache lacks."""

import streamlit as st

from kvlab.language import say
from kvlab.results.function.data import NAMES, VARIANTS, Continued, Injection
from kvlab.results.function.figures import accuracy
from kvlab.results.function.sentences import accuracy_sentence, pieces
from kvlab.results.function.tables import accuracy_table
from kvlab.web import files, language
from kvlab.web.document import named
from kvlab.web.function.verdict import columns_of
from kvlab.web.widgets import plain

FIRST = ("own", "projected")


def panel(injection: Injection, shown: str) -> None:
    """Draw the continued texts. ``shown`` names the result in widgets and files."""
    if not injection.texts:
        st.info(say("No document was continued: none has a prompt with something behind it, or none was asked for."))
        return
    _accuracy(injection, shown)
    labels = named([(text.id, text.prompt) for text in injection.texts])
    number = st.selectbox(say("Document"), list(labels), format_func=labels.get, key=f"function-text-{shown}")
    text = injection.texts[number]
    continuations = {continued.variant: continued for continued in text.continuations}
    key = f"function-variants-{shown}"
    language.keep_choice(key, [name for name in FIRST if name in continuations])
    chosen = st.pills(
        say("Continued from"),
        [name for name in VARIANTS if name in continuations],
        format_func=lambda name: say(NAMES[name]),
        selection_mode="multi",
        key=key,
    )
    st.markdown(say("**Prompt**"))
    st.code(text.prompt, language=None, wrap_lines=True)
    if text.expected is not None:
        st.caption(say("Expected answer: {answer}", answer=plain(text.expected)))
    else:
        st.caption(say("This document has no answer, so its continuations are not judged."))
    for column, name in zip(st.columns(max(1, len(chosen))), chosen, strict=False):
        with column.container(border=True):
            _continuation(continuations[name])
    st.caption(say("In ⟦brackets⟧: what the continuation from the own cache does not have at this place."))


def _continuation(continued: Continued) -> None:
    st.markdown(f"**{say(NAMES[continued.variant])}**")
    if not continued.tokens:
        st.caption(say("Nothing: it ends at once."))
    st.markdown(marked(continued))
    if continued.variant == "none" and continued.answer is not None:
        st.caption(say("answer {answer}, not judged: it has not read the prompt", answer=plain(continued.answer)))
    elif continued.right is not None:
        answer = plain(continued.answer) if continued.answer is not None else say("none")
        st.caption(say("✓ answer {answer}" if continued.right else "✗ answer {answer}", answer=answer))


def marked(continued: Continued) -> str:
    """Return the text as escaped Markdown, with the differing parts in brackets on a coloured background."""
    parts: list[tuple[str, bool]] = []
    for piece, differs in pieces(continued):
        if parts and parts[-1][1] == differs:
            parts[-1] = parts[-1][0] + piece, differs
        else:
            parts.append((piece, differs))
    shown = [(plain(text.replace("\n", " ⏎ ")), differs) for text, differs in parts]
    return "".join(f":orange-background[⟦{text}⟧]" if differs else text for text, differs in shown)


def _accuracy(injection: Injection, shown: str) -> None:
    sentence = accuracy_sentence(injection)
    if sentence is None:
        return
    st.markdown(sentence)
    if not injection.accuracy[0].documents:
        return
    with st.expander(say("Right answers of every variant"), icon=":material/bar_chart:"):
        alt = say("Share of right answers after every variant")
        files.chart(accuracy(injection.accuracy), f"accuracy-{shown}", alt, "accuracy")
        frame = accuracy_table(injection)
        files.table(frame, columns_of(frame.columns), f"{shown}-accuracy", f"right-{shown}")
