"""Leaves rows out whose output is short, or was there before."""

import json

from wit_world.exports.row_filter import Verdict


class Filter:
    def __init__(self, min_words: int) -> None:
        self.min_words = min_words
        self.seen: set[str] = set()

    @classmethod
    def create(cls, config_json: str) -> "Filter":
        """The host has held the config against the schema in `plugin.json` already."""
        return cls(json.loads(config_json).get("min_words", 1))

    def judge(self, rows: list[str]) -> list[Verdict]:
        """One verdict a row, in order. Rows of a dataset come in their order, so one may be compared with earlier ones."""
        return [self.one(json.loads(row)) for row in rows]

    def one(self, row: dict) -> Verdict:
        output = row.get("output")
        if not isinstance(output, str):
            return Verdict(keep=False, score=None, reason="no output")
        words = len(output.split())
        if words < self.min_words:
            return Verdict(keep=False, score=None, reason="too few words")
        if output in self.seen:
            return Verdict(keep=False, score=None, reason="was there before")
        self.seen.add(output)
        return Verdict(keep=True, score=float(words), reason=None)
