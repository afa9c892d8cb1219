//! The program from outside: what it prints, how it ends, what it leaves behind.

mod adapters;
mod api;
mod author;
mod broken;
mod code;
mod config;
mod craft;
mod data;
mod device;
mod evidence;
mod export;
mod fix;
mod formats;
mod generate;
mod hostile;
mod kinds;
mod library;
mod model;
mod next;
mod plan;
mod plugins;
mod preprocess;
mod run;
mod schema;
mod support;
mod wall;
