"""The form of a new analysis: models, prompts, settings, Run."""

from __future__ import annotations

import streamlit as st

from kvlab import prompts
from kvlab.errors import KvlabError, PromptError
from kvlab.prompts import Reading
from kvlab.request import checked
from kvlab.segments import Markers
from kvlab.types import Document
from kvlab.ui import backend
from kvlab.ui.text import CALIBRATION, KEYS, PROJECTORS, SEGMENTS, TIME_RULES, show_error

SOURCES = {"samples": "Bundled samples", "paste": "Paste", "upload": "Upload"}
ALIASES = ["Qwen2-7B", "TinyLlama"]
PASTE_HELP = "Separate prompts by an empty line."
UPLOAD_HELP = ".txt (prompts separated by blank lines), .jsonl (prompt or text, reasoning, answer), .csv, .parquet"

MARKER_HELP = {name: f"One a line: {field.description}." for name, field in Markers.model_fields.items()}

# What the form starts with, by widget key.
FIELDS = {
    "form-source": "samples",
    "form-pasted": "",
    "form-segments": "auto",
    "form-markers-reasoning": "\n".join(Markers().reasoning),
    "form-markers-answer": "\n".join(Markers().answer),
    "form-chat": False,
    "form-time": "floor",
    "form-projector": "ridge",
    "form-calibration": "auto",
    "form-keys": "pre-rope",
    "form-folds": 5,
    "form-device": "auto",
    "form-dtype": "auto",
}


def keep_fields() -> None:
    """Called before anything is drawn: Streamlit forgets a widget's value in every run that does not draw it."""
    for key, default in FIELDS.items():
        st.session_state[key] = st.session_state.get(key, default)


def new_analysis() -> str | None:
    """Draw the form; the id of the run when one was launched."""
    left, right = st.columns(2, gap="medium")
    with left:
        teacher, student = models()
        documents, described = _prompts()
        parts, chat = _parts()
    with right:
        settings, calibration, device, dtype = _settings()
    if not st.button("Run", type="primary", icon=":material/play_arrow:", disabled=not documents, key="run-button"):
        return None
    try:
        request = checked(
            {
                "teacher": teacher,
                "student": student,
                "prompts": described,
                **parts,
                "calibration": calibration,
                "device": device,
                "dtype": dtype,
                "settings": settings | {"chat": chat},
            }
        )
        return backend.launch(request, documents)
    except KvlabError as error:
        show_error(error)
        return None


def models() -> tuple[str, str]:
    """Pickers of the demo models, what is in the local cache, or any name typed in."""
    names = [*backend.model_names(), *ALIASES]
    help_text = "A demo model, a Hugging Face id or a local folder; type to enter your own."
    chosen = []
    for role, default in (("teacher", "demo/teacher"), ("student", "demo/student")):
        key = f"form-{role}"
        kept = st.session_state.get(f"kept-{role}", default)
        options = list(dict.fromkeys([*names, kept]))
        name = st.selectbox(
            role.capitalize(),
            options,
            index=options.index(kept),
            key=key,
            accept_new_options=True,
            help=help_text,
        )
        st.session_state[f"kept-{role}"] = name or default
        chosen.append((name or default).strip())
    return chosen[0], chosen[1]


def _prompts() -> tuple[list[Document], str]:
    source = st.segmented_control("Prompts", list(SOURCES), format_func=SOURCES.get, key="form-source", required=True)
    try:
        if source == "samples":
            documents = prompts.samples()
            st.caption(f"{len(documents)} word problems in English and Chinese that no demo model was trained on.")
            return documents, "bundled samples"
        if source == "paste":
            text = st.text_area("Your prompts", key="form-pasted", height=150, placeholder=PASTE_HELP)
            if not text.strip():
                return [], "pasted"
            return _shown(prompts.read_pasted(text)), "pasted"
        upload = st.file_uploader("Prompt file", type=["txt", "jsonl", "csv", "parquet"], help=UPLOAD_HELP)
        if upload is None:
            return [], "upload"
        return _shown(_read_upload(upload)), prompts.safe_name(upload.name)
    except PromptError as error:
        show_error(error)
        return [], ""


def _read_upload(upload) -> Reading:
    data = upload.getvalue()
    columns = prompts.tabular_columns(upload.name, data)
    column = None
    if columns:
        usual = next((i for i, name in enumerate(columns) if name in ("prompt", "text")), None)
        column = st.selectbox("Column with the prompts", columns, index=usual, key="form-column")
        if column is None:
            raise PromptError(
                "prompts-no-column",
                expected="the column that holds the prompts",
                found=f"{len(columns)} columns, none of them named prompt or text",
                remedy="choose one above",
            )
    return prompts.read_upload(upload.name, data, column=column)


def _shown(reading: Reading) -> list[Document]:
    """Say what was read and what was not; the good documents."""
    words = [f"Prompts read: {len(reading.documents):,}"]
    if reading.duplicates:
        words.append(f"duplicates left out: {reading.duplicates:,}")
    if reading.cut:
        words.append(f"cut at {prompts.LIMITS.characters:,} characters: {len(reading.cut):,}")
    st.caption(" · ".join(words))
    if reading.problems:
        st.warning(f"Not read as given: {len(reading.problems):,}. What was good is kept.")
        rows = [{"where": p.where, "problem": p.message} for p in reading.problems]
        st.dataframe(rows, hide_index=True, height=min(180, 38 + 35 * len(rows)))
    return reading.documents


def _parts() -> tuple[dict, bool]:
    """How prompts are cut into parts, and whether they are read as a chat."""
    with st.expander("Segments and chat"):
        chat = st.toggle(
            "Read as a chat",
            key="form-chat",
            help="Prompt: the user's message; reasoning and answer: the assistant's. Each model in its own template.",
        )
        source = st.selectbox(
            "Prompt, reasoning, answer", list(SEGMENTS), format_func=SEGMENTS.get, key="form-segments"
        )
        written = {
            name: column.text_area(
                f"The {name} begins with", key=f"form-markers-{name}", height=110, disabled=source != "auto", help=field
            )
            for column, (name, field) in zip(st.columns(2), MARKER_HELP.items(), strict=True)
        }
    markers = {name: [line for line in text.splitlines() if line.strip()] for name, text in written.items()}
    return {"segments": source, "markers": markers}, chat


def _settings() -> tuple[dict, str, str, str]:
    time = st.selectbox("Time rule", list(TIME_RULES), format_func=TIME_RULES.get, key="form-time")
    projector = st.selectbox("Projector", list(PROJECTORS), format_func=PROJECTORS.get, key="form-projector")
    calibration = st.selectbox(
        "Fit on",
        list(CALIBRATION),
        format_func=CALIBRATION.get,
        key="form-calibration",
        help="Scores are always of your prompts, each under a map that has not seen it.",
    )
    keys, folds = st.columns([2, 1])
    key_space = keys.selectbox("Keys", list(KEYS), format_func=KEYS.get, key="form-keys")
    fold_count = folds.number_input("Folds", 2, 20, key="form-folds")
    device, dtype = st.columns(2)
    on = device.selectbox("Device", ["auto", "cpu", "cuda"], key="form-device")
    precision = dtype.selectbox("Precision", ["auto", "float32", "bfloat16", "float16"], key="form-dtype")
    settings = {"time": time, "projector": projector, "keys": key_space, "folds": int(fold_count)}
    return settings, calibration, on, precision
