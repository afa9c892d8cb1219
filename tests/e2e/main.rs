//! The program from outside: what it prints, how it ends, what it leaves behind.

mod config;
mod data;
mod generate;
mod kinds;
mod model;
mod plugins;
mod run;
mod support;
