import json
import unittest

from row_filter import Filter


class Short(unittest.TestCase):
    def test_short_and_repeated_outputs_are_left_out(self) -> None:
        rows = [json.dumps({"output": text}) for text in ("one two", "one", "one two", "two one")]
        verdicts = Filter.create('{"min_words": 2}').judge(rows)
        self.assertEqual([verdict.keep for verdict in verdicts], [True, False, False, True])


if __name__ == "__main__":
    unittest.main()
