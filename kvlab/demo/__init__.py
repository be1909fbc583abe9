"""The bundled demo models: three tiny, really trained models, their tokenizers, corpus and sample prompts."""

from pathlib import Path

DEMO = Path(__file__).parent
NAMES = ("teacher", "teacher-b", "student")
SAMPLES = DEMO / "samples.jsonl"
TRAINING = DEMO / "training.json"
CARD = DEMO / "README.md"
