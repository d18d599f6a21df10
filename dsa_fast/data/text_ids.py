"""Numbers for the ids of your own people and cameras, which may be text."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MOST", "number_ids", "whole"]

#: Ids must be below this number, so that they fit 32 bits.
MOST = 1 << 31


def whole(text: str) -> int | None:
    """Returns the whole number that a text is, or None. `007` is 7, and `1.0` and `²` are not whole numbers."""
    digits = text[1:] if text[:1] in "+-" else text
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None


def number_ids(texts: Iterable[str]) -> tuple[dict[str, int], dict[int, str]]:
    """Numbers ids.

    If all are whole numbers, they stay as they are. Otherwise all count as text, in which `7` and `07` differ, and are
    numbered from 1 in alphabetical order. Only `0` and `-1` stay: a distractor and junk.

    Args:
        texts: the ids, without white space around them; repeated ones count once.

    Returns:
        The number of each id, and the id of each number above 0; the latter is empty if all are whole numbers.
    """
    distinct = sorted(set(texts))
    numbers = {text: whole(text) for text in distinct}
    if None not in numbers.values():
        return {text: number for text, number in numbers.items() if number is not None}, {}
    kept = {"0": 0, "-1": -1}
    names = dict(enumerate((text for text in distinct if text not in kept), 1))
    return {name: number for number, name in names.items()} | {key: kept[key] for key in kept if key in numbers}, names
