"""The form of a new functional test: the fields of an analysis, and those of the injection."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.request.align import AlignSettings
from kvlab.request.forecast import refined_documents
from kvlab.request.inject import EPOCHS, STOPPING, InjectionRequest, InjectSettings
from kvlab.request.prompts import calibration_documents
from kvlab.request.settings import checked
from kvlab.request.time_rules import CAUSAL
from kvlab.web.alignment import form
from kvlab.web.function import source
from kvlab.web.widgets import TIME_RULES, choice, show_error

DEFAULT = InjectSettings()
SHARES = tuple(n / 100 for n in range(5, 100, 5))
# The initial values of the form, by widget key.
FIELDS = {
    "function-time": AlignSettings().time,
    "function-prefix": DEFAULT.prefix,
    "function-curve": list(DEFAULT.curve),
    "function-documents": DEFAULT.documents,
    "function-hybrid": DEFAULT.hybrid,
    "function-refine": DEFAULT.refine,
    "function-texts": DEFAULT.texts,
    "function-swap-layers": DEFAULT.swap_layers,
    "function-seconds": 0,
}
ADVANCED = phrase("Advanced: further teachers, parts of the prompts, rules, how much is tried, device")
OTHERS = phrase(
    "Only rules by which the teacher has read no more than the student: with {rules} a good continuation could be told "
    "in advance."
)


def new_test() -> str | None:
    """Draw the form; return the id of the run once the user launches one."""
    chosen, documents = form.three_choices()
    action = st.container()
    with st.expander(say(ADVANCED), icon=":material/tune:"):
        others = say(", ").join(rule for rule in TIME_RULES if rule not in CAUSAL)
        rules = {rule: TIME_RULES[rule] for rule in CAUSAL}
        time = choice(say("Time rule"), rules, "function-time", help=say(OTHERS, rules=others))
        more, settings, fields = form.further_choices(with_time=False)
        documents_and_calibration = [*documents, *calibration_documents(fields["calibration"], documents)]
        refined = refined_documents(len(documents_and_calibration), settings["folds"])
        st.markdown(say("**How much is tried**"))
        injection = _injection(_cost_of_refining(refined, settings["projector"]))
    everything = {**chosen, **more, **fields, "settings": settings | {"time": time}, "injection": injection}
    form.command_line(InjectionRequest, everything)
    with action:
        clicked = form.run_button(say("Run the test"), "function-button", ":material/science:", everything, documents)
    if not clicked:
        return None
    try:
        request = checked(InjectionRequest, everything)
        form.check_models(request)
        return source.launch(request, documents)
    except KvlabError as error:
        show_error(error)
        return None


def _cost_of_refining(documents: int, projector: str) -> str:
    if documents < STOPPING:
        return say("Refining needs at least {n} fitted documents.", n=STOPPING)
    sources = 3 if projector == "ridge" else 2  # no other map is fitted with the student's own token
    return say(
        "At most {epochs} passes over {documents} documents for each of {sources} sources, each a forward and a "
        "backward of the student; the first tells how long it takes.",
        epochs=EPOCHS,
        documents=documents,
        sources=sources,
    )


def _injection(cost_of_refining: str) -> dict:
    """Draw the fields of InjectSettings and return their values."""
    prefix = st.select_slider(
        say("Share of each document handed over"),
        SHARES,
        format_func=lambda share: f"{share:.0%}",
        key="function-prefix",
        help=say("The cache of this share of the student’s tokens is replaced; the rest of the text is judged."),
    )
    with st.container():
        curve = st.multiselect(
            say("Further shares, for the curve"),
            SHARES,
            format_func=lambda share: f"{share:.0%}",
            key="function-curve",
            placeholder=say("None"),
        )
        documents, texts = st.columns(2)
        about = say("Every fifth document is held out from the fit; so many of these are judged.")
        label = say("Documents judged at most")
        judged = documents.number_input(label, 2, key="function-documents", help=about)
        continued = texts.number_input(say("Prompts continued greedily"), 0, key="function-texts")
        layers, seconds = st.columns(2)
        about = say("One head at a time, in the layers that cost most; 0: no swaps. The first tell how long it takes.")
        label = say("Layers whose heads are swapped")
        swapped = layers.number_input(label, 0, key="function-swap-layers", help=about)
        label, about = say("Seconds for swaps"), say("0: no limit. Half of it is for layers.")
        limit = seconds.number_input(label, 0, step=30, key="function-seconds", help=about)
        hybrid = st.checkbox(
            say("How much the student must still read"),
            key="function-hybrid",
            help=say("The student keeps its first layers, or reads the last tokens; a few more forwards."),
        )
        refine = st.checkbox(
            say("Refine the maps through the student"),
            key="function-refine",
            help=say(
                "Trains a linear correction on the KL of fitted documents, and the same for the control without a "
                "teacher; takes minutes."
            ),
        )
        st.caption(cost_of_refining)
    return {
        "prefix": prefix,
        "curve": sorted(set(curve) - {prefix}),
        "documents": int(judged),
        "hybrid": hybrid,
        "refine": refine,
        "texts": int(continued),
        "swap_layers": int(swapped),
        "seconds": float(limit) or None,
    }
