"""Every page without a browser: the sample is there at once, and bad runs are one clear message each."""

import dataclasses
import os
from pathlib import Path
from typing import get_args

import pytest
from streamlit.testing.v1 import AppTest

from kvlab.host import bundled
from kvlab.request import align, segments
from kvlab.results.alignment.data import read
from kvlab.runs import process, store
from kvlab.web import backend, document, progress, widgets
from tests import finished
from tests.spoken import as_read

SCRIPT = str(Path(__file__).parents[1] / "kvlab" / "web" / "script.py")
pytestmark = [pytest.mark.page, pytest.mark.xdist_group("pages"), pytest.mark.usefixtures("worker_of_pages")]


def open_page(path="", **query):
    app = AppTest.from_file(SCRIPT, default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    if path:
        app.switch_page(str(Path(SCRIPT).parents[2] / "pages" / f"{path}.py"))
    return app.run()


def unsaved(app):
    """The figures of the page that no button saves as SVG and PNG; the strip that moves a timeline needs none."""
    charts, buttons = (
        {element.proto.id.split("-", 2)[2] for element in app.get(kind)} for kind in ("plotly_chart", "download_button")
    )
    return {key for key in charts if f"figure-{key}" not in buttons and not key.startswith("strip-")}


def said(app):
    shown = [element.value for kind in (app.markdown, app.error, app.info, app.subheader) for element in kind]
    return as_read("\n".join(shown))


def test_overview_shows_the_finished_sample_and_every_mismatch():
    app = open_page()
    assert not app.exception
    assert not app.get("plotly_chart")  # its script would be most of what a browser waits for
    figures = [element.proto.body for element in app.get("html") if 'role="img"' in element.proto.body]
    saved = [button.proto.id.split("-", 2)[2] for button in app.get("download_button")]
    assert [figure.count('class="cell"') for figure in figures] == [0, 8, 8, 0]
    assert [figure.count('class="row"') for figure in figures] == [8, 0, 0, 0]
    assert [figure.count('class="block"') for figure in figures] == [0, 0, 0, 160]
    assert {"figure-overview-function", "figure-overview-key", "figure-overview-value"} < set(saved) and len(saved) == 4
    assert "Yes." in said(app) and "In 12 of 16 heads the teacher explains more than every control" in said(app)
    assert "Sample analysis" in said(app)  # in a caption its badge would be too pale
    table = app.dataframe[0].value.set_index("")
    assert table.loc["KV heads (query heads)"].tolist()[:2] == ["12 (12)", "2 (4)"]
    assert table.loc["KV heads (query heads)", "match"].startswith("≠")


@pytest.mark.parametrize("view", ["heads", "layers", "timeline", "compare", "numbers"])
def test_every_view_of_the_sample_opens_by_address(view):
    app = open_page("alignment", run="sample", view=view)
    assert not app.exception
    assert app.query_params["view"] == view
    assert not unsaved(app)


def test_why_an_analysis_cannot_be_cancelled_is_said_and_stays():
    run = store.create(store.runs_root(), "analysis", "elsewhere", {})
    store.write_status(run, state="running", **process.identity())
    app = open_page("alignment", run=run.name)
    for _ in range(2):
        app.button(key=f"cancel-{run.name}").click().run()
        app.run()  # the next look
        assert not app.exception and f"process {os.getpid()}" in said(app)


def test_a_cell_in_the_address_is_the_pinned_head():
    app = open_page("alignment", run="sample", cell="V-3-1")
    assert "V, layer 3, head 1" in [heading.value for heading in app.subheader]
    sample = read(bundled.ANALYSIS)
    assert f"R² **{sample.score('value', 3, 1).r2:.3f} ±" in said(app)


@pytest.mark.parametrize("cell", ["", "V-99-0", "<b>", "V-1", "K-a-b"])
def test_a_cell_that_is_none_falls_back_to_the_worst_key_head(cell):
    app = open_page("alignment", run="sample", cell=cell)
    sample = read(bundled.ANALYSIS)
    worst = max((s for s in sample.heads if s.kind == "key"), key=lambda s: s.error)
    assert f"K, layer {worst.layer}, head {worst.head}" in [heading.value for heading in app.subheader]


@pytest.mark.parametrize("run", ["../../etc/passwd", "20260101T000000.000Z-gone-abcd", "<script>"])
def test_an_address_of_no_run_is_one_clear_message(run):
    app = open_page("alignment", run=run)
    assert not app.exception
    assert "Expected" in said(app) and "What to do" in said(app)


def made(state=None, **fields):
    folder = store.create(store.runs_root(), "analysis", "mine", {"teacher": "a", "student": "b"})
    if state:
        store.write_status(folder, state=state, **fields)
    return folder


def test_failed_lost_cancelled_and_damaged_runs_are_said():
    error = {"kind": "k", "expected": "a good model", "found": "a bad *one*", "remedy": "try another"}
    app = open_page("alignment", run=made("failed", error=error).name)
    assert "This analysis failed" in said(app) and "a bad *one*" in said(app) and "try another" in said(app)

    lost = made("running", host=os.uname().nodename, pid=2**22 - 1, process_started=1.0)
    assert "This analysis was lost" in said(open_page("alignment", run=lost.name))
    assert "was stopped" in said(open_page("alignment", run=made("cancelled").name))

    damaged = made("done")
    (damaged / "alignment.json").write_text("{")
    assert "run the analysis again" in said(open_page("alignment", run=damaged.name))

    garbage = made()
    (garbage / "status.json").write_text("not json")
    (garbage / "config.yaml").write_text(":\n\t- [")
    app = open_page("alignment", run=garbage.name)
    assert not app.exception and "lost" in said(app)


def test_two_analyses_alike_of_one_minute_are_two_choices_of_the_picker():
    """The picker knows an option by its words alone: of two alike it would show the first, whichever was asked for."""
    for state in ("cancelled", "failed"):
        store.write_status(store.create(store.runs_root(), "analysis", "twice", {}), state=state)
    app = open_page("alignment", run="sample")
    options = app.selectbox(key="run-picker").options
    assert sum("twice" in option for option in options) == 2 and len(set(options)) == len(options)
    assert document.named([("a", "x y"), ("b", "x"), ("a", "x\ny")]) == {0: "a: x y · 1", 1: "b: x", 2: "a: x y · 3"}


def test_checks_page_opens_while_the_worker_starts():
    app = open_page("checks")
    assert not app.exception
    assert "The seven KV checks" in said(app) or "starting" in said(app)


def test_the_form_keeps_what_was_typed_when_it_is_closed_or_its_source_changes():
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button_group(key="form-source").set_value("paste").run()
    app.text_area(key="form-pasted").set_value("Tom has 3 apples.").run()
    app.selectbox(key="form-time").set_value("nearest").run()
    app.selectbox(key="form-segments").set_value("fields").run()
    markers = app.text_area(key="form-markers-answer")
    assert markers.disabled and "####" in markers.value
    app.button_group(key="form-source").set_value("samples").run()
    app.button_group(key="form-source").set_value("paste").run()
    assert app.text_area(key="form-pasted").value == "Tom has 3 apples."
    app.button(key="form-toggle").click().run()
    app.button(key="form-toggle").click().run()
    assert not app.exception
    assert app.text_area(key="form-pasted").value == "Tom has 3 apples."
    assert app.selectbox(key="form-time").value == "nearest"
    assert app.selectbox(key="form-segments").value == "fields"


def test_what_the_teacher_adds_and_both_classes_are_on_the_pages():
    run = finished.run_of(finished.by_class(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=run, cell="K-3-0")
    assert not app.exception
    assert "demo/teacher adds R² +0.115 ± 0.004 of K" in said(app) and "that end inside one 0.69 of K" in said(app)
    assert "the student’s own tokens: **+0.130 ± 0.004**" in said(app)
    assert "R² 0.760 ± 0.006, n = 12,007" in said(app) and "the teacher adds +0.130 ± 0.004" in said(app)
    scores = columns_of(app, "added", "r2_own", "r2_with_own", "r2_exact", "r2_inside", "n_inside")
    assert scores["added"].tolist() == pytest.approx([0.1, 0.1, 0.11, 0.11, 0.12, 0.12, 0.13, 0.13] * 2)
    for view in ("layers", "timeline", "numbers"):
        assert not open_page("alignment", run=run, view=view).exception
    old = finished.run_of(finished.of_one_map(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=old, **{"with": run})
    assert not app.exception and "with one map for all tokens" in said(app)
    means = columns_of(app, "K/V", "B − A").set_index(["K/V", "R² of"])
    assert means.loc[("K", "student’s own tokens"), "B"] == 0.73
    settings = columns_of(app, "setting", "A", "B").set_index("setting")
    assert settings.loc["rows", "B"] == "by-class"


@pytest.mark.parametrize(("language", "words"), [("en", "Yes. In 16 of 16 heads"), ("zh", "能。16 个头中有 16 个")])
def test_the_overview_answers_of_the_latest_analysis_and_of_the_sample_at_a_click(language, words):
    """The later one: the teacher adds R² to every head."""
    finished.run_of(finished.of_one_map(read(bundled.ANALYSIS)))
    finished.run_of(finished.by_class(read(bundled.ANALYSIS)))
    app = open_page(lang=language)
    assert not app.exception and words in said(app).replace(":green[**", "").replace("**]", "")
    app.button(key="show-sample").click().run()
    assert "16 个头中有 12 个" in said(app) or "In 12 of 16 heads" in said(app)


def test_maps_are_by_class_in_the_form_unless_another_choice_is_made():
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    assert app.selectbox(key="form-rows").value == "by-class"
    app.selectbox(key="form-rows").set_value("exact").run()
    app.button(key="form-toggle").click().run()
    app.button(key="form-toggle").click().run()
    assert not app.exception and app.selectbox(key="form-rows").value == "exact"


def test_fitted_tokens_count_alike_in_the_form_unless_another_choice_is_made():
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    picker = app.selectbox(key="form-row-weights")
    assert picker.value == "equal" and len(picker.options) == 2
    picker.set_value("attention").run()
    assert not app.exception and app.selectbox(key="form-row-weights").value == "attention"


def test_of_several_teachers_one_is_picked_by_address_or_control():
    both = finished.fused(finished.of_one_map(read(bundled.ANALYSIS)))
    other = dataclasses.replace(both, teacher=both.teacher | {"name": "demo/teacher-b"})
    run = finished.run_of(both, other).name
    app = open_page("alignment", run=run, teacher="2")
    assert not app.exception
    assert "demo/teacher-b explains" in said(app) and app.query_params["teacher"] == "2"
    app.button_group(key=f"teacher-{run}").set_value(1).run()
    assert "demo/teacher explains" in said(app) and app.query_params["teacher"] == "1"
    assert "demo/teacher explains" in said(open_page("alignment", run=run, teacher="99"))
    app = open_page("alignment", run="sample", teacher="2")
    assert not app.exception and "teacher" not in app.query_params


def test_the_fusion_is_a_view_of_several_teachers_only():
    run = finished.run_of(finished.fused(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=run, view="fusion", cell="V-2-1")
    assert not app.exception and app.query_params["view"] == "fusion"
    assert not unsaved(app)
    assert "2 teachers explain" in said(app) and "+0.020 ± 0.001 R² over the best single teacher" in said(app)
    assert "+0.010 ± 0.001 R² over random weights in place of the other teachers (on 1,200 tokens" in said(app)
    assert "add nothing" not in said(app) and "bring as much" not in said(app)
    assert "add nothing" in said(open_page("alignment", run=run, view="fusion", cell="V-0-1"))
    # V-1-1 gains .005 over random weights.
    both = finished.fused(read(bundled.ANALYSIS))
    scores = [dataclasses.replace(score, gain_random_se=0.003) for score in both.fusion]
    run = finished.run_of(dataclasses.replace(both, fusion=scores)).name
    assert "bring as much" in said(open_page("alignment", run=run, view="fusion", cell="V-1-1"))
    app = open_page("alignment", run="sample", view="fusion")
    assert not app.exception and app.query_params["view"] == "heads"


def columns_of(app, *names):
    return next(table.value for table in app.dataframe if set(names) <= set(table.value.columns))


def captioned(app):
    return "\n".join(caption.value for caption in app.caption)


def test_two_analyses_are_compared_by_address():
    sample = read(bundled.ANALYSIS)
    other = finished.shifted(sample, "value", 2, 1, -0.4)
    other = dataclasses.replace(other, settings=other.settings | {"time": "ceil"}, prompts="mine.txt")
    other.data = other.data | {"documents_sha256": "0" * 64}
    run = finished.run_of(dataclasses.replace(other, notes=["Only 9 tokens are scored"])).name
    app = open_page("alignment", run="sample", **{"with": run, "cell": "V-2-1"})
    assert not app.exception and app.query_params["view"] == "compare" and app.query_params["with"] == run
    assert not unsaved(app)
    assert "B explains 0 points more of K and 5 points less of V than A" in captioned(app)
    assert "V, layer 2, head 1" in said(app) and "−0.400 ±" in said(app)
    differ = columns_of(app, "setting", "A", "B").set_index("setting")
    assert differ.loc["time"].tolist() == ["floor", "ceil"]
    assert differ.loc["prompts"].tolist() == ["bundled samples", "mine.txt"] and len(differ) == 3
    assert differ.loc["documents (SHA-256)", "B"] == "0" * 12 != differ.loc["documents (SHA-256)", "A"]
    captions = [caption.value for caption in app.caption]
    assert "Not measured on the same text: prompts and documents (SHA-256) differ." in captions
    assert ":material/info: B: Only 9 tokens are scored" in captions  # what to beware of in B stands beside it

    app.button_group(key="view").set_value("layers").run()
    assert "with" not in app.query_params
    app.button_group(key="view").set_value("compare").run()
    assert app.query_params["with"] == run and "5 points less of V" in captioned(app)


def test_the_second_analysis_is_picked_and_never_the_first_itself():
    run = finished.run_of(read(bundled.ANALYSIS)).name
    app = open_page("alignment", run="sample", view="compare")
    picker = app.selectbox(key="with-picker-sample")
    assert picker.value is None and not any(option.startswith("Sample") for option in picker.options)
    picker.set_value(run).run()
    assert not app.exception and app.query_params["with"] == run
    words = said(app) + captioned(app)
    assert "of 16 heads, B is higher in 0 and lower in 0" in words and "None: the settings" in words
    assert "analysis A itself" in said(open_page("alignment", run="sample", **{"with": "sample"}))


def test_other_shapes_are_one_message_and_the_means_stay():
    run = finished.run_of(finished.of_fewer_heads(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run="sample", **{"with": run})
    assert not app.exception
    assert "The heads cannot be compared" in "\n".join(warning.value for warning in app.warning)
    assert {"teacher", "shuffled rows"} <= set(columns_of(app, "K/V", "B − A")["R² of"])


def test_two_teachers_of_one_analysis_are_compared():
    first = finished.fused(read(bundled.ANALYSIS))
    second = finished.shifted(first, "key", 0, 0, 0.08)
    second = dataclasses.replace(second, teacher=first.teacher | {"name": "demo/teacher-b"})
    run = finished.run_of(first, second).name
    app = open_page("alignment", run=run, **{"with": run})
    assert not app.exception and app.query_params["with_teacher"] == "2"
    assert "1 point more of K" in captioned(app) and "**B:** On 160 documents" in said(app)
    assert columns_of(app, "setting", "A").set_index("setting").loc["teacher", "B"] == "demo/teacher-b"
    assert not any("Not measured on the same text" in caption.value for caption in app.caption)
    app = open_page("alignment", run=run, teacher="2", **{"with": run, "with_teacher": "1"})
    assert "1 point less of K" in captioned(app)


@pytest.mark.parametrize("wanted", ["../../etc/passwd", "20260101T000000.000Z-gone-abcd", "<script>"])
def test_an_address_with_no_such_second_analysis_is_one_clear_message(wanted):
    app = open_page("alignment", run="sample", **{"with": wanted})
    assert not app.exception and "Expected" in said(app) and "What to do" in said(app)


def test_a_second_analysis_without_a_result_is_said():
    app = open_page("alignment", run="sample", **{"with": made("cancelled").name})
    assert not app.exception and "it was stopped" in said(app)


def test_kept_steps_are_shown_for_the_head_that_is_picked():
    run = finished.run_of(finished.of_rkv(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=run, view="timeline")
    assert not app.exception and "Teacher layer 0, head 0 keeps" in said(app)
    app.selectbox(key=f"kept-layer-{run}").set_value(2).run()
    app.selectbox(key=f"kept-head-{run}").set_value(5).run()
    assert "Teacher layer 2, head 5 keeps" in said(app)
    assert "keeps" not in said(open_page("alignment", run="sample", view="timeline"))


def test_the_layers_of_the_pinned_head_are_said():
    app = open_page("alignment", run="sample", view="layers", cell="V-3-1")
    assert "Student layer 3 is explained: K from teacher layers" in said(app)
    app.selectbox(key="layer-sample").set_value(1).run()
    assert "Student layer 1 is explained" in said(app)


def test_models_with_gaps_and_a_latent_cache_are_named():
    run = finished.run_of(finished.with_gaps(read(bundled.ANALYSIS))).name
    app = open_page("alignment", run=run, view="numbers")
    assert not app.exception
    assert "latent cache (MLA)" in said(app) and "Without a KV cache: layers 2, 5 and 8" in said(app)
    assert not open_page("alignment", run=run, view="layers").exception


@pytest.mark.parametrize("state", ["cancelled", "failed"])
def test_a_stopped_analysis_goes_on_or_runs_again(state, monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "again", asked.append)
    folder = finished.unfinished(state)
    app = open_page("alignment", run=folder.name)
    button = app.button(key=f"again-{folder.name}")
    assert button.label == "Run again" and "from the beginning" in button.help
    (folder / progress.UNFINISHED["analysis"]).write_bytes(b"sums")
    button = app.run().button(key=f"again-{folder.name}")
    assert button.label == "Continue"
    button.click().run()
    assert asked == [folder]


def test_a_stopped_functional_test_goes_on_refining():
    folder = finished.unfinished("cancelled", "injection")
    assert open_page("function", run=folder.name).button(key=f"again-{folder.name}").label == "Run again"
    (folder / progress.UNFINISHED["injection"]).write_bytes(b"weights")
    button = open_page("function", run=folder.name).button(key=f"again-{folder.name}")
    assert button.label == "Continue" and "refining goes on from there" in button.help


def test_a_folder_without_its_prompts_cannot_go_on():
    folder = made("cancelled")
    assert f"again-{folder.name}" not in [button.key for button in open_page("alignment", run=folder.name).button]


def test_the_file_that_says_there_is_something_to_go_on_from():
    from kvlab.align import unfinished

    refined = dict.fromkeys(("injection", "certificate"), unfinished.REFINEMENT)
    assert {"analysis": unfinished.NAME, **refined} == progress.UNFINISHED


def test_every_choice_of_the_form_has_words():
    assert set(widgets.LAYER_RULES) == set(get_args(align.LayerRule))
    assert set(widgets.ROW_WEIGHTS) == set(get_args(align.RowWeights))
    assert set(widgets.SEARCHES) == set(get_args(align.Search))
    assert set(widgets.TIME_RULES) == set(get_args(align.TimeRule))
    assert set(widgets.SEGMENTS) == set(get_args(segments.Source))


def test_the_form_asks_for_segments_markers_and_chat(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents: asked.append(request))
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.toggle(key="form-chat").set_value(True).run()
    app.text_area(key="form-markers-answer").set_value("=>\n\n结果：").run()
    app.button(key="run-button").click().run()
    assert not app.exception
    (align,) = asked
    assert align.settings.chat and align.segments == "auto"
    assert align.markers.answer == ("=>", "结果：") and "<think>" in align.markers.reasoning


def test_the_form_asks_for_further_teachers_layers_and_controls(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents: asked.append(request))
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.multiselect(key="form-more-teachers").set_value(["demo/teacher-b"]).run()
    app.selectbox(key="form-layers").set_value("cka").run()
    app.selectbox(key="form-search").set_value("full").run()
    app.toggle(key="form-random-teacher").set_value(False).run()
    app.number_input(key="form-sample-tokens").set_value(5000).run()
    app.number_input(key="form-max-tokens").set_value(20_000).run()
    app.button(key="form-toggle").click().run()
    app.button(key="form-toggle").click().run()
    app.button(key="run-button").click().run()
    assert not app.exception
    (align,) = asked
    assert align.teachers == ("demo/teacher", "demo/teacher-b")
    assert (align.settings.layers, align.settings.search) == ("cka", "full")
    assert not align.settings.random_teacher and (align.settings.sample_tokens, align.settings.max_tokens) == (
        5000,
        20_000,
    )


def test_the_form_starts_with_the_defaults_of_a_request(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "launch", lambda request, documents: asked.append(request))
    app = open_page("alignment", run="sample")
    app.button(key="form-toggle").click().run()
    app.button(key="run-button").click().run()
    plain = align.AnalysisRequest(teacher="demo/teacher", student="demo/student")
    assert asked == [plain]
