//! The compiled executable as bytes: everything that running and reporting need, loadable without the compiler.
//!
//! A file starts with a few lines of text, so `head` shows what it is and which model it holds, and ends with the program in binary:
//!
//! ```text
//! superstep executable format 3 version 0.1.0
//! section manifest      1843 e0c5…
//! section program    2804112 91aa…
//! header 77d2…
//! { … the manifest: one JSON value … }
//! … the program …
//! ```
//! A section line gives length in bytes and blake3 digest; the header's own digest covers the lines above it. Sections follow in the
//! order of the table, the first one ended by a line break. The same executable gives the same bytes: no clock, no unordered map.

mod bounded;
mod codec;
mod header;
mod sanity;

use thiserror::Error;

use crate::program::Program;
use header::{Header, Section};

/// Version of the file format. Files of another format are refused.
pub const FORMAT: u32 = 7;

/// A compiled program and what its maker says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Executable {
    /// One JSON value. Its fields belong to whoever compiled; this crate only keeps it.
    pub manifest: String,
    pub program: Program,
}

/// Why bytes are not an executable that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExecutableError {
    #[error("not a superstep executable")]
    NotAnExecutable,
    #[error(
        "the executable is in format {format}, written by superstep {version}; this is superstep {own_version}, which reads format {own_format}"
    )]
    OtherFormat {
        format: u32,
        version: String,
        own_format: u32,
        own_version: &'static str,
    },
    #[error("the executable is truncated: {found} bytes of {expected}")]
    Truncated { expected: u64, found: u64 },
    #[error("the executable is truncated: it ends before its table of sections does")]
    TruncatedHeader,
    #[error("the executable is corrupted: its {section} is not what was written")]
    Corrupted { section: &'static str },
    #[error("the executable makes no sense: {section}: {message}")]
    Malformed {
        section: &'static str,
        message: String,
    },
}

impl Executable {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let manifest = format!("{}\n", self.manifest);
        let program = codec::encode(&self.program);
        let header = Header {
            manifest: Section::of(manifest.as_bytes()),
            program: Section::of(&program),
        };
        let mut bytes = header.to_text().into_bytes();
        bytes.reserve_exact(manifest.len() + program.len());
        bytes.extend_from_slice(manifest.as_bytes());
        bytes.extend_from_slice(&program);
        bytes
    }

    /// Reads a file's bytes, which may be anything. What comes back decodes cleanly and refers only to things that exist; whether it is a
    /// right program is for the verifier to say.
    ///
    /// # Errors
    /// The bytes are no executable, one of another format, truncated, corrupted, or refer to things that do not exist.
    pub fn from_bytes(bytes: &[u8]) -> Result<Executable, ExecutableError> {
        let (header, body) = Header::parse(bytes)?;
        let expected = header.manifest.length.saturating_add(header.program.length);
        if (body.len() as u64) < expected {
            let before = (bytes.len() - body.len()) as u64;
            return Err(ExecutableError::Truncated {
                expected: before.saturating_add(expected),
                found: bytes.len() as u64,
            });
        }
        if body.len() as u64 > expected {
            return Err(ExecutableError::Corrupted { section: "end" });
        }
        // Both lengths are at most the body's, so they fit.
        let (manifest, program) = body.split_at(header.manifest.length as usize);
        header.manifest.check(manifest, "manifest")?;
        header.program.check(program, "program")?;
        let executable = Executable {
            manifest: read_manifest(manifest)?,
            program: codec::decode(program)?,
        };
        sanity::check(&executable.program).map_err(|message| ExecutableError::Malformed {
            section: "program",
            message,
        })?;
        Ok(executable)
    }
}

fn read_manifest(bytes: &[u8]) -> Result<String, ExecutableError> {
    let malformed = |message: String| ExecutableError::Malformed {
        section: "manifest",
        message,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| malformed(e.to_string()))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| malformed(e.to_string()))?;
    Ok(text.to_string())
}

#[cfg(test)]
mod tests;
