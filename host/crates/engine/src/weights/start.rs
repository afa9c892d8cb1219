//! Weight files of which only the beginning is here: what their headers tell.

use std::path::PathBuf;

use safetensors::tensor::Metadata;

use super::files::{WeightHeaders, WeightsError};

/// Bytes that say how long a header is.
pub const LENGTH: u64 = 8;
/// Bytes of a header at most, as in safetensors.
const HEADER: u64 = 100_000_000;

/// The beginning of a weight file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStart {
    /// Its name, for messages.
    pub file: PathBuf,
    /// Its first bytes, with all of its header.
    pub bytes: Vec<u8>,
    /// Bytes that it has in all.
    pub size: u64,
}

/// Bytes from the start of a file to the end of its header, told by its first [`LENGTH`]; none for what is no header.
pub fn header_end(start: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(*start.first_chunk()?);
    (length <= HEADER).then_some(length + LENGTH)
}

/// What is in files, by their beginnings.
///
/// # Errors
/// [`WeightsError::Invalid`] for a file that is not safetensors.
pub fn headers_of(starts: &[FileStart]) -> Result<WeightHeaders, WeightsError> {
    let mut headers = WeightHeaders::default();
    for FileStart { file, bytes, size } in starts {
        let invalid = |reason: String| WeightsError::Invalid { file: file.clone(), reason };
        let header = header_end(bytes).and_then(|end| Some((end, bytes.get(LENGTH as usize..end as usize)?)));
        let (end, header) = header.ok_or_else(|| invalid("it has no header".into()))?;
        let metadata: Metadata = serde_json::from_slice(header).map_err(|error| invalid(error.to_string()))?;
        if end.checked_add(metadata.data_len() as u64) != Some(*size) {
            return Err(invalid(format!("it has {size} bytes, and its header tells of others")));
        }
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            headers.add(file, &name, (info.dtype, &info.shape), end.saturating_sub(start))?;
        }
        headers.files.push(file.clone());
    }
    Ok(headers)
}
