//! What a model says of texts: the same for one text as for many, and the same as where it writes.

mod emulator;
mod fixture;

use engine::architecture::config::ModelConfig;
use engine::generate::next_logits;
use engine::kernels::Precision;
use engine::kernels::counting::Profile;
use engine::memory::reading;
use engine::model::{Model, Reader};
use engine::weights::WeightSource;
use engine::workload::BatchShape;
use engine::{Batch, IGNORE};
use fixture::fixture;

fn model(name: &str) -> Model {
    let directory = fixture(name);
    let config = ModelConfig::from_dir(&directory).unwrap();
    Model::load(config, &WeightSource::Directory(directory), None).unwrap()
}

/// Documents of these lengths, of tokens of their own but for a beginning that two have in common; every other token is a target.
fn batch(lens: &[u32]) -> Batch {
    let document = |(index, &len): (usize, &u32)| {
        let token = move |place: u32| 3 + (place * 17 + if place < 6 { 0 } else { index as u32 * 31 }) % 90;
        (0..len).map(token).collect::<Vec<u32>>()
    };
    let documents: Vec<Vec<u32>> = lens.iter().enumerate().map(document).collect();
    let targets = documents.iter().flat_map(|ids| {
        let next = ids.iter().skip(1).copied().chain([IGNORE]);
        next.enumerate().map(|(place, id)| if place % 2 == 1 { id } else { IGNORE })
    });
    Batch { targets: targets.collect(), ids: documents.concat(), weights: None, doc_lens: lens.to_vec() }
}

/// A document of a batch by itself.
fn alone(batch: &Batch, document: std::ops::Range<usize>) -> Batch {
    let [ids, targets] = [&batch.ids, &batch.targets].map(|all| all[document.clone()].to_vec());
    Batch { doc_lens: vec![ids.len() as u32], ids, targets, weights: None }
}

#[test]
fn a_text_is_read_alike_alone_and_beside_others() {
    // `tied` has one weight for embedding and output projection, `gemma2` a cap on its logits, `granite` a factor of them.
    for name in ["untied", "tied", "gemma2", "granite"] {
        let mut reader = Reader::new(model(name)).unwrap();
        let all = batch(&[9, 23, 1, 14]);
        let (log_probs, hits) = (reader.log_probs(&all).unwrap(), reader.hits(&all).unwrap());
        let (hidden, next) = (reader.hidden(&all).unwrap(), reader.next_logits(&all).unwrap());
        let h = reader.model().config.hidden_size;
        let v = reader.model().config.vocab_size;
        assert_eq!((log_probs.len(), hits.len(), hidden.len(), next.len()), (47, 47, 47 * h, 4 * v));
        for (index, document) in all.documents().enumerate() {
            let one = alone(&all, document.clone());
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&reader.log_probs(&one).unwrap()), bits(&log_probs[document.clone()]), "{name}");
            assert_eq!(reader.hits(&one).unwrap(), hits[document.clone()], "{name}");
            let of_document = &hidden[document.start * h..document.end * h];
            assert_eq!(bits(&reader.hidden(&one).unwrap()), bits(of_document), "{name}");
            let logits = &next[index * v..][..v];
            assert_eq!(bits(&reader.next_logits(&one).unwrap()), bits(logits), "{name}");
            // What generation says has no cap yet.
            if reader.model().config.logits_cap.is_none() {
                let written = next_logits(reader.model(), &one.ids).unwrap();
                let largest = logits.iter().zip(&written).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < 1e-5, "{name}: {largest}");
            }
            // The log-probability of a target is that of the logits before it.
            for place in (1..one.ids.len()).step_by(2).filter(|&place| one.targets[place] != IGNORE) {
                let prefix = alone(&all, document.start..document.start + place + 1);
                let logits = reader.next_logits(&prefix).unwrap();
                let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                let expected = f64::from(logits[one.targets[place] as usize]) - total.ln();
                let found = f64::from(log_probs[document.start + place]);
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{name}: {found} {expected}");
            }
        }
    }
}

#[test]
fn what_reading_takes_is_known_before() {
    let model = model("untied");
    let config = model.config.clone();
    let mut reader = Reader::new(model).unwrap();
    let all = batch(&[64, 64, 40, 60]);
    let shape = BatchShape { tokens: 228, targets: 1, longest: 64 };
    let needed = reading(Profile::Cpu, &config, shape).unwrap();
    reader.log_probs(&all).unwrap();
    reader.next_logits(&all).unwrap();
    assert!(
        needed >= reader.bytes() && reader.bytes() > 4 * (config.vocab_size * config.hidden_size) as u64,
        "{needed} {}",
        reader.bytes()
    );
    assert!(reading(Profile::Cpu, &config, BatchShape { tokens: 2 * 228, ..shape }).unwrap() > needed);
}

#[test]
fn a_hit_is_the_token_that_would_be_written() {
    let mut reader = Reader::new(model("untied")).unwrap();
    let mut batch = batch(&[12, 20]);
    let likeliest = |reader: &Reader, ids: &[u32]| {
        let logits = next_logits(reader.model(), ids).unwrap();
        (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
    };
    // Where the targets are what would be written, all of them are hits; one less than that is none.
    let written: Vec<u32> = batch
        .documents()
        .flat_map(|document| (document.start + 1..=document.end).map(move |end| document.start..end))
        .map(|prefix| likeliest(&reader, &batch.ids[prefix]))
        .collect();
    batch.targets.clone_from(&written);
    assert_eq!(reader.hits(&batch).unwrap(), [true; 32]);
    batch.targets[5] = (written[5] + 1) % 90;
    batch.targets[7] = IGNORE;
    let hits = reader.hits(&batch).unwrap();
    assert_eq!((0..32).filter(|&position| !hits[position]).collect::<Vec<_>>(), [5, 7]);
}

#[test]
fn a_gpu_says_what_the_cpu_says() {
    let Some(kernels) = emulator::device(Precision::F32) else { return };
    let directory = fixture("untied");
    let config = ModelConfig::from_dir(&directory).unwrap();
    let on_gpu = Model::on(kernels, config, &WeightSource::Directory(directory), None).unwrap();
    let (mut gpu, mut cpu) = (Reader::new(on_gpu).unwrap(), Reader::new(model("untied")).unwrap());
    // Again, as passes that come again are replayed; the second batch is another one of the same size.
    for lens in [[9, 23, 6], [9, 23, 6], [14, 14, 10]] {
        let batch = batch(&lens);
        let near = |found: &[f32], expected: &[f32]| {
            let pairs = || found.iter().zip(expected);
            assert_eq!(found.len(), expected.len());
            assert!(pairs().all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0)), "{:?}", pairs().next());
        };
        near(&gpu.log_probs(&batch).unwrap(), &cpu.log_probs(&batch).unwrap());
        near(&gpu.hidden(&batch).unwrap(), &cpu.hidden(&batch).unwrap());
        near(&gpu.next_logits(&batch).unwrap(), &cpu.next_logits(&batch).unwrap());
        assert_eq!(gpu.hits(&batch).unwrap(), cpu.hits(&batch).unwrap());
    }
}
