//! The text header of an executable: format, table of sections, and a digest over itself.

use super::{ExecutableError, FORMAT};

const MAGIC: &str = "superstep executable format ";
/// A header is shorter; a longer one is not searched through.
const LONGEST_LINE: usize = 256;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where a section ends and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) length: u64,
    digest: blake3::Hash,
}

impl Section {
    pub(super) fn of(bytes: &[u8]) -> Section {
        Section {
            length: bytes.len() as u64,
            digest: blake3::hash(bytes),
        }
    }

    pub(super) fn check(&self, bytes: &[u8], section: &'static str) -> Result<(), ExecutableError> {
        if blake3::hash(bytes) == self.digest {
            Ok(())
        } else {
            Err(ExecutableError::Corrupted { section })
        }
    }

    fn to_line(self, name: &str) -> String {
        format!(
            "section {name:<8} {:>12} {}\n",
            self.length,
            self.digest.to_hex()
        )
    }

    fn parse(line: &str, name: &str) -> Option<Section> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("section") || words.next() != Some(name) {
            return None;
        }
        let length = words.next()?.parse().ok()?;
        let digest = blake3::Hash::from_hex(words.next()?).ok()?;
        words.next().is_none().then_some(Section { length, digest })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) manifest: Section,
    pub(super) program: Section,
}

impl Header {
    pub(super) fn to_text(self) -> String {
        let mut text = format!("{MAGIC}{FORMAT} version {VERSION}\n");
        text += &self.manifest.to_line("manifest");
        text += &self.program.to_line("program");
        let digest = blake3::hash(text.as_bytes()).to_hex();
        text + &format!("header {digest}\n")
    }

    /// The header and the bytes after it.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), ExecutableError> {
        let corrupted = ExecutableError::Corrupted { section: "header" };
        let start = bytes.len().min(MAGIC.len());
        if bytes[..start] != MAGIC.as_bytes()[..start] {
            return Err(ExecutableError::NotAnExecutable);
        }
        let (first, rest) = line(bytes)?;
        let (format, version) = first_line(first)?;
        if format != FORMAT {
            return Err(ExecutableError::OtherFormat {
                format,
                version: version.to_string(),
                own_format: FORMAT,
                own_version: VERSION,
            });
        }
        let (manifest, rest) = line(rest)?;
        let (program, rest) = line(rest)?;
        let covered = bytes.len() - rest.len();
        let (last, body) = line(rest)?;
        let digest = blake3::hash(&bytes[..covered]).to_hex();
        if last.strip_prefix("header ") != Some(digest.as_str()) {
            return Err(corrupted);
        }
        let header = Section::parse(manifest, "manifest")
            .zip(Section::parse(program, "program"))
            .map(|(manifest, program)| Header { manifest, program });
        header.map(|h| (h, body)).ok_or(corrupted)
    }
}

/// Format and version of the program that wrote the file.
fn first_line(line: &str) -> Result<(u32, &str), ExecutableError> {
    let corrupted = ExecutableError::Corrupted { section: "header" };
    let words = line
        .strip_prefix(MAGIC)
        .ok_or(ExecutableError::NotAnExecutable)?;
    let (format, version) = words.split_once(" version ").ok_or(corrupted.clone())?;
    Ok((format.parse().map_err(|_| corrupted)?, version))
}

/// The first line, without its end, and the bytes after it.
fn line(bytes: &[u8]) -> Result<(&str, &[u8]), ExecutableError> {
    let corrupted = ExecutableError::Corrupted { section: "header" };
    let head = &bytes[..bytes.len().min(LONGEST_LINE)];
    match head.iter().position(|&b| b == b'\n') {
        Some(end) => {
            let text = std::str::from_utf8(&head[..end]).map_err(|_| corrupted)?;
            Ok((text, &bytes[end + 1..]))
        }
        None if bytes.len() < LONGEST_LINE => Err(ExecutableError::TruncatedHeader),
        None => Err(corrupted),
    }
}
