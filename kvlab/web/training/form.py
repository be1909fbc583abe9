"""The form that launches a training run, with its data."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import streamlit as st

from kvlab.errors import KvlabError
from kvlab.host import memory
from kvlab.language import phrase, plural, say
from kvlab.request import command, prompts
from kvlab.request.forecast import training_memory
from kvlab.request.formats import FORMATS
from kvlab.request.settings import checked
from kvlab.request.train import DEMO_DATA, OWN_PROMPTS, TrainConfig
from kvlab.shapes import Document, Geometry
from kvlab.web import backend, pair, places
from kvlab.web.alignment.form import ALIASES
from kvlab.web.prompts_form import preview, uploaded
from kvlab.web.training import experiment, fields, launch, options, place
from kvlab.web.training.fields import choice, key, switch, whole
from kvlab.web.training.launch import Asked
from kvlab.web.widgets import plain, segments, show_error

ADVANCED = phrase("Advanced: steps, control, map, what is trained, functional test, rates, device, thresholds")
DEMO = {"teachers": ["demo/teacher"], "student": "demo/student", "source": "demo"}
TWO_TEACHERS = {**DEMO, "teachers": ["demo/teacher", "demo/teacher-b"], "fusion": "learned"}
ASKS_WITH = "train-asks-controls"  # in the session: the click was for the run with its controls
ASKS_ROOM = "train-asks-room"  # in the session: the form asks whether to end the warm worker first
NAME_HELP = phrase("A demo model, a Hugging Face id, an alias or a local folder; type to enter your own.")


def start() -> dict[str, Any]:
    """Return the initial values of the form, by widget key."""
    values = TrainConfig().model_dump(mode="json") | DEMO | {"folder": "", "fusion_weights": ""}
    values |= {f"threshold-{name}": value for name, value in values["thresholds"].items()}
    return {key(name): value for name, value in values.items() if name not in ("thresholds", "data")}


def new_run() -> str | None:
    """Draw the form: teachers, student, data, Launch; the rest under Advanced. Return the id of a launched run."""
    left, right = st.columns(2, gap="medium")
    with left:
        settings = _models()
    with right:
        data, documents = _data()
        preview(documents)
    settings |= data
    action = st.container()
    with st.expander(say(ADVANCED), icon=":material/tune:"):
        first, second, _ = st.columns([3, 5, 4])
        _preset(first, "one", say("Reset to the demo pair"), DEMO, ":material/restart_alt:")
        _preset(second, "two", say("Fill in: two teachers, learned fusion"), TWO_TEACHERS, ":material/group:")
        settings |= _main(len(settings["teachers"]))
        settings |= fields.advanced(len(settings["teachers"]))
    asked = Asked(settings, documents)
    _command(asked)
    with action:
        return _launch(asked)


def _preset(column, name: str, label: str, values: dict[str, Any], icon: str) -> None:
    column.button(label, key=f"preset-{name}", on_click=_fill, args=(values,), icon=icon, width="stretch")


def _fill(values: dict[str, Any]) -> None:
    """Reset the form to its initial values, except for ``values``."""
    for name, value in (start() | {key(name): value for name, value in values.items()}).items():
        st.session_state[name] = value


def _models() -> dict[str, Any]:
    known = [*backend.model_names(), *ALIASES]
    teachers = st.multiselect(
        say("Teachers"),
        list(dict.fromkeys([*known, *st.session_state[key("teachers")]])),
        key=key("teachers"),
        accept_new_options=True,
        help=say("One or several. {about}", about=say(NAME_HELP)),
    )
    student = st.selectbox(
        say("Student"),
        list(dict.fromkeys([*known, st.session_state[key("student")] or DEMO["student"]])),
        key=key("student"),
        accept_new_options=True,
        help=say(NAME_HELP),
    )
    return {"teachers": [name.strip() for name in teachers if name.strip()], "student": (student or "").strip()}


def _main(teachers: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    what, trained, how = st.columns(3, gap="medium")
    with what:
        chosen["max_steps"] = whole("max_steps", say("Steps"))
        chosen["batch_size"] = whole("batch_size", say("Batch size, documents"))
        chosen["control"] = choice("control", say("Control"), options.CONTROLS)
    with trained:
        chosen["map"] = choice("map", say("Map"), options.MAPS)
        chosen["trainable"] = choice("trainable", say("What is trained"), options.TRAINABLE)
        label = say("Fusion of teachers")
        chosen["fusion"] = choice("fusion", label, options.FUSIONS, disabled=teachers < 2)
    with how:
        chosen["functional"] = switch("functional", say("Functional test, before and after"))
        chosen["use_kv_projector"] = switch("use_kv_projector", say("Project heads and width"))
        chosen["use_safe_resample"] = switch("use_safe_resample", say("Resample the timeline"))
        chosen["chat"] = switch("chat", say("Read as a chat"))
    return chosen


def _command(asked: Asked) -> None:
    """Draw the command that does the same as the form; nothing while a setting is invalid."""
    try:
        config = checked(TrainConfig, asked.settings)
    except KvlabError:
        return
    own = config.data == OWN_PROMPTS
    given = ["--data", "FOLDER"] if own else []
    always = ("teachers", "student", "use_kv_projector", "use_safe_resample")
    words = command.line(config, *given, leave_out=("data",) if own else (), always=always)
    with st.expander(say("The same on the command line"), icon=":material/terminal:"):
        st.code(f"{words} --output_dir DIR", language="bash", wrap_lines=True)


def _launch(asked: Asked) -> str | None:
    """Draw the launch button and the queue before it; launch on a click, or show why not."""
    steps = int(asked.settings["max_steps"])
    try:
        where, wrong = place.panel(), False
    except KvlabError as error:
        show_error(error)
        where, wrong = None, True
    left, right = st.columns(2)
    clicked = left.button(
        say("Launch {steps:,}-step validation", steps=steps),
        type="primary",
        key="launch-button",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=wrong,
    )
    with_controls = right.button(
        say("Launch with its controls, 3 seeds"),
        key="launch-experiment",
        icon=":material/compare:",
        help=say(experiment.WITH_CONTROLS),
        width="stretch",
        disabled=wrong,
    )
    forecast = partial(_memory, asked, here=where is None)
    pair.says(asked.settings["teachers"], asked.settings["student"], asked.documents, forecast)
    if where is None and not wrong:
        _say_queue(asked.settings["device"])
    if with_controls:
        st.session_state[ASKS_WITH] = True
    elif clicked:
        st.session_state.pop(ASKS_WITH, None)
    if wrong or not (clicked or with_controls or st.session_state.get(ASKS_ROOM)):
        return None
    try:
        config = launch.config_of(asked)
        launch.check(config, where)
        if where is None and not _room(config.device):
            return None
        with st.spinner(say("Queueing the run…")):
            if not st.session_state.pop(ASKS_WITH, False):
                return launch.launch(config, asked.documents, where)
            experiment.begin(config, _written(asked.documents) if config.data == OWN_PROMPTS else None, where)
        st.switch_page(places.experiments())
    except KvlabError as error:
        for asks in (ASKS_ROOM, ASKS_WITH):
            st.session_state.pop(asks, None)
        show_error(error)
        return None


def _written(documents: list[Document]) -> bytes:
    """Return documents as the prompts.jsonl of a run."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / prompts.RUN_PROMPTS
        prompts.write_prompts(documents, file)
        return file.read_bytes()


