"""Can the student use the teacher's cache? Attention on it, continuation from it, swaps of its parts."""
