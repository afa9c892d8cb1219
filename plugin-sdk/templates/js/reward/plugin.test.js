import assert from "node:assert";
import test from "node:test";

import { reward } from "./plugin.js";

test("long answers score less", () => {
  const scorer = reward.Scorer.create('{"max_words": 2}');
  const scores = scorer.score([{ completion: "one two" }, { completion: "one two three four" }, { completion: "" }]);
  assert.deepEqual(scores.map((score) => score.value), [1, 0.5, undefined]);
});
