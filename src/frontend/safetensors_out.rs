//! Writing tensors as a safetensors file.
//!
//! Tensors stand in the file in the order they are given, so the same weights always make the same bytes. The header is padded
//! to a multiple of eight bytes and tensors of wider elements should come first, so that a reader that maps the file finds its data aligned.

use std::io::{self, Write};
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::atomic_file::{self, AtomicWriteError};

/// A tensor to be written: its name in the file, its shape and its values.
pub struct TensorOut<'a> {
    pub name: String,
    pub shape: &'a [usize],
    pub data: Values<'a>,
}

/// The values of a tensor and how they are stored.
pub enum Values<'a> {
    F32(&'a [f32]),
    /// Rounded to the nearest 16-bit float, ties to even.
    RoundedToF16(&'a [f32]),
    /// Little-endian elements as they are.
    Raw(Dtype, &'a [u8]),
}

impl Values<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Values::F32(_) => Dtype::F32,
            Values::RoundedToF16(_) => Dtype::F16,
            Values::Raw(dtype, _) => *dtype,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Values::F32(data) => size_of_val(*data),
            Values::RoundedToF16(data) => data.len() * size_of::<f16>(),
            Values::Raw(_, bytes) => bytes.len(),
        }
    }
}

/// Values turned into bytes at a time where they are not written as they are.
const CHUNK: usize = 1 << 14;

/// Replaces `path` by a file of these tensors. Fails, without touching `path`, if a shape does not match its data.
pub fn write_safetensors(path: &Path, tensors: &[TensorOut]) -> Result<(), AtomicWriteError> {
    let invalid = |reason: String| AtomicWriteError {
        path: path.to_path_buf(),
        step: "describing the tensors",
        source: io::Error::new(io::ErrorKind::InvalidInput, reason),
    };
    let header = header(tensors).map_err(invalid)?;
    atomic_file::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors
            .iter()
            .try_for_each(|tensor| write_values(out, &tensor.data))
    })
}

fn header(tensors: &[TensorOut]) -> Result<Vec<u8>, String> {
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.data.bytes();
        let info = TensorInfo {
            dtype: tensor.data.dtype(),
            shape: tensor.shape.to_vec(),
            data_offsets: (start, end),
        };
        infos.push((tensor.name.clone(), info));
    }
    // `transformers` refuses a file that does not say which framework's conventions it follows.
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(format), infos).map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn write_values(out: &mut dyn Write, values: &Values) -> io::Result<()> {
    match values {
        Values::Raw(_, bytes) => out.write_all(bytes),
        Values::F32(data) if cfg!(target_endian = "little") => {
            out.write_all(bytemuck::cast_slice(data))
        }
        Values::F32(data) => data.chunks(CHUNK).try_for_each(|chunk| {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            out.write_all(&bytes)
        }),
        Values::RoundedToF16(data) => data.chunks(CHUNK).try_for_each(|chunk| {
            let mut halves = vec![f16::ZERO; chunk.len()];
            halves.convert_from_f32_slice(chunk);
            let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            out.write_all(&bytes)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::safetensors_in::SafetensorsFile;

    #[test]
    fn what_is_written_is_read_back_and_aligned() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let values: Vec<f32> = (0..35).map(|i| i as f32 / 7.0 - 2.0).collect();
        let tensors = [
            TensorOut {
                name: "zeta".into(),
                shape: &[5, 7],
                data: Values::F32(&values),
            },
            TensorOut {
                name: "alpha".into(),
                shape: &[1],
                data: Values::F32(&[f32::NAN]),
            },
            TensorOut {
                name: "nothing".into(),
                shape: &[0, 3],
                data: Values::F32(&[]),
            },
        ];
        write_safetensors(&path, &tensors).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert!(header.is_multiple_of(8));
        assert_eq!(bytes.len(), 8 + header + 36 * 4);
        assert!(
            String::from_utf8_lossy(&bytes[8..8 + header])
                .contains(r#""__metadata__":{"format":"pt"}"#)
        );

        let mut file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.names()[..2], ["zeta", "alpha"]);
        assert_eq!(file.shape("zeta"), Some(&[5, 7][..]));
        assert_eq!(file.read_f32("zeta").unwrap(), values);
        assert!(file.read_f32("alpha").unwrap()[0].is_nan());
        assert!(file.read_f32("nothing").unwrap().is_empty());
    }

    #[test]
    fn a_shape_that_does_not_match_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let tensors = [TensorOut {
            name: "a".into(),
            shape: &[2, 2],
            data: Values::F32(&[0.0; 3]),
        }];
        assert!(write_safetensors(&path, &tensors).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn halves_are_rounded_to_nearest_and_raw_elements_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.safetensors");
        let values = [1.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 70_000.0, -0.0];
        let raw = f16::from_f32(0.5).to_le_bytes();
        let tensors = [
            TensorOut {
                name: "a".into(),
                shape: &[5],
                data: Values::RoundedToF16(&values),
            },
            TensorOut {
                name: "b".into(),
                shape: &[],
                data: Values::Raw(Dtype::F16, &raw),
            },
        ];
        write_safetensors(&path, &tensors).unwrap();
        let mut file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(
            file.read_f32("a").unwrap(),
            [1.0, 1.0, 1.0 + 2.0 / 1024.0, f32::INFINITY, -0.0]
        );
        assert_eq!(file.read_f32("b").unwrap(), [0.5]);
        assert_eq!(file.dtype("b"), Some(Dtype::F16));
        assert_eq!(file.read_bytes("b").unwrap(), raw);
    }
}
