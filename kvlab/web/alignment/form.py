"""The form of a new analysis: teacher, student, prompts, Run; everything else is under Advanced."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.request import command
from kvlab.request.align import PASTED, SAMPLES, AlignSettings, AnalysisRequest
from kvlab.request.segments import Markers
from kvlab.request.settings import checked
from kvlab.shapes import Document
from kvlab.web import backend, pair, prompts_form
from kvlab.web.alignment import form_settings
from kvlab.web.alignment.form_memory import Memory
from kvlab.web.widgets import show_error

ALIASES = ["Qwen2-7B", "TinyLlama"]
ROLES = {  # label of the picker, its initial value
    "teacher": (phrase("Teacher"), "demo/teacher"),
    "student": (phrase("Student"), "demo/student"),
}
SETTINGS = ("time", "rows", "layers", "projector", "keys", "search", "folds", "chat")
SETTINGS += ("row_weights", "random_teacher", "compare_rules", "sample_tokens", "max_tokens", "batch_tokens")

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
ADVANCED = phrase("Advanced: further teachers, parts of the prompts, rules, controls, device")


def new_analysis() -> str | None:
    """Draw the form; return the id of the run once the user launches one."""
    chosen, documents = three_choices()
    action = st.container()
    with st.expander(say(ADVANCED), icon=":material/tune:"):
        more, settings, fields = further_choices()
    everything = {**chosen, **more, **fields, "settings": settings}
    command_line(AnalysisRequest, everything)
    with action:
        clicked = run_button(say("Run"), "run-button", ":material/play_arrow:", everything, documents)
    if not clicked:
        return None
    try:
        request = checked(AnalysisRequest, everything)
        check_models(request)
        return backend.launch(request, documents)
    except KvlabError as error:
        show_error(error)
        return None


def three_choices() -> tuple[dict[str, Any], list[Document]]:
    """Draw teacher, student and prompts. Return fields of a request, and the documents."""
    left, right = st.columns(2, gap="medium")
    with left:
        teacher, student = models()
    with right:
        documents, source = prompts_form.documents()
        prompts_form.preview(documents)
    return {"teacher": teacher, "student": student, "prompts": source}, documents


def run_button(label: str, key: str, icon: str, everything: dict[str, Any], documents: list[Document]) -> bool:
    """Draw the button that launches, and beside it what is known before."""
    button, known = st.columns([1, 3], vertical_alignment="center")
    clicked = button.button(label, type="primary", icon=icon, disabled=not documents, key=key, width="stretch")
    with known:
        teachers = [everything["teacher"], *everything["more_teachers"]]
        memory = Memory(everything, documents)
        # The bundled samples are known; their tokens need not be counted.
        counted = () if everything["prompts"] == SAMPLES else documents
        pair.says(teachers, everything["student"], counted, memory.says)
        memory.offers()
    return clicked


def further_choices(with_time: bool = True) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Draw what is under Advanced. Return fields of a request, settings, and further fields of a request."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown(say("**Teachers and prompts**"))
        more_teachers = further_teachers()
        parts, chat = prompts_form.parts()
    with right:
        settings, fields = form_settings.settings(with_time)
    return {"more_teachers": more_teachers, **parts}, settings | {"chat": chat}, fields


def check_models(request: AnalysisRequest) -> None:
    """Refuse models that cannot be had. Raises KvlabError."""
    for name in (*request.teachers, request.student):
        backend.geometry(name)


def command_line(model: type[AnalysisRequest], everything: dict[str, Any]) -> None:
    """Draw the command that does the same as the form; nothing while a setting is invalid."""
    try:
        request = checked(model, everything)
    except KvlabError:
        return
    with st.expander(say("The same on the command line"), icon=":material/terminal:"):
        st.code(command_of(request), language="bash", wrap_lines=True)


def command_of(request: AnalysisRequest) -> str:
    """Return the command of a request; DIR and FILE stand for what the form does not know."""
    given = [word for name in request.teachers for word in ("--teacher", name)]
    if request.prompts != SAMPLES:
        files = st.session_state.get("form-files") or []
        place = "FILE" if request.prompts == PASTED else "FOLDER" if len(files) > 1 else request.prompts
        given += ["--prompts", place, *(_read_as() if len(files) == 1 else ())]
    leave_out = ("teacher", "more_teachers", "prompts", "settings.inspect")
    return command.line(request, *given, leave_out=leave_out) + " --out DIR"


def _read_as() -> Sequence[str]:
    """Return the flags of what was overruled about the only uploaded file."""
    state = {name: st.session_state.get(f"form-file-{name}") for name in ("format", "column", "answer", "which")}
    words = ["--format", state["format"]] if state["format"] not in (None, "auto") else []
    if column := state["column"] or state["which"]:
        words += ["--column", column]
    return [*words, "--answer", state["answer"]] if state["answer"] else words


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
