// Short answers score 1; the score goes down with every word too many.

class Scorer {
  #maxWords;

  constructor(config) {
    this.#maxWords = config.max_words ?? 50;
  }

  // The host has held the config against the schema in `plugin.json` already.
  static create(configJson) {
    return new Scorer(JSON.parse(configJson));
  }

  // One score a completion, in order; no value where the reward says nothing about it.
  score(items, _context) {
    return items.map((item) => {
      const words = item.completion.split(/\s+/).filter((word) => word !== "").length;
      if (words === 0) return {};
      if (words <= this.#maxWords) return { value: 1 };
      return { value: this.#maxWords / words, note: `${words} words` };
    });
  }
}

export const reward = { Scorer };
