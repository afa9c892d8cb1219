"""Rows with a question and an answer: the model reads the question and learns to write the answer."""

import json

from componentize_py_types import Err, Ok, Result
from wit_world.exports.prompt_strategy import Sample, Sample_Supervised
from wit_world.imports.types import RowError, Segment, Text_Segments


class Strategy:
    def __init__(self, ask: str) -> None:
        self.ask = ask

    @classmethod
    def create(cls, config_json: str) -> "Strategy":
        """The host has held the config against the schema in `plugin.json` already."""
        return cls(json.loads(config_json).get("ask", "Question: "))

    def render(self, rows: list[str]) -> list[Result[Sample | None, RowError]]:
        """One result a row, in order: what it becomes, nothing where it is left out on purpose, or what is wrong with it."""
        return [self.one(json.loads(row)) for row in rows]

    def one(self, row: dict) -> Result[Sample | None, RowError]:
        for field in ("question", "answer"):
            if not isinstance(row.get(field), str):
                return Err(RowError(f"`{field}` must be a text", field))
        question, answer = row["question"], row["answer"]
        if question.strip() == "":
            return Err(RowError("`question` is empty", "question"))
        if answer == "":
            return Ok(None)
        prompt = f"{self.ask}{question}\nAnswer: "
        # The mark between them: they are tokenized apart, as they are when the model is used, so that no token is of both.
        segments = [Segment(prompt, False, None), Segment("", False, 0.0), Segment(answer, True, None)]
        return Ok(Sample_Supervised(Text_Segments(segments)))
