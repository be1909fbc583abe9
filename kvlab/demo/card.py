"""Write the model card from the measurements in training.json."""

from kvlab.host.bundled import NAMES

HEAD = """# The demo models

Three tiny language models, really trained (on two shared CPU cores) on generated word problems in English and
Chinese, so that everything in kvlab runs offline on models whose keys and values mean something. They solve some
of these problems and nothing else. Made by `kvlab/demo/build.py`; every number below is in `training.json` and was
measured with the float16 weights as saved.

Held-out problems come from templates (scenario, opening, question, style of reasoning, events) that no model was
trained on. Vocabularies differ, so nats per byte is the figure to compare; the first token of a document is not
scored. Answers: greedy continuation of the prompt, right if the final answer is the same text.

The samples that the pages open with: `analysis/` is what `python -m kvlab align --teacher demo/teacher --student
demo/student --compare-rules` writes, less the map and the reports, and `function/` the `injection.json` of `python -m
kvlab inject --teacher demo/teacher --student demo/student`.

`python -m kvlab.demo.build` makes the same tokenizers and samples and trains models of the same kind, each in one
stage; the weights will not be these bits. These were trained against the clock, in the stages listed below, each
with fresh problems, a fresh optimizer and its own warm-up.
"""
SUMMED = ("steps", "tokens", "seconds")


def card(measured: dict) -> str:
    """Return the whole card as Markdown."""
    parts = {
        "Models": _models(measured),
        "Training and held-out results": _results(measured),
        "Stages of training": _stages(measured),
        "Timelines of the sample prompts": _timelines(measured["timelines"]),
    }
    return HEAD + "".join(f"\n## {title}\n{text}\n" for title, text in parts.items())


def _models(measured: dict) -> str:
    geometries = {name: measured[name]["geometry"] for name in NAMES}
    return _table(
        {
            "model": list(geometries),
            "architecture": [g["architecture"] for g in geometries.values()],
            "layers": [g["layers"] for g in geometries.values()],
            "hidden": [g["hidden"] for g in geometries.values()],
            "MLP": [g["intermediate"] for g in geometries.values()],
            "query heads": [g["query_heads"] for g in geometries.values()],
            "KV heads × width": [f"{g['kv_heads']} × {g['head_width']}" for g in geometries.values()],
            "vocabulary": [g["vocabulary"] for g in geometries.values()],
            "RoPE base": [f"{g['rope_theta']:,.0f}" for g in geometries.values()],
            "parameters": [f"{g['parameters']:,}" for g in geometries.values()],
            "bytes": [f"{g['bytes']:,}" for g in geometries.values()],
        }
    )


def _results(measured: dict) -> str:
    training = [{key: sum(stage[key] for stage in measured[name]["stages"]) for key in SUMMED} for name in NAMES]
    heldout = [measured[name]["heldout"] for name in NAMES]
    languages = [row["accuracy_by_language"] for row in heldout]
    table = _table(
        {
            "model": list(NAMES),
            "steps": [f"{row['steps']:,}" for row in training],
            "tokens trained": [f"{row['tokens']:,}" for row in training],
            "seconds": [f"{row['seconds']:,}" for row in training],
            "held-out nats per token": [row["nats_per_token"] for row in heldout],
            "held-out nats per byte": [row["nats_per_byte"] for row in heldout],
            "answers right": [f"{row['accuracy']:.1%}" for row in heldout],
            "English / Chinese": [f"{row['en']:.1%} / {row['zh']:.1%}" for row in languages],
        }
    )
    return f"On {heldout[0]['problems']} held-out problems.\n\n{table}"


def _stages(measured: dict) -> str:
    stages = [(name, n, stage) for name in NAMES for n, stage in enumerate(measured[name]["stages"], 1)]
    return _table(
        {
            "model": [name for name, _, _ in stages],
            "stage": [n for _, n, _ in stages],
            "steps": [f"{stage['steps']:,}" for _, _, stage in stages],
            "sequences per step": [stage["sequences_per_step"] for _, _, stage in stages],
            "learning rate after warm-up": [stage["schedule"] for _, _, stage in stages],
            "tokens": [f"{stage['tokens']:,}" for _, _, stage in stages],
            "last training loss": [stage["loss"][-1][1] for _, _, stage in stages],
        }
    )


def _timelines(measured: dict) -> str:
    exact, rows = measured["exact_rate"], measured["exact_rows_without_sinks"]
    table = _table(
        {
            "model": list(NAMES),
            "mean content tokens": [measured["mean_tokens"][name] for name in NAMES],
            "exact-boundary rate of the student": [f"{exact[n]:.1%}" if n in exact else "" for n in NAMES],
            "exact rows": [f"{rows[n]:,}" if n in rows else "" for n in NAMES],
        }
    )
    return (
        f"`samples.jsonl` holds {measured['documents']} held-out documents, English and Chinese in turn. "
        "The exact-boundary rate is the share of the student's content tokens that end at the byte where a token "
        "of that teacher ends; the exact rows are those tokens without the first four of each document.\n\n"
        f"{table}"
    )


def _table(columns: dict[str, list]) -> str:
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values())]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
