// Rows with a question and an answer: the model reads the question and learns to write the answer.

class Strategy {
  #ask;

  constructor(config) {
    this.#ask = config.ask ?? "Question: ";
  }

  // The host has held the config against the schema in `plugin.json` already.
  static create(configJson) {
    return new Strategy(JSON.parse(configJson));
  }

  // One result a row, in order: what it becomes, nothing where it is left out on purpose, or what is wrong with it.
  render(rows) {
    return rows.map((row) => {
      const { question, answer } = JSON.parse(row);
      for (const [field, value] of Object.entries({ question, answer })) {
        if (typeof value !== "string") return failed(field, `\`${field}\` must be a text`);
      }
      if (question.trim() === "") return failed("question", "`question` is empty");
      if (answer === "") return { tag: "ok", val: undefined };
      const segments = [
        { text: `${this.#ask}${question}\nAnswer: `, train: false },
        // A mark: prompt and answer are tokenized apart, as they are when the model is used, so that no token is of both.
        { text: "", train: false, weight: 0 },
        { text: answer, train: true },
      ];
      return { tag: "ok", val: { tag: "supervised", val: { tag: "segments", val: segments } } };
    });
  }
}

const failed = (field, message) => ({ tag: "err", val: { message, field } });

export const promptStrategy = { Strategy };
