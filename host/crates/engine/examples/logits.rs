//! Logits after each prefix of some tokens, for `tests/fixtures/parity/check_export.py`.
//!
//! `logits MODEL ADAPTER|- ID,ID,…` prints a JSON list of lists.

use std::path::Path;

use engine::architecture::config::ModelConfig;
use engine::generate::next_logits;
use engine::model::Model;
use engine::weights::WeightSource;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, ids] = arguments.as_slice() else { panic!("usage: logits MODEL ADAPTER|- ID,ID,…") };
    let ids: Vec<u32> = ids.split(',').map(|id| id.parse().expect("token ids")).collect();
    let adapter = (adapter != "-").then(|| Path::new(adapter));
    let config = ModelConfig::from_dir(model.as_ref()).expect("a model directory");
    let model = Model::load(config, &WeightSource::Directory(model.into()), adapter).expect("a model");
    let all: Vec<Vec<f32>> = (1..=ids.len()).map(|end| next_logits(&model, &ids[..end]).expect("logits")).collect();
    #[expect(clippy::print_stdout, reason = "its result")]
    {
        println!("{}", serde_json::json!(all));
    }
}
