// Leaves rows out whose output is short, or was there before.

class Filter {
  #minWords;
  #seen = new Set();

  constructor(config) {
    this.#minWords = config.min_words ?? 1;
  }

  // The host has held the config against the schema in `plugin.json` already.
  static create(configJson) {
    return new Filter(JSON.parse(configJson));
  }

  // One verdict a row, in order. Rows of a dataset come in their order, so a row may be compared with earlier ones.
  judge(rows) {
    return rows.map((row) => this.#one(JSON.parse(row)));
  }

  #one({ output }) {
    if (typeof output !== "string") return { keep: false, reason: "no output" };
    const words = output.split(/\s+/).filter((word) => word !== "").length;
    if (words < this.#minWords) return { keep: false, reason: "too few words" };
    if (this.#seen.has(output)) return { keep: false, reason: "was there before" };
    this.#seen.add(output);
    return { keep: true, score: words };
  }
}

export const rowFilter = { Filter };
