//! The program from outside: what it prints, how it ends, what it leaves behind.

mod adapters;
mod api;
mod author;
mod broken;
mod code;
mod config;
mod craft;
mod curate;
mod curate_scores;
mod data;
mod device;
mod distill;
mod environment;
mod evidence;
mod export;
mod fix;
mod formats;
mod generate;
mod grpo;
mod hostile;
mod hostile_rewards;
mod hub;
mod hub_datasets;
#[path = "../../host/crates/hub/tests/server/mod.rs"]
mod hub_server;
mod judged;
mod kinds;
mod ladder;
mod library;
mod loaders;
mod model;
mod next;
mod plan;
mod plugins;
mod preferences;
mod preprocess;
mod recipes;
#[path = "../../host/crates/registry/tests/registry/server.rs"]
#[expect(dead_code, reason = "tests of the registry's own need more of it")]
mod registry_server;
mod reward_model;
mod rewards;
mod run;
mod schema;
mod steps;
mod store;
mod strategies;
mod stream;
mod support;
mod techniques;
mod trial;
mod wall;
