//! Scalars for TensorBoard: an event file, which is a sequence of framed protobuf messages.
//!
//! ```text
//! frame   u64 length · u32 masked CRC-32C of it · the message · u32 masked CRC-32C of the message
//! Event   1: double wall_time · 2: int64 step · 3: string file_version · 5: Summary
//! Summary 1: Value { 1: string tag · 2: float simple_value }
//! ```

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::atomic_file::AtomicWriteError;
use crate::error::Error;

/// An open event file.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventFile {
    /// Starts a file in `directory`, which is created; its name is what TensorBoard looks for.
    pub fn create(directory: &Path) -> Result<EventFile, Error> {
        crate::atomic_file::create_directory(directory)?;
        let (seconds, process) = (now(), std::process::id());
        let path = directory.join(format!(
            "events.out.tfevents.{}.superstep.{process}.0",
            seconds as u64
        ));
        let file = File::create(&path).map_err(|error| cannot(&path, error))?;
        let mut events = EventFile {
            path,
            out: BufWriter::new(file),
        };
        let mut version = wall_time(seconds);
        field_bytes(&mut version, 3, b"brain.Event:2");
        events.frame(&version)?;
        events.flush()?;
        Ok(events)
    }

    /// Adds one value of a curve.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<(), Error> {
        let mut point = Vec::new();
        field_bytes(&mut point, 1, tag.as_bytes());
        point.push(2 << 3 | 5);
        point.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        field_bytes(&mut summary, 1, &point);
        let mut event = wall_time(now());
        event.push(2 << 3);
        varint(&mut event, step);
        field_bytes(&mut event, 5, &summary);
        self.frame(&event)
    }

    /// Hands everything to the operating system, so that a viewer sees it.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(|error| cannot(&self.path, error))
    }

    fn frame(&mut self, message: &[u8]) -> Result<(), Error> {
        let length = (message.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] = [
            &length,
            &masked_crc(&length).to_le_bytes(),
            message,
            &masked_crc(message).to_le_bytes(),
        ];
        let written = parts.iter().try_for_each(|part| self.out.write_all(part));
        written.map_err(|error| cannot(&self.path, error))
    }
}

fn cannot(path: &Path, source: std::io::Error) -> Error {
    Error::Write(AtomicWriteError {
        path: path.to_path_buf(),
        step: "adding to it",
        source,
    })
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn wall_time(seconds: f64) -> Vec<u8> {
    let mut message = vec![1 << 3 | 1];
    message.extend(seconds.to_le_bytes());
    message
}

fn field_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Rotated and shifted, because CRCs of data that holds CRCs are weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: events are few and short.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// Takes frames apart again: lengths from the frame, values by scanning the fields.
    fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let unmasked = |masked: u32| masked.wrapping_sub(0xa282_ead8).rotate_left(15);
            assert_eq!(unmasked(crc(8)), crc32c(&bytes[..8]));
            let message = &bytes[12..12 + length];
            assert_eq!(unmasked(crc(12 + length)), crc32c(message));
            all.push(message.to_vec());
            bytes = &bytes[16 + length..];
        }
        all
    }

    #[test]
    fn scalars_are_framed_events() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(&directory.path().join("runs")).unwrap();
        events.scalar("train/loss", 300, 2.5).unwrap();
        events.flush().unwrap();
        let messages = frames(&std::fs::read(&events.path).unwrap());
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0][9..], *b"\x1a\x0dbrain.Event:2");
        let mut wanted = vec![0x10, 0xac, 0x02, 0x2a, 19, 0x0a, 17, 0x0a, 10];
        wanted.extend(b"train/loss\x15");
        wanted.extend(2.5f32.to_le_bytes());
        assert_eq!(messages[1][9..], wanted);
    }
}
