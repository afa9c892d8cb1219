//! Chat templates as transformers renders them: Jinja2's language with Python's values.
//!
//! transformers renders with Jinja2's immutable sandbox, `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`,
//! `strftime_now`, its own `tojson` and `{% generation %}` (`transformers/utils/chat_template_utils.py`). The text of a
//! template is what a model is trained on, to the byte, so this is an interpreter of that language: Jinja2's grammar and
//! scopes, Python's operators, methods, formatting and printing. What it does not have is an error, never another text.
//! A template is a stranger's program: `limits.rs` bounds its time, memory and nesting.
//!
//! | file | one job |
//! |---|---|
//! | `lexer.rs`, `parser.rs`, `expressions.rs`, `ast.rs` | source to tree |
//! | `interpreter.rs`, `evaluate.rs`, `loops.rs`, `call.rs`, `iterate.rs` | runs the tree |
//! | `value.rs`, `value/`, `operators.rs`, `text.rs`, `characters.rs` | Python's values, operators, printing, characters |
//! | `strings.rs`, `methods.rs`, `functions.rs`, `strftime.rs` | what can be called |
//! | `filters.rs`, `sequences.rs`, `wording.rs`, `json.rs`, `markup.rs`, `tests.rs` | filters and tests |
//! | `percent.rs`, `format.rs`, `numbers.rs` | `%` and `str.format` |

mod ast;
mod call;
mod characters;
#[cfg(test)]
mod checks;
mod error;
mod evaluate;
mod expressions;
mod filters;
mod format;
mod functions;
mod interpreter;
mod iterate;
mod json;
mod lexer;
mod limits;
mod loops;
mod markup;
mod methods;
mod numbers;
mod operators;
mod parser;
mod percent;
mod sequences;
mod strftime;
mod strings;
mod tests;
mod text;
mod value;
mod wording;

pub(super) use error::Error;
pub(super) use lexer::with_line_ends;
pub use strftime::Now;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Template {
    body: ast::Body,
    now: Now,
}

impl Template {
    /// Compiles `source`. `now` is what `strftime_now` reads.
    pub(super) fn new(source: &str, now: Now) -> Result<Self, Error> {
        Ok(Self { body: parser::parse(source)?, now })
    }

    /// The text that the template writes for `messages`, given the other variables.
    pub(super) fn render(
        &self,
        messages: &[serde_json::Value],
        variables: &[(&str, &serde_json::Value)],
    ) -> Result<String, Error> {
        interpreter::render(&self.body, messages, variables, self.now)
    }
}
