//! The trainer. Data flows one way: config → rules → source → row filters → prompt strategy → tokens → loop →
//! checkpoint and export.

pub mod author;
pub mod capabilities;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod curate;
pub mod data;
pub mod device;
pub mod diagnostic;
pub mod digest;
pub mod directories;
pub mod evidence;
pub mod memory;
pub mod quickstart;
pub mod recipe;
pub mod remote;
pub mod report;
pub mod rl;
pub mod samples;
pub mod terminal;
pub mod train;
