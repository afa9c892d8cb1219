//! How often something is tried, and how long is waited.

use std::thread::sleep;
use std::time::Duration;

use crate::{Answer, Failure};

/// Times that something is tried without getting further.
const TRIES: u32 = 5;
/// The longest that a server's wish to wait is followed.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// How often something was tried without getting further.
#[derive(Debug)]
pub struct Tries {
    left: u32,
    pause: Duration,
    first: Duration,
    has_arrived: bool,
}

impl Tries {
    /// All of them, with this pause before the second; it doubles.
    pub fn new(pause: Duration) -> Self {
        Self { left: TRIES, pause, first: pause, has_arrived: false }
    }

    /// Something has arrived: all tries are there again.
    pub fn further(&mut self) {
        (self.left, self.pause, self.has_arrived) = (TRIES, self.first, true);
    }

    /// A machine without a network is told so at once, but for one more try.
    pub(crate) fn hurry(&mut self) {
        if !self.has_arrived {
            self.left = self.left.min(2);
        }
    }

    /// Waits; false where it has been tried often enough.
    fn wait(&mut self, wanted: Option<Duration>) -> bool {
        self.left -= 1;
        if self.left == 0 {
            return false;
        }
        sleep(wanted.unwrap_or(self.pause).max(self.pause));
        self.pause *= 2;
        true
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] for `reason` where it has been tried often enough.
    pub fn again(&mut self, reason: &str) -> Result<(), Failure> {
        if self.wait(None) { Ok(()) } else { Err(Failure::Unreachable(reason.to_owned())) }
    }

    /// True for an answer that another time may be another one; then it has waited.
    ///
    /// # Errors
    /// [`Failure::TooMany`] and [`Failure::Status`] where it has been tried often enough, or the server wants a longer wait.
    pub fn is_for_later(&mut self, answer: &Answer) -> Result<bool, Failure> {
        match answer.status() {
            429 => {
                let wait =
                    answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
                if wait.is_some_and(|wait| wait > LONGEST_WAIT) || !self.wait(wait) {
                    return Err(Failure::TooMany);
                }
                Ok(true)
            }
            status @ (408 | 500..=599) => {
                if self.wait(None) {
                    Ok(true)
                } else {
                    Err(Failure::Status(status))
                }
            }
            _ => Ok(false),
        }
    }
}
