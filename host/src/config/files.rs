//! The files that a config names.

use super::recipe::LockedRepository;
use super::schema::{Config, DatasetConfig};

impl Config {
    /// The commit that the lock of a recipe names for a repository of the hub; none where it was locked at another revision.
    pub fn locked_commit(&self, key: &str, name: &str, revision: Option<&str>) -> Option<String> {
        let is_it = |locked: &&LockedRepository| {
            locked.key == key && locked.name == name && locked.revision == revision.unwrap_or("main")
        };
        self.lock.as_ref()?.hub.iter().find(is_it).map(|locked| locked.commit.clone())
    }

    /// Paths of files and directories that are read, each with the config path that names it. A name of the Hugging Face hub
    /// looks the same. Where a run writes is not among them.
    pub fn files(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut add = |key: &str, path: &str| found.push((key.to_owned(), path.to_owned()));
        add("base_model", &self.base_model);
        add("base_model_config", &self.base_model_config);
        add("tokenizer_config", &self.tokenizer_config);
        for (key, path) in [
            ("lora_model_dir", &self.lora_model_dir),
            (
                "trl.teacher_model_name_or_path",
                &self.trl.as_ref().and_then(|trl| trl.teacher_model_name_or_path.clone()),
            ),
            ("chat_template_jinja", &self.chat_template_jinja.clone().filter(|template| is_template_file(template))),
        ] {
            if let Some(path) = path {
                add(key, path);
            }
        }
        let entries = |all: &[DatasetConfig], key: &str| -> Vec<(String, String)> {
            let named =
                |(index, dataset): (usize, &DatasetConfig)| (format!("{key}[{index}].path"), dataset.path.clone());
            all.iter().enumerate().map(named).collect()
        };
        for (key, path) in [entries(&self.datasets, "datasets"), entries(&self.test_datasets, "test_datasets")].concat()
        {
            add(&key, &path);
        }
        if let Some(curation) = &self.curation {
            let against =
                curation.decontaminate.iter().flat_map(|decontaminate| decontaminate.against.iter().enumerate());
            against.for_each(|(index, path)| add(&format!("curation.decontaminate.against[{index}]"), path));
            let like = curation.score.iter().flat_map(|score| score.like.iter().enumerate());
            like.for_each(|(index, path)| add(&format!("curation.score.like[{index}]"), path));
        }
        found
    }
}

/// True for a `chat_template_jinja` that names a file, and is none.
pub fn is_template_file(template: &str) -> bool {
    !template.contains("{{") && !template.contains("{%")
}
