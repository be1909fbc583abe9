"""Are two written answers the same? Numbers are compared as numbers, other answers as words."""

import re
import unicodedata
from decimal import Decimal, InvalidOperation

CURRENCY = "$€£¥"
ENDS = " \t\n.。,，;；!！"
NUMBER = re.compile(r"[-+−]?[$€£¥]?\d[\d,]*(?:\.\d+)?|[-+−]?\.\d+")


def same_answer(a: str, b: str) -> bool:
    """Return whether two answers are the same, after the rules of ``normalised``."""
    return normalised(a) == normalised(b)


def normalised(answer: str) -> str | Decimal:
    """Return an answer as a number, else as lower-case words without the full stop.

    As GSM8K is usually scored: signs of currency, commas between digits and a full stop do not count. 50% is no 50, and
    a fraction or a unit is part of the words. Full-width digits and signs are those of ASCII (Unicode NFKC).
    """
    words = " ".join(unicodedata.normalize("NFKC", answer).strip(ENDS).split()).casefold()
    digits = words.replace("−", "-").replace(",", "").translate({ord(sign): None for sign in CURRENCY}).replace(" ", "")
    try:
        number = Decimal(digits)
    except InvalidOperation:
        return words
    return number if number.is_finite() else words


def last_number(text: str) -> str | None:
    """Return the last number in a text, for answers without a marker; None where there is none."""
    found = NUMBER.findall(unicodedata.normalize("NFKC", text))
    return found[-1].strip(",") if found else None