def _memory(asked: Asked, teachers: list[Geometry], student: Geometry, here: bool) -> str:
    """Say the memory of the run as far as its settings are valid; without a device if it runs elsewhere."""
    try:
        config = checked(TrainConfig, asked.settings)
    except KvlabError:
        config = TrainConfig()
    if not here:
        kind = "cpu" if config.device == "cpu" else "cuda"
        return pair.fits(training_memory(teachers, student, config, device=kind).total, None)
    device = memory.device_memory(config.device)
    return pair.fits(training_memory(teachers, student, config, device=device.device).total, device, memory.LIMIT)


def _say_queue(device: str) -> None:
    before = launch.ahead(device)
    if before:
        words = plural(
            before,
            "The device is busy: 1 run before it in the queue. Yours starts by itself as number {place}.",
            "The device is busy: {n:,} runs before it in the queue. Yours starts by itself as number {place}.",
            place=before + 1,
        )
        st.caption(f":material/hourglass_top: {words}")


def _room(device: str) -> bool:
    """Return whether the run may start. If the warm worker holds memory of the same GPU, ask first."""
    held = launch.held_on(device)
    if not held:
        st.session_state.pop(ASKS_ROOM, None)
        return True
    st.session_state[ASKS_ROOM] = True
    with st.container(border=True):
        st.markdown(
            say(
                "The analysis worker holds {models} on this GPU. Ending it gives that memory back; an analysis that is "
                "going on would fail, and can go on afterwards.",
                models=plain(say(", ").join(held)),
            )
        )
        end, beside, none = st.columns(3)
        ends = end.button(say("End the worker and launch"), key="room-end", type="primary", width="stretch")
        stays = beside.button(say("Launch beside it"), key="room-beside", width="stretch")
        if none.button(say("Do not launch"), key="room-none", width="stretch"):
            st.session_state.pop(ASKS_ROOM, None)
            st.rerun()
    if ends:
        with st.spinner(say("Ending the worker…")):
            launch.worker().stop()
    if ends or stays:
        st.session_state.pop(ASKS_ROOM, None)
    return ends or stays


SOURCES = {"demo": phrase("Bundled text"), "upload": phrase("Upload"), "folder": phrase("Folder on this machine")}


def _data() -> tuple[dict[str, Any], list[Document]]:
    """Draw the choice of data. Return the settings of the data and the uploaded documents."""
    source = segments(say("Data"), SOURCES, key("source"))
    usual = {name: TrainConfig.model_fields[name].default for name in ("data_format", "data_column", "data_answer")}
    if source == "folder":
        about = say("A folder, or one file, of documents in any of the formats that can be uploaded.")
        place = st.text_input(say("Path"), key=key("folder"), placeholder="/data/my-documents", help=about)
        return {"data": place, **_read_as()}, []
    if source == "upload":
        return {"data": OWN_PROMPTS, **usual}, _uploaded()
    st.caption(say("Word problems in English and Chinese, made as they are needed; the held-out ones are others."))
    return {"data": DEMO_DATA, **usual}, []


def _read_as() -> dict[str, Any]:
    """Draw what may be overruled about files of this machine, which nobody has read yet."""
    chosen: dict[str, Any] = {"data_format": choice("data_format", say("Read as"), FORMATS)}
    labels = {"data_column": say("Field with the prompts"), "data_answer": say("Field with the answers")}
    for column, (name, label) in zip(st.columns(2), labels.items(), strict=True):
        help_text = fields.described(TrainConfig, name)
        written = column.text_input(label, key=key(name), placeholder=say("as recognised"), help=help_text)
        chosen[name] = (written or "").strip() or None
    return chosen


def _uploaded() -> list[Document]:
    return uploaded("train-files", "train-file")
