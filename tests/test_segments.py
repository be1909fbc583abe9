"""Segments from markers: exact byte spans on English and Chinese text, and which of several markers counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.request.align import AnalysisRequest
from kvlab.request.segments import ANSWER, REASONING, Markers, segmented, split_at_markers
from kvlab.request.settings import checked
from kvlab.shapes import Document, Segment

BUILT_IN = Markers()
prose = st.text("ab 语é😀,\n1", max_size=12)


def cut(text, markers=BUILT_IN):
    """{segment: its text}, cut out by bytes."""
    parts = split_at_markers(Document("d", text), markers).segments
    return {part.name: text.encode()[part.start : part.end].decode() for part in parts}


@given(
    question=prose,
    steps=prose,
    result=prose,
    opens=st.sampled_from(REASONING),
    closes=st.sampled_from(ANSWER),
)
def test_every_built_in_marker_opens_its_part_at_the_exact_byte(question, steps, result, opens, closes):
    question, steps = question + "\n", steps + "\n"
    expected = {"prompt": question, "reasoning": opens + steps, "answer": closes + result}
    assert cut("".join(expected.values())) == expected
    assert cut(question + closes + result) == {"prompt": question, "answer": closes + result}
    assert cut(question + opens + steps) == {"prompt": question, "reasoning": opens + steps}


@given(text=st.lists(st.sampled_from(["<think>", "</think>", "Answer: ", "问", " a", "\n", "####", "解：", "é"])))
def test_segments_tile_the_text_in_order_and_none_is_empty(text):
    document = Document("d", "".join(text))
    parts = split_at_markers(document, BUILT_IN).segments
    assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert all(part.start < part.end for part in parts)
    if parts:
        assert (parts[0].start, parts[-1].end) == (0, len(document.text.encode()))
        names = [part.name for part in parts]
        assert names == [name for name in ("prompt", "reasoning", "answer") if name in names]


@pytest.mark.parametrize(
    "parts",
    [
        ["Tom has 3. How many?\n3 + 2 = 5 ", "#### 5"],
        ["2+2? ", "Let's think step by step. It is 4. ", "The answer is 4."],
        ["问：小明有几个？\n", "解：3 + 2 = 5。\n", "答：5个。"],
        ["Q", "<think>a\nb", "</think>c"],
        ["<think>a", "</think>b"],  # nothing before: no prompt
        ["Q\nSo the answer is 4.\nWait. ", "So the answer is 5."],
        ["Q\n", "REASONING: a\n", "answer: 5"],
        ["Give it after ####.\n", "<think>a"],  # before the reasoning: not the answer
        ["Q **", "Answer:** 5"],
    ],
)
def test_texts_as_they_are_found(parts):
    assert list(cut("".join(parts)).values()) == parts


@pytest.mark.parametrize(
    "text",
    ["I know the answer is hard to find.", "我的理解：不对", "Give your answer: now", "他回答：好", "", "none"],
)
def test_words_of_a_marker_within_a_sentence_are_prose(text):
    assert cut(text) == {}


def test_own_markers_replace_the_built_in_ones():
    own = Markers(reasoning=["Steps"], answer=["=>"])
    assert cut("Q\nSteps: a => 5 #### 6", own) == {"prompt": "Q\n", "reasoning": "Steps: a ", "answer": "=> 5 #### 6"}
    assert cut("Q\nsteps. A", own) == {"prompt": "Q\n", "reasoning": "steps. A"}
    assert cut("Q\nReasoning: #### 6", own) == {}
    assert cut("Q #### 6", Markers(reasoning=[], answer=[])) == {}


def test_fields_are_kept_unless_no_segments_are_wanted():
    fields = Document("a", "Q\n#### 5", (Segment("prompt", 0, 8),))
    text = Document("b", "Q\n#### 5")
    assert segmented([fields, text], "auto", BUILT_IN) == [fields, split_at_markers(text, BUILT_IN)]
    assert segmented([fields, text], "fields", BUILT_IN) == [fields, text]
    assert segmented([fields, text], "none", BUILT_IN) == [Document("a", "Q\n#### 5"), text]


def test_a_request_carries_its_markers_through_its_file():
    request = checked(AnalysisRequest, {"teacher": "t", "student": "s", "markers": {"answer": ["=>"]}})
    assert request.markers == Markers(answer=("=>",)) and request.markers.reasoning == REASONING
    assert AnalysisRequest(**request.model_dump(mode="json")) == request


@pytest.mark.parametrize("wrong", ["", "  ", "x" * 201])
def test_a_marker_is_never_blank(wrong):
    with pytest.raises(Exception, match=r"markers\.answer\.0"):
        checked(AnalysisRequest, {"teacher": "t", "student": "s", "markers": {"answer": [wrong]}})
