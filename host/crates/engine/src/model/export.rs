//! A model as Hugging Face files.
