//! SIGHUP, SIGINT and SIGTERM ask the loop to finish its step, save and stop. A second SIGINT or SIGTERM ends the process
//! at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Asks whether a signal has come. One by itself hears of none; clones hear of the same.
#[derive(Debug, Clone, Default)]
pub struct StopSignal {
    received: Arc<AtomicUsize>,
}

/// Which signal ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, a scheduler, a shutdown.
    Terminate,
    /// The terminal is gone: a dropped `ssh` session, a closed window.
    HangUp,
}

impl StopSignal {
    /// Takes the signals over for the rest of the process. SIGHUP stays ignored where it was, as `nohup` asks.
    pub fn install() -> Result<Self, std::io::Error> {
        let received = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: a second signal finds the flag set and ends the process, the first sets it.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&seen))?;
            signal_hook::flag::register(signal, Arc::clone(&seen))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
        }
        // A closing terminal sends it several times (the shell to its jobs, then the kernel), so it never ends the process.
        if !is_ignored(SIGHUP)? {
            signal_hook::flag::register_usize(SIGHUP, Arc::clone(&received), SIGHUP as usize)?;
        }
        Ok(Self { received })
    }

    /// Stops the run as the signal would, from within this process.
    pub fn raise(&self, signal: Signal) {
        let number = match signal {
            Signal::Interrupt => SIGINT,
            Signal::Terminate => SIGTERM,
            Signal::HangUp => SIGHUP,
        };
        self.received.store(number as usize, Ordering::Relaxed);
    }

    /// The signal that came, if any.
    pub fn received(&self) -> Option<Signal> {
        match self.received.load(Ordering::Relaxed) as i32 {
            SIGINT => Some(Signal::Interrupt),
            SIGTERM => Some(Signal::Terminate),
            SIGHUP => Some(Signal::HangUp),
            _ => None,
        }
    }
}

fn is_ignored(signal: i32) -> Result<bool, std::io::Error> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action this only writes the present one to where it is asked to.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so all of it is written.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}
