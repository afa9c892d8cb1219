//! The model guesses a number, and is told after each guess whether the number is higher or lower. The sooner it finds it, the
//! more it gets.

use plugin_sdk::Error;
use plugin_sdk::environment::{Context, Environment, Outcome, RowError, Start, Turn, end, go_on, start, user};
use serde::{Deserialize, Serialize};

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    highest: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { highest: 9 }
    }
}

/// The columns of a row that it needs.
#[derive(Deserialize)]
pub struct Row {
    number: String,
}

/// What it needs to know of an episode between two turns.
#[derive(Serialize, Deserialize)]
pub struct State {
    number: u32,
}

pub struct Guess {
    config: Config,
}

impl Environment for Guess {
    type Config = Config;
    type Row = Row;
    type State = State;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { config })
    }

    fn reset(&self, Row { number }: Row, _: &Context) -> Result<Start<State>, RowError> {
        let highest = self.config.highest;
        let Some(number) = number.parse().ok().filter(|number| *number <= highest) else {
            let message = format!("the number is {number:?}, and must be one of 0 to {highest}");
            return Err(RowError { message, field: Some("number".to_owned()) });
        };
        Ok(start([user(format!("Guess my number: it is one of 0 to {highest}."))], State { number }))
    }

    fn step(&self, state: State, turn: &Turn, _: &Context) -> Result<Outcome<State>, Error> {
        let Some(guess) = first_number(&turn.completion) else {
            return Ok(go_on(state, [user("Write a number.")]).reward(-0.1).because("no number"));
        };
        if guess == state.number {
            let left = f64::from(turn.max_turns - turn.number) / f64::from(turn.max_turns);
            return Ok(end(0.5 + 0.5 * left).because(format!("found in turn {}", turn.number)));
        }
        let word = if guess < state.number { "higher" } else { "lower" };
        Ok(go_on(state, [user(format!("No: my number is {word} than {guess}."))]))
    }
}

/// The first number of a text; none where there is none, or one with too many digits.
fn first_number(text: &str) -> Option<u32> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits = &text[start..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

plugin_sdk::register_environment!(
    Guess,
    name: "{{name}}",
    description: "A number to be guessed over several turns",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context = Context { step: 0, total_steps: 1, seed: 0 };

    #[test]
    fn a_guess_is_told_where_the_number_is() {
        let game = Guess::new(Config { highest: 9 }).unwrap();
        let answer = |text: &str| game.step(State { number: 4 }, &Turn::of(text), &CONTEXT).unwrap();
        assert_eq!(answer("Is it 7?").messages[0].content, "No: my number is lower than 7.");
        assert_eq!(answer("12").messages[0].content, "No: my number is lower than 12.");
        assert_eq!(answer("I do not know.").reward, Some(-0.1));
        let found = answer("4!");
        assert!(found.state.is_none() && found.reward == Some(0.9375));
    }

    #[test]
    fn a_number_is_one_that_can_be_guessed() {
        let game = Guess::new(Config { highest: 5 }).unwrap();
        let opens = |number: &str| game.reset(Row { number: number.to_owned() }, &CONTEXT).is_ok();
        assert_eq!(["5", "6", "five"].map(opens), [true, false, false]);
    }
}
