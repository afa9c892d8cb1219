//! The program from outside: what it prints, how it ends, what it leaves behind.

mod api;
mod author;
mod broken;
mod code;
mod config;
mod craft;
mod data;
mod device;
mod evidence;
mod fix;
mod generate;
mod hostile;
mod kinds;
mod model;
mod plan;
mod plugins;
mod preprocess;
mod run;
mod schema;
mod support;
