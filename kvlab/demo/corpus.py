"""Generate word problems in English and Chinese from templates, each with its reasoning and answer.

A template is a scenario, an opening, a question, a style of reasoning and one to three events; its values are
names, objects, places and numbers. A stable hash of the template's id assigns its problems to "train" or to "heldout",
so a held-out document never comes from a template that was trained on.
"""

import hashlib
import operator
import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from kvlab.demo.phrases import Event, Language, Scenario, read_language

ENGLISH, CHINESE = read_language("english"), read_language("chinese")
LANGUAGES = {language.code: language for language in (ENGLISH, CHINESE)}
SPLITS = ("train", "heldout")
HELDOUT_PERCENT = 10
LARGEST = 99
OPERATIONS = {"+": operator.add, "-": operator.sub, "×": operator.mul, "÷": operator.floordiv}
LAST_MINUTE = 23 * 60


class Template(NamedTuple):
    """The choices before any name or number."""

    language: Language
    scenario: Scenario
    opening: int
    question: int
    style: str
    events: tuple[int, ...]

    @property
    def id(self) -> str:
        events = "-".join(map(str, self.events))
        where = f"{self.language.code}.{self.scenario.name}"
        return f"{where}.o{self.opening}.q{self.question}.{self.style}.e{events}"


def problems(split: str, n: int, seed: int = 0) -> list[dict[str, str]]:
    """Return the first `n` problems of a split, English and Chinese in turn; the same for the same arguments."""
    return list(islice(endless(split, seed), n))


def endless(split: str, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield problems without end, English and Chinese in turn."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, found {split!r}")
    rng = random.Random(f"{split}/{seed}")
    number = 0
    while True:
        language = ENGLISH if number % 2 == 0 else CHINESE
        template = _draw_template(language, rng)
        if split_of(template.id) == split:
            yield {"id": f"{split}-{seed}-{number}"} | _render(template, rng)
            number += 1


def split_of(template_id: str) -> str:
    """Return the split of a template."""
    digest = hashlib.sha256(template_id.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4]) % 100 < HELDOUT_PERCENT else "train"


def parts_of(problem: dict[str, str]) -> tuple[str, str, str]:
    """Return prompt, reasoning and answer as they stand in the text; joined by newlines they are the text."""
    marker = LANGUAGES[problem["lang"]].marker
    return problem["prompt"], problem["reasoning"], marker + problem["answer"]


def text_of(problem: dict[str, str]) -> str:
    """Return the document: prompt, newline, reasoning, newline, "Answer: " or "答案：", answer."""
    return "\n".join(parts_of(problem))


def answer_in(text: str, lang: str) -> str | None:
    """Return the final answer of a document or of a model's continuation, None where there is none."""
    _, marker, tail = text.partition("\n" + LANGUAGES[lang].marker)
    return tail.split("\n")[0].strip() if marker else None


def _draw_template(language: Language, rng: random.Random) -> Template:
    scenario = rng.choice(language.scenarios)
    (steps,) = rng.choices((1, 2, 3), weights=(4, 4, 2))
    return Template(
        language,
        scenario,
        rng.randrange(len(language.openings)),
        rng.randrange(len(scenario.questions)),
        rng.choice(list(language.styles)),
        tuple(rng.sample(range(len(scenario.events)), steps)),
    )


def _render(template: Template, rng: random.Random) -> dict[str, str]:
    language, scenario = template.language, template.scenario
    events = [scenario.events[index] for index in template.events]
    values, amounts = _numbers(scenario.kind, events, rng)
    fields = _names(language, scenario, rng) | {"v": _shown(values[0], scenario.kind)}
    return {
        "lang": language.code,
        "template": template.id,
        "prompt": _prompt(template, events, amounts, fields, rng),
        "reasoning": _reasoning(template, events, values, amounts, fields),
        "answer": _shown(values[-1], scenario.kind),
    }


def _names(language: Language, scenario: Scenario, rng: random.Random) -> dict[str, str]:
    (name, pronoun), (friend, _) = rng.sample(language.people, 2)
    measure, _, thing = rng.choice(scenario.objects).rpartition(" ")
    if language is ENGLISH:  # its objects may have spaces and have no measure word
        measure, thing = "", f"{measure} {thing}".strip()
    context = {field: rng.choice(words) for field, words in language.context.items()}
    place = rng.choice(scenario.places)
    return {"N": name, "S": pronoun, "f": friend, "m": measure, "o": thing, "p": place} | context


def _numbers(kind: str, events: list[Event], rng: random.Random) -> tuple[list[int], list[int]]:
    """Draw values before, between and after the events, and each event's number, in the kind's smallest unit."""
    while True:
        values = [rng.randrange(6 * 60, 18 * 60, 5) if kind == "clock" else rng.randint(3, 25)]
        amounts = []
        for event in events:
            value = values[-1]
            if event.op in "×÷":
                amount = rng.randint(2, 5)
            else:
                amount = rng.randrange(5, 60, 5) if kind == "clock" else rng.randint(2, 15)
            amounts.append(amount)
            if event.op == "÷" and value % amount:
                break
            values.append(OPERATIONS[event.op](value, amount))
        else:
            if min(values) >= 2 and max(values) <= (LAST_MINUTE if kind == "clock" else LARGEST):
                return values, amounts


def _shown(value: int, kind: str) -> str:
    match kind:
        case "tenths":
            return f"{value // 10}.{value % 10}"
        case "money":
            return f"{value // 2}.{'50' if value % 2 else '00'}"
        case "clock":
            return f"{value // 60}:{value % 60:02d}"
    return str(value)


def _amount_shown(amount: int, event: Event, kind: str) -> str:
    return str(amount) if event.op in "×÷" or kind == "clock" else _shown(amount, kind)


def _prompt(
    template: Template, events: list[Event], amounts: list[int], fields: dict[str, str], rng: random.Random
) -> str:
    language, scenario = template.language, template.scenario
    start = scenario.start.format(**fields)
    sentences = [language.openings[template.opening].format(**fields, start=start)]
    stop = "." if language is ENGLISH else "。"
    for event, amount in zip(events, amounts):
        sentence = event.sentence.format(**fields, k=_amount_shown(amount, event, scenario.kind))
        link = rng.choice(language.links) if rng.random() < 0.6 else ""
        if link:
            sentence = link + language.gap + sentence
        sentences.append(sentence[0].upper() + sentence[1:] + stop)
    sentences.append(scenario.questions[template.question].format(**fields))
    return language.gap.join(sentences)


def _reasoning(
    template: Template, events: list[Event], values: list[int], amounts: list[int], fields: dict[str, str]
) -> str:
    language, kind = template.language, template.scenario.kind
    unit = template.scenario.unit.format(**fields)
    style = language.styles[template.style]
    sentences = []
    for index, (event, amount) in enumerate(zip(events, amounts)):
        shown = _amount_shown(amount, event, kind)
        second = _shown(amount, kind) if kind == "clock" else shown
        before, after = _shown(values[index], kind), _shown(values[index + 1], kind)
        steps = style["steps"]
        sentences.append(
            (steps if isinstance(steps, str) else steps[index]).format(
                eq=f"{before} {event.op} {second} = {after}",
                gloss=event.gloss.format(**fields),
                op=language.op_words[event.op],
                i=index + 1,
                k=shown,
                u=unit,
            )
        )
    ends = {"v": fields["v"], "r": _shown(values[-1], kind), "u": unit}
    sentences = [style["lead"].format(**ends), *sentences, style["close"].format(**ends)]
    text = language.gap.join(sentence for sentence in sentences if sentence)
    return text.replace(" .", ".")  # clock problems have no unit
