import assert from "node:assert";
import test from "node:test";

import { rowFilter } from "./plugin.js";

test("short and repeated outputs are left out", () => {
  const filter = rowFilter.Filter.create('{"min_words": 2}');
  const rows = ["one two", "one", "one two", "two one"].map((output) => JSON.stringify({ output }));
  assert.deepEqual(filter.judge(rows).map((verdict) => verdict.keep), [true, false, false, true]);
});
