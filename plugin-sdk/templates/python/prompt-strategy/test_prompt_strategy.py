import unittest

from prompt_strategy import Strategy


class Questions(unittest.TestCase):
    def test_only_the_answer_is_learned(self) -> None:
        [result] = Strategy.create("{}").render(['{"question": "1+1?", "answer": "2"}'])
        segments = result.value.value.value
        self.assertEqual(
            [(segment.text, segment.train) for segment in segments],
            [("Question: 1+1?\nAnswer: ", False), ("", False), ("2", True)],
        )


if __name__ == "__main__":
    unittest.main()
