import assert from "node:assert";
import test from "node:test";

import { promptStrategy } from "./plugin.js";

test("only the answer is learned", () => {
  const strategy = promptStrategy.Strategy.create("{}");
  const [result] = strategy.render(['{"question": "1+1?", "answer": "2"}']);
  assert.deepEqual(result.val.val.val, [
    { text: "Question: 1+1?\nAnswer: ", train: false },
    { text: "", train: false, weight: 0 },
    { text: "2", train: true },
  ]);
});
