"""The files that come with kvlab: three tiny trained models, their sample prompts, and finished results."""

from kvlab import PACKAGE

DEMO = PACKAGE / "demo"
NAMES = ("teacher", "teacher-b", "student")
SAMPLES = DEMO / "samples.jsonl"
TRAINING = DEMO / "training.json"
CARD = DEMO / "README.md"
ANALYSIS = DEMO / "analysis"
FUNCTION = DEMO / "function"
CERTIFICATE = DEMO / "certificate"
