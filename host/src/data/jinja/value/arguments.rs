//! The arguments of a call, by the parameters that they are for.

use super::{Args, Value};
use crate::data::jinja::error::{Result, error};

impl Args {
    /// The arguments by the parameters that they are for; the first `required` must be there.
    pub(in crate::data::jinja) fn bind<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(error(format!(
                "`{function}` takes at most {N} arguments; {} are given",
                self.positional.len()
            )));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let Some(place) = parameters.iter().position(|parameter| **parameter == *name) else {
                return Err(error(format!("`{function}` has no argument `{name}`")));
            };
            if bound[place].is_some() {
                return Err(error(format!("`{function}` is given the argument `{name}` twice")));
            }
            bound[place] = Some(value);
        }
        if let Some(missing) = bound[..required].iter().position(Option::is_none) {
            return Err(error(format!("`{function}` needs the argument `{}`", parameters[missing])));
        }
        Ok(bound)
    }

    /// The arguments of a function that takes none by name, as most of Python's methods.
    pub(in crate::data::jinja) fn places<const N: usize>(
        self,
        function: &str,
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        if let Some((name, _)) = self.named.first() {
            return Err(error(format!("`{function}` has no argument `{name}`")));
        }
        if self.positional.len() < required {
            return Err(error(format!("`{function}` needs {required} arguments; {} are given", self.positional.len())));
        }
        self.bind(function, [""; N], required)
    }
}
