//! The `host` program: reads the command line and ends with the status that the contract gives.

use std::process::ExitCode;

use clap::Parser as _;
use host::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
