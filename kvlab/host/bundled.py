"""What comes with kvlab: three tiny, really trained models, their sample prompts, and finished results of these."""

from kvlab import PACKAGE

DEMO = PACKAGE / "demo"
NAMES = ("teacher", "teacher-b", "student")
SAMPLES = DEMO / "samples.jsonl"
TRAINING = DEMO / "training.json"
CARD = DEMO / "README.md"
ANALYSIS = DEMO / "analysis"
FUNCTION = DEMO / "function"
