"""The form of a new certificate: the fields of a functional test that matter to it, and its gates."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.request.certify import CertifyRequest, Gates
from kvlab.request.inject import check_causal
from kvlab.request.settings import checked
from kvlab.web import backend
from kvlab.web.alignment import form
from kvlab.web.certificate import source
from kvlab.web.widgets import show_error

DEFAULT = Gates()
# The initial values of the form, by widget key.
FIELDS = {
    "certificate-kl": DEFAULT.kl_p95,
    "certificate-cosine": DEFAULT.head_output_cosine,
    "certificate-random": DEFAULT.beats_random,
    "certificate-groups": DEFAULT.every_group,
}
ADVANCED = phrase("Advanced: gates, further teachers, parts of the prompts, rules, device")


def new_certificate() -> str | None:
    """Draw the form; return the id of the run once the user launches one."""
    chosen, documents = form.three_choices()
    action = st.container()
    with st.expander(say(ADVANCED), icon=":material/tune:"):
        st.markdown(say("**Gates**"))
        gates = _gates()
        more, settings, fields = form.further_choices(with_time=False)
    everything = {**chosen, **more, **fields, "settings": settings, "gates": gates}
    form.command_line(CertifyRequest, everything)
    with action:
        label = say("Make the certificate")
        clicked = form.run_button(label, "certificate-button", ":material/verified:", everything, documents)
    if not clicked:
        return None
    try:
        request = checked(CertifyRequest, everything)
        check_causal(request.settings.time)
        form.check_models(request)
        return backend.launch(request, documents, source.KIND)
    except KvlabError as error:
        show_error(error)
        return None


def _gates() -> dict:
    """Draw the fields of Gates and return their values."""
    kl, cosine = st.columns(2)
    most = kl.number_input(
        say("Most KL of 95 % of the tokens, nats"),
        0.0,
        step=0.05,
        key="certificate-kl",
        help=say("The strictest published gate is 0.2."),
    )
    least = cosine.number_input(
        say("Least cosine of the heads’ outputs, mean over heads"),
        -1.0,
        1.0,
        step=0.05,
        key="certificate-cosine",
        help=say("The strictest published gate is 0.9; −1: not asked for."),
    )
    groups = st.checkbox(say("The KL holds in every language and domain of the prompts"), key="certificate-groups")
    random = st.checkbox(say("The teacher does better than one of random weights"), key="certificate-random")
    return {"kl_p95": most, "head_output_cosine": least, "every_group": groups, "beats_random": random}
