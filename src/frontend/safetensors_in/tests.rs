use super::*;
use crate::frontend::fixtures::{fixture, safetensors_bytes};

fn open(bytes: &[u8]) -> Result<SafetensorsFile, FrontendError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.safetensors");
    std::fs::write(&path, bytes).unwrap();
    SafetensorsFile::open(&path)
}

#[track_caller]
fn unsound(header: &str, data: &[u8], says: &str) {
    match open(&safetensors_bytes(header, data)) {
        Err(FrontendError::Safetensors { reason, .. }) => {
            assert!(reason.contains(says), "{reason}")
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted: {header}"),
    }
}

#[test]
fn widens_every_float_type() {
    let values = [
        0.0f32,
        -1.5,
        65504.0,
        6.103_515_6e-5,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    let cases: [(&str, Vec<u8>); 4] = [
        ("F32", values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        (
            "F64",
            values
                .iter()
                .flat_map(|x| f64::from(*x).to_le_bytes())
                .collect(),
        ),
        (
            "F16",
            values
                .iter()
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
        ),
        (
            "BF16",
            values
                .iter()
                .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                .collect(),
        ),
    ];
    for (dtype, data) in cases {
        let header = format!(
            r#"{{"x":{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,{}]}}}}"#,
            data.len()
        );
        let read = open(&safetensors_bytes(&header, &data))
            .unwrap()
            .read_f32("x")
            .unwrap();
        let expected = values.map(|x| {
            if dtype == "BF16" {
                bf16::from_f32(x).to_f32()
            } else {
                x
            }
        });
        assert_eq!(read, expected, "{dtype}");
    }
}

#[test]
fn a_header_of_odd_length_misaligns_nothing() {
    let data: Vec<u8> = [1u8, 2, 3]
        .into_iter()
        .chain(2.5f32.to_le_bytes())
        .collect();
    for padding in 0..9 {
        let header = format!(
            r#"{{"m":{{"dtype":"U8","shape":[3],"data_offsets":[0,3]}},"x":{{"dtype":"F32","shape":[],"data_offsets":[3,7]}}}}{}"#,
            " ".repeat(padding)
        );
        let mut file = open(&safetensors_bytes(&header, &data)).unwrap();
        assert_eq!(file.read_f32("x").unwrap(), [2.5]);
        assert!(matches!(
            file.read_f32("m"),
            Err(FrontendError::TensorDtype {
                found: Dtype::U8,
                ..
            })
        ));
        assert!(matches!(
            file.read_f32("y"),
            Err(FrontendError::TensorsMissing { .. })
        ));
    }
}

#[test]
fn chunked_types_span_chunks() {
    let count = CHUNK + 7;
    let data: Vec<u8> = (0..count)
        .flat_map(|i| f16::from_f32((i % 1000) as f32).to_le_bytes())
        .collect();
    let header = format!(
        r#"{{"x":{{"dtype":"F16","shape":[{count}],"data_offsets":[0,{}]}}}}"#,
        data.len()
    );
    let read = open(&safetensors_bytes(&header, &data))
        .unwrap()
        .read_f32("x")
        .unwrap();
    assert!(
        read.iter()
            .enumerate()
            .all(|(i, x)| *x == (i % 1000) as f32)
    );
}

#[test]
fn lying_headers() {
    let f32x4 = |start: usize, end: usize| {
        format!(r#"{{"x":{{"dtype":"F32","shape":[4],"data_offsets":[{start},{end}]}}}}"#)
    };
    assert!(open(&safetensors_bytes(&f32x4(0, 16), &[0; 16])).is_ok());
    unsound(
        &f32x4(0, 16),
        &[0; 15],
        "describes 16 bytes of data, but 15 follow",
    );
    unsound(&f32x4(0, 16), &[0; 17], "but 17 follow");
    unsound(&f32x4(0, 12), &[0; 12], "shape");
    unsound(&f32x4(4, 20), &[0; 20], "offset for tensor `x`");
    unsound(&f32x4(16, 0), &[0; 16], "offset");
    unsound(
        r#"{"x":{"dtype":"F33","shape":[4],"data_offsets":[0,16]}}"#,
        &[0; 16],
        "F33",
    );
    unsound(
        r#"{"x":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#,
        &[0; 16],
        "bad header",
    );
    unsound(
        r#"{"x":{"dtype":"F32","shape":[4]}}"#,
        &[0; 16],
        "data_offsets",
    );
    unsound(r#"{"x":3}"#, &[], "bad header");
    unsound("[]", &[], "bad header");
    unsound("", &[], "bad header");
    unsound("\u{0}", &[], "bad header");
    unsound(&"[".repeat(200_000), &[], "bad header");
    // Overlap, hole, and sizes whose product or sum does not fit.
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    assert!(open(&safetensors_bytes(&two("[0,8]", "[8,16]"), &[0; 16])).is_ok());
    unsound(&two("[0,8]", "[4,12]"), &[0; 12], "offset");
    unsound(&two("[0,8]", "[0,8]"), &[0; 8], "offset");
    unsound(&two("[0,8]", "[12,20]"), &[0; 20], "offset");
    let huge = r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
    unsound(huge, &[], "overflow");
    let wrapping: Vec<String> = (0..8u64)
        .map(|i| {
            let (size, start) = ((1u64 << 61) - 1, i * ((1 << 61) - 1));
            format!(
                r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{}]}}"#,
                start + size
            )
        })
        .collect();
    unsound(
        &format!("{{{}}}", wrapping.join(",")),
        &[],
        "bytes of data, but 0 follow",
    );
}

#[test]
fn lying_lengths_and_other_files() {
    for bytes in [
        &[][..],
        &[0; 7],
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
    ] {
        assert!(matches!(
            open(bytes),
            Err(FrontendError::Safetensors { .. })
        ));
    }
    assert!(open(&[0; 8]).is_err());
    assert!(
        open(&safetensors_bytes("{}", &[]))
            .unwrap()
            .names()
            .is_empty()
    );
    let Err(error) = open(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    else {
        panic!()
    };
    assert!(error.to_string().contains("Git LFS"), "{error}");
    assert!(matches!(
        SafetensorsFile::open(&fixture("tiny")),
        Err(FrontendError::NotAFile { .. })
    ));
    assert!(matches!(
        SafetensorsFile::open(&fixture("none")),
        Err(FrontendError::Read { .. })
    ));
}

#[test]
fn a_file_cut_while_it_is_open_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.safetensors");
    let header = r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    std::fs::write(&path, safetensors_bytes(header, &[0; 16])).unwrap();
    let mut file = SafetensorsFile::open(&path).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(70)
        .unwrap();
    assert!(matches!(
        file.read_f32("x"),
        Err(FrontendError::Read { .. })
    ));
}
