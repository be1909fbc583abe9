"""kvlab: can a teacher's KV cache be aligned with a student's?"""

__version__ = "0.1.0"
