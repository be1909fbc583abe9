"""The form of a new analysis: models, prompts, settings, Run."""

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.request.align import AlignSettings, AnalysisRequest
from kvlab.request.segments import Markers
from kvlab.request.settings import checked
from kvlab.shapes import Document
from kvlab.web import backend, prompts_form
from kvlab.web.alignment import form_settings
from kvlab.web.widgets import show_error

ALIASES = ["Qwen2-7B", "TinyLlama"]
ROLES = {  # label of the picker, its initial value
    "teacher": (phrase("Teacher"), "demo/teacher"),
    "student": (phrase("Student"), "demo/student"),
}
SETTINGS = ("time", "rows", "layers", "projector", "keys", "search", "folds", "chat")
SETTINGS += ("row_weights", "random_teacher", "compare_rules", "sample_tokens", "max_tokens")

# The initial values of the form, by widget key: the defaults of a request.
FIELDS = {
    "form-more-teachers": [],
    "form-source": "samples",
    "form-pasted": "",
    "form-segments": AnalysisRequest.model_fields["segments"].default,
    "form-markers-reasoning": "\n".join(Markers().reasoning),
    "form-markers-answer": "\n".join(Markers().answer),
    "form-calibration": AnalysisRequest.model_fields["calibration"].default,
    **{f"form-{name.replace('_', '-')}": getattr(AlignSettings(), name) for name in SETTINGS},
    "form-device": "auto",
    "form-dtype": "auto",
    "form-load-in": "none",
    "form-split-teacher": False,
}


def new_analysis() -> str | None:
    """Draw the form; return the id of the run once the user launches one."""
    left, right = st.columns(2, gap="medium")
    with left:
        chosen, documents, chat = models_and_prompts()
    with right:
        settings, fields = form_settings.settings()
    if not st.button(
        say("Run"), type="primary", icon=":material/play_arrow:", disabled=not documents, key="run-button"
    ):
        return None
    try:
        request = checked(AnalysisRequest, {**chosen, **fields, "settings": settings | {"chat": chat}})
        return backend.launch(request, documents)
    except KvlabError as error:
        show_error(error)
        return None


def models_and_prompts() -> tuple[dict, list[Document], bool]:
    """Draw models and prompts. Return fields of a request, the documents, and whether to read a chat."""
    teacher, student = models()
    more_teachers = further_teachers()
    documents, source = prompts_form.documents()
    parts, chat = prompts_form.parts()
    fields = {"teacher": teacher, "more_teachers": more_teachers, "student": student, "prompts": source}
    return fields | parts, documents, chat


def models() -> tuple[str, str]:
    """Pick teacher and student among the demo models, the local cache, or by any name typed in."""
    names = [*backend.model_names(), *ALIASES]
    help_text = say("A demo model, a Hugging Face id or a local folder; type to enter your own.")
    chosen = []
    for role, (label, default) in ROLES.items():
        last = st.session_state.get(f"kept-{role}", default)
        options = list(dict.fromkeys([*names, last]))
        name = st.selectbox(
            say(label), options, options.index(last), key=f"form-{role}", accept_new_options=True, help=help_text
        )
        st.session_state[f"kept-{role}"] = name or default
        chosen.append((name or default).strip())
    return chosen[0], chosen[1]


def further_teachers() -> tuple[str, ...]:
    """Pick teachers beside the first; typed names stay among the options."""
    last = st.session_state["form-more-teachers"]
    chosen = st.multiselect(
        say("Further teachers"),
        list(dict.fromkeys([*backend.model_names(), *ALIASES, *last])),
        key="form-more-teachers",
        accept_new_options=True,
        placeholder=say("None"),
        help=say("Each is aligned on its own timeline, then all are fused in the student’s space."),
    )
    return tuple(name.strip() for name in chosen if name.strip())
