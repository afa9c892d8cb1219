"""Short answers score 1; the score goes down with every word too many."""

import json

from wit_world.exports.reward import Context, Item, Score


class Scorer:
    def __init__(self, max_words: int) -> None:
        self.max_words = max_words

    @classmethod
    def create(cls, config_json: str) -> "Scorer":
        """The host has held the config against the schema in `plugin.json` already."""
        return cls(json.loads(config_json).get("max_words", 50))

    def score(self, items: list[Item], context: Context) -> list[Score]:
        """One score a completion, in order; no value where the reward says nothing about it."""
        return [self.one(item) for item in items]

    def one(self, item: Item) -> Score:
        words = len(item.completion.split())
        if words == 0:
            return Score(value=None, note=None)
        if words <= self.max_words:
            return Score(value=1.0, note=None)
        return Score(value=self.max_words / words, note=f"{words} words")
