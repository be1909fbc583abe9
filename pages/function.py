"""Function: can the student use the teacher's cache? Injection with controls, swaps of heads, texts."""

from kvlab.web.function import page

page.page()
