import unittest

from reward import Scorer
from wit_world.exports.reward import Context, Item


class Brevity(unittest.TestCase):
    def test_long_answers_score_less(self) -> None:
        items = [Item("", text, 1, True, "", "{}") for text in ("one two", "one two three four", "")]
        scores = Scorer.create('{"max_words": 2}').score(items, Context(0, 1, 0))
        self.assertEqual([score.value for score in scores], [1.0, 0.5, None])


if __name__ == "__main__":
    unittest.main()
