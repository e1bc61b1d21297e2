//! NumPy's `.npy`: a magic, a header that is a Python dict in text, then the elements.
//!
//! Read are C-order arrays of little-endian integers of 8 to 64 bits, format versions 1 to 3.

use std::path::Path;

use super::{DataError, TokenArray};

pub(super) mod file;

const MAGIC: &[u8] = b"\x93NUMPY";

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    signed: bool,
    element_bytes: usize,
    shape: Vec<usize>,
}

/// The ids in the bytes of a `.npy` file; `path` is named in errors.
pub fn parse(bytes: &[u8], path: &Path) -> Result<TokenArray, DataError> {
    let bad = |reason: String| DataError::Npy {
        path: path.to_path_buf(),
        reason,
    };
    let (header, data) = split(bytes).map_err(bad)?;
    let header = parse_header(header).map_err(bad)?;
    expected_bytes(&header, data.len() as u64, path)?;
    let ids = data
        .chunks_exact(header.element_bytes)
        .enumerate()
        .map(|(index, element)| {
            let value = integer(element, header.signed);
            u32::try_from(value).map_err(|_| DataError::NotAnId {
                path: path.to_path_buf(),
                index,
                value: value.to_string(),
            })
        })
        .collect::<Result<Vec<u32>, DataError>>()?;
    Ok(TokenArray {
        path: path.to_path_buf(),
        shape: header.shape,
        ids,
    })
}

/// The bytes of all elements, which must be those that are there.
fn expected_bytes(header: &Header, found: u64, path: &Path) -> Result<usize, DataError> {
    let (path, shape) = (path.to_path_buf(), &header.shape);
    let count = shape
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent));
    let expected = count.and_then(|n| n.checked_mul(header.element_bytes));
    let Some(expected) = expected.filter(|&bytes| bytes as u64 == found) else {
        let reason = format!(
            "shape {shape:?} of {}-byte integers does not match the {found} bytes that follow the header",
            header.element_bytes
        );
        return Err(DataError::Npy { path, reason });
    };
    if shape.is_empty() {
        let reason = "it is a single number".into();
        return Err(DataError::Shape { path, reason });
    }
    Ok(expected)
}

/// Header text and element bytes.
fn split(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("it does not start with the magic of a .npy file")?;
    let cut_short = "it ends inside the header";
    let (&[major, _minor], rest) = rest.split_first_chunk::<2>().ok_or(cut_short)?;
    let (length, rest) = match major {
        1 => rest
            .split_first_chunk::<2>()
            .map(|(n, rest)| (u32::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest
            .split_first_chunk::<4>()
            .map(|(n, rest)| (u32::from_le_bytes(*n), rest)),
        _ => return Err(format!("format version {major} is not known")),
    }
    .ok_or(cut_short)?;
    let (header, data) = rest.split_at_checked(length as usize).ok_or(cut_short)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
    Ok((header, data))
}

fn integer(little_endian: &[u8], signed: bool) -> i128 {
    let negative = signed && little_endian.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = if negative { [0xFF; 16] } else { [0; 16] };
    wide[..little_endian.len()].copy_from_slice(little_endian);
    i128::from_le_bytes(wide)
}

fn parse_header(text: &str) -> Result<Header, String> {
    let descr = field(text, "descr")?;
    let order = field(text, "fortran_order")?;
    let shape = field(text, "shape")?;
    if !order.starts_with("False") {
        return Err("it is in Fortran order; save it with numpy.ascontiguousarray".into());
    }
    let descr = descr
        .strip_prefix(['\'', '"'])
        .and_then(|d| d.split(['\'', '"']).next())
        .unwrap_or_default();
    let (signed, element_bytes) = match descr {
        "|i1" | "<i1" => (true, 1),
        "|u1" | "<u1" => (false, 1),
        "<i2" => (true, 2),
        "<u2" => (false, 2),
        "<i4" => (true, 4),
        "<u4" => (false, 4),
        "<i8" => (true, 8),
        "<u8" => (false, 8),
        _ => {
            return Err(format!(
                "its elements are {descr:?}; little-endian integers such as '<i4' are read"
            ));
        }
    };
    Ok(Header {
        signed,
        element_bytes,
        shape: parse_shape(shape)?,
    })
}

/// The text after `'name':` in the dict.
fn field<'a>(text: &'a str, name: &str) -> Result<&'a str, String> {
    let missing = || format!("its header has no {name:?}");
    let quoted = [format!("'{name}'"), format!("\"{name}\"")];
    let after = quoted
        .iter()
        .find_map(|key| text.split_once(key.as_str()))
        .ok_or_else(missing)?
        .1;
    Ok(after
        .trim_start()
        .strip_prefix(':')
        .ok_or_else(missing)?
        .trim_start())
}

/// `(50, 4, 2, 48)`, `(7,)` or `()`.
fn parse_shape(text: &str) -> Result<Vec<usize>, String> {
    let inside = text
        .strip_prefix('(')
        .and_then(|t| t.split_once(')'))
        .ok_or("its shape is no tuple")?
        .0;
    inside
        .split(',')
        .map(str::trim)
        .filter(|extent| !extent.is_empty())
        .map(|extent| {
            extent
                .parse()
                .map_err(|_| format!("its shape has the extent {extent:?}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<TokenArray, DataError> {
        parse(bytes, Path::new("t.npy"))
    }

    #[test]
    fn reads_every_integer_width_and_version() {
        for version in [1, 2, 3] {
            let array = read(&file(version, "<i2", "False", "(1, 2)", &[1, 0, 0, 1])).unwrap();
            assert_eq!((array.shape, array.ids), (vec![1, 2], vec![1, 256]));
        }
        for (descr, bytes) in [
            ("|u1", 1),
            ("<u2", 2),
            ("<i4", 4),
            ("<u4", 4),
            ("<i8", 8),
            ("<u8", 8),
        ] {
            let mut data = vec![0; bytes];
            data[0] = 200;
            assert_eq!(
                read(&file(1, descr, "False", "(1,)", &data)).unwrap().ids,
                [200],
                "{descr}"
            );
        }
    }

    #[test]
    fn refuses_what_is_not_an_array_of_ids() {
        let says = |bytes: &[u8], what: &str| {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        says(b"", "magic");
        says(&MAGIC[..6], "ends inside");
        says(&file(9, "<i4", "False", "(1,)", &[0; 4]), "version 9");
        says(&file(1, "<i4", "False", "(2,)", &[0; 4]), "does not match");
        says(
            &file(1, "<i4", "False", "(18446744073709551615, 3)", &[0; 4]),
            "does not match",
        );
        says(
            &file(1, "<i4", "False", "(99999999999999999999,)", &[0; 4]),
            "extent",
        );
        says(&file(1, "<i4", "False", "7", &[0; 4]), "tuple");
        says(&file(1, "<f4", "False", "(1,)", &[0; 4]), "'<i4'");
        says(&file(1, ">i4", "False", "(1,)", &[0; 4]), "little-endian");
        says(&file(1, "<i4", "True", "(1,)", &[0; 4]), "Fortran");
        says(&file(1, "<i4", "False", "()", &[0; 4]), "single number");
        says(
            &file(1, "<i2", "False", "(2,)", &[1, 0, 0xFE, 0xFF]),
            "-2 at position 1",
        );
        let whole = file(2, "<i8", "False", "(3, 1)", &[7; 24]);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
