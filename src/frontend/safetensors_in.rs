//! Reading safetensors files that nobody vouches for.
//!
//! The header's claims are checked against the file before anything is allocated: its length, that tensors follow each other
//! without holes or overlaps, that each takes exactly the bytes of its shape, and that together they end where the file ends.
//! Data is read straight into its final buffer, not mapped: the file needs no alignment, a file cut short by another process is
//! an error and not a signal, and f32 weights are copied once.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::error::FrontendError;
use super::read::{cannot_read, open_file};

/// The file starts with the header's length, a little-endian u64.
const LENGTH_BYTES: u64 = 8;
/// A header takes about 100 bytes a tensor: far beyond any model, and small enough to read without thought.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Elements converted at a time when the file's type is not f32.
const CHUNK: usize = 1 << 16;

/// An open safetensors file with a checked header.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
}

impl SafetensorsFile {
    /// Opens `path` and checks its header.
    pub fn open(path: &Path) -> Result<Self, FrontendError> {
        let (mut file, file_bytes) = open_file(path)?;
        let unsound = |reason: String| FrontendError::Safetensors {
            path: path.to_path_buf(),
            reason,
        };
        let mut length = [0; LENGTH_BYTES as usize];
        if file_bytes < LENGTH_BYTES {
            return Err(unsound(format!(
                "it is {file_bytes} bytes long, too short for a header"
            )));
        }
        file.read_exact(&mut length).map_err(cannot_read(path))?;
        if &length == b"version " {
            return Err(unsound(
                "it is a Git LFS pointer: the weights themselves were not downloaded".into(),
            ));
        }
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX || header_bytes > file_bytes - LENGTH_BYTES {
            return Err(unsound(format!(
                "its header claims {header_bytes} bytes in a file of {file_bytes}"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(cannot_read(path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| unsound(format!("bad header: {error}")))?;
        // The metadata has been checked to be free of holes, so the last offset is the number of data bytes.
        let data_start = LENGTH_BYTES + header_bytes;
        let (claimed, found) = (metadata.data_len() as u64, file_bytes - data_start);
        if claimed != found {
            return Err(unsound(format!(
                "its header describes {claimed} bytes of data, but {found} follow"
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            metadata,
            data_start,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor names in the order of their data.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The shape of tensor `name`, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// The element type of tensor `name`, if the file has it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.metadata.info(name).map(|info| info.dtype)
    }

    /// The bytes of tensor `name` as they are stored.
    pub fn read_bytes(&mut self, name: &str) -> Result<Vec<u8>, FrontendError> {
        let Some(info) = self.metadata.info(name) else {
            return Err(FrontendError::TensorsMissing {
                path: self.path.clone(),
                names: vec![name.to_owned()],
            });
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(cannot_read(&self.path))?;
        Ok(bytes)
    }

    /// The values of tensor `name`, widened or rounded to f32.
    pub fn read_f32(&mut self, name: &str) -> Result<Vec<f32>, FrontendError> {
        let Some(info) = self.metadata.info(name) else {
            return Err(FrontendError::TensorsMissing {
                path: self.path.clone(),
                names: vec![name.to_owned()],
            });
        };
        let (dtype, start) = (info.dtype, self.data_start + info.data_offsets.0 as u64);
        let count = element_count(info);
        let Some(read) = reader_for(dtype) else {
            return Err(FrontendError::TensorDtype {
                path: self.path.clone(),
                name: name.to_owned(),
                found: dtype,
            });
        };
        let mut values = vec![0.0; count];
        self.file
            .seek(SeekFrom::Start(start))
            .and_then(|_| read(&mut self.file, &mut values))
            .map_err(cannot_read(&self.path))?;
        Ok(values)
    }
}

/// The header was checked to hold no overflowing shapes, and the file to be long enough for them.
fn element_count(info: &TensorInfo) -> usize {
    info.shape.iter().product()
}

type Reader = fn(&mut File, &mut [f32]) -> std::io::Result<()>;

fn reader_for(dtype: Dtype) -> Option<Reader> {
    match dtype {
        Dtype::F32 => Some(read_f32),
        Dtype::F64 => Some(read_f64),
        Dtype::F16 => Some(read_f16),
        Dtype::BF16 => Some(read_bf16),
        _ => None,
    }
}

fn read_f32(file: &mut File, values: &mut [f32]) -> std::io::Result<()> {
    file.read_exact(bytemuck::cast_slice_mut(values))?;
    // A no-op on little-endian machines.
    values
        .iter_mut()
        .for_each(|value| *value = f32::from_bits(u32::from_le(value.to_bits())));
    Ok(())
}

fn read_f64(file: &mut File, values: &mut [f32]) -> std::io::Result<()> {
    in_chunks(file, values, |raw: &[u64], out| {
        out.iter_mut()
            .zip(raw)
            .for_each(|(out, bits)| *out = f64::from_bits(u64::from_le(*bits)) as f32);
    })
}

fn read_f16(file: &mut File, values: &mut [f32]) -> std::io::Result<()> {
    in_chunks(file, values, |raw: &[u16], out| {
        let halves: Vec<f16> = raw
            .iter()
            .map(|bits| f16::from_bits(u16::from_le(*bits)))
            .collect();
        halves.convert_to_f32_slice(out);
    })
}

fn read_bf16(file: &mut File, values: &mut [f32]) -> std::io::Result<()> {
    in_chunks(file, values, |raw: &[u16], out| {
        out.iter_mut()
            .zip(raw)
            .for_each(|(out, bits)| *out = bf16::from_bits(u16::from_le(*bits)).to_f32());
    })
}

/// Reads as many `Raw` words as there are values and lets `convert` fill them in, a chunk at a time.
fn in_chunks<Raw: bytemuck::Pod>(
    file: &mut File,
    values: &mut [f32],
    convert: impl Fn(&[Raw], &mut [f32]),
) -> std::io::Result<()> {
    let mut raw = vec![<Raw as bytemuck::Zeroable>::zeroed(); CHUNK.min(values.len())];
    for out in values.chunks_mut(CHUNK) {
        let raw = &mut raw[..out.len()];
        file.read_exact(bytemuck::cast_slice_mut(raw))?;
        convert(raw, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
