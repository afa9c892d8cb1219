//! A failed call made small: which row or item it was, so that a person can look at it and make the call again.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Origin;
use crate::error::{Cause, FailedCall, PluginError};
use crate::kind::Kind;

/// Time for finding the row.
const BUDGET: Duration = Duration::from_secs(5);
/// The same where the call took too long: whoever waits has waited already.
const SHORT_BUDGET: Duration = Duration::from_secs(1);

/// A call that went wrong.
pub(super) struct Call<'a> {
    pub(super) origin: Origin,
    pub(super) kind: Kind,
    /// Each row or item, as JSON.
    pub(super) input: &'a dyn Fn(usize) -> Value,
    pub(super) items: usize,
    pub(super) context: Option<Value>,
}

impl Call<'_> {
    /// The error with the call beside it, reduced to the first item that fails alone, or else to the shortest beginning of
    /// the call that fails. `again` makes the call for some of the items in an instance of its own.
    pub(super) fn reduce(
        self,
        error: PluginError,
        again: impl FnMut(Origin, Range<usize>) -> Result<(), PluginError>,
    ) -> PluginError {
        match self.kind.description().kept_call {
            Some(call) => self.reduce_as(call, error, again),
            None => error,
        }
    }

    /// The same for a call of the function of this name.
    pub(super) fn reduce_as(
        self,
        call: &'static str,
        mut error: PluginError,
        mut again: impl FnMut(Origin, Range<usize>) -> Result<(), PluginError>,
    ) -> PluginError {
        // A plugin's own words about a call are no fault to look into.
        if !matches!(error.code, "plugin::trap" | "plugin::limit" | "plugin::bad-result") {
            return error;
        }
        let budget = if error.timed_out { SHORT_BUDGET } else { BUDGET };
        let until = Instant::now() + budget;
        let limit = self.origin.limits.call;
        // One item that takes a quarter of what all may take is slow enough to be named.
        let limit = if error.timed_out { limit / 4 } else { limit };
        let quiet = self.origin.quiet();
        let mut fails = |items: Range<usize>| {
            let left = until.checked_duration_since(Instant::now())?;
            let mut origin = quiet.clone();
            origin.limits.call = limit.min(left);
            Some(match again(origin, items) {
                Ok(()) => false,
                Err(again) if again.timed_out && !(error.timed_out && is_telling(limit, left, budget)) => return None,
                Err(again) => again.code == error.code,
            })
        };
        let cause = find(self.items, error.timed_out, &mut fails).unwrap_or(Cause::Unknown);
        let input = match cause {
            Cause::Alone(item) => item..item + 1,
            Cause::After(item) => 0..item + 1,
            Cause::Gone | Cause::Unknown => 0..self.items,
        };
        error.failed = Some(Box::new(FailedCall {
            plugin: self.origin.plugin.to_string(),
            kind: self.kind,
            config_json: self.origin.config_json.to_string(),
            call,
            input: input.map(|item| (self.input)(item)).collect(),
            context: self.context,
            cause,
            items: self.items,
            position: None,
        }));
        error
    }
}

/// Whether an item that took all its time is the one at fault: it had a fair share of what one item may take, or more than all
/// those before it took together.
fn is_telling(limit: Duration, left: Duration, budget: Duration) -> bool {
    limit <= left || left >= budget / 2
}

/// What it takes to fail; none where there is no time left to say.
fn find(items: usize, timed_out: bool, fails: &mut impl FnMut(Range<usize>) -> Option<bool>) -> Option<Cause> {
    for item in 0..items {
        if fails(item..item + 1)? {
            return Some(Cause::Alone(item));
        }
    }
    if timed_out {
        return None;
    }
    if !fails(0..items)? {
        return Some(Cause::Gone);
    }
    // What fails after some items fails after more of them: halve the distance.
    let (mut fine, mut failing) = (0, items);
    while failing - fine > 1 {
        let middle = usize::midpoint(fine, failing);
        if fails(0..middle)? { failing = middle } else { fine = middle }
    }
    Some(Cause::After(failing - 1))
}

impl Origin {
    /// The same without a voice: what a plugin says in a call that is made again was said before.
    fn quiet(&self) -> Self {
        let mut quiet = self.clone();
        quiet.stores.sink = Arc::new(|_, _, _| {});
        quiet
    }
}

/// A row that is JSON, as JSON.
pub(super) fn row(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| json.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items that each take longer than what is left are slow, and not at fault.
    #[test]
    fn an_item_that_had_no_time_is_not_blamed() {
        let seconds = Duration::from_secs_f64;
        let is_telling = |limit, left| super::is_telling(seconds(limit), seconds(left), SHORT_BUDGET);
        assert_eq!([is_telling(7.5, 0.9), is_telling(7.5, 0.3), is_telling(0.1, 0.3)], [true, false, true]);
    }

    #[test]
    fn the_least_that_fails_is_found() {
        let cause = |fails: fn(&Range<usize>) -> bool| find(10, false, &mut |items| Some(fails(&items)));
        assert_eq!(cause(|items| items.contains(&7)), Some(Cause::Alone(7)));
        assert_eq!(cause(|items| items.len() > 4), Some(Cause::After(4)));
        assert_eq!(cause(|items| items.contains(&6) && items.contains(&0)), Some(Cause::After(6)));
        assert_eq!(cause(|_| false), Some(Cause::Gone));
        let mut calls = 0;
        let counted = find(10, false, &mut |_| {
            calls += 1;
            (calls < 5).then_some(false)
        });
        assert_eq!((counted, calls), (None, 5));
        assert_eq!(find(10, true, &mut |items| Some(items.len() > 4)), None);
    }
}
