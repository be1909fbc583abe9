"""Run folders on disk and the processes that fill them. Never imports torch."""
