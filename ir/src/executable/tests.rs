//! Round trips, and what happens to files that are not what they were.

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::graph::Phase;
use crate::ids::{GridId, IpuId, OriginId, ProcId, VarId};
use crate::machine::Machine;
use crate::op::{BinaryOp, MapExpr, StateKind};
use crate::program::*;
use crate::types::{Real, TensorType};

/// Two variables on two grids, moved and added up, in a procedure that is repeated.
fn program() -> Program {
    let machine = crate::machine::tests_machine();
    let grid = |name: &str, base, n| Grid::dense(name, IpuId(0), base, 16, &[("i", n)]);
    let variable = |name: &str, grid, address| Variable {
        name: name.into(),
        ty: TensorType::f32([24, 8]),
        grid: GridId(grid),
        cuts: smallvec![Cut::by(&[0], 1), Cut::none()],
        address,
        category: Category::Activation,
        live: Some((0, 5)),
    };
    let step = Step::Compute(ComputeSet {
        name: "add".into(),
        origin: OriginId(0),
        groups: smallvec![VertexGroup {
            codelet: Codelet::Map(MapExpr::binary(BinaryOp::Add)),
            grid: GridId(1),
            inputs: smallvec![Operand::whole(VarId(1)), Operand::whole(VarId(1))],
            outputs: smallvec![Operand::whole(VarId(1))],
        }],
    });
    let exchange = Step::Exchange(Exchange {
        name: "spread".into(),
        origin: OriginId(0),
        moves: vec![Move {
            source: VarId(0),
            views: vec![View::Transpose(smallvec![0, 1])],
            destination: VarId(1),
            at: smallvec![0, 0],
        }],
    });
    Program {
        name: "p".into(),
        machine,
        ipus: 1,
        replicas: 1,
        grids: vec![grid("few", 0, 2), grid("many", 4, 6)],
        variables_from: vec![0; 1],
        variables: vec![variable("a", 0, 0), variable("b", 1, 1024)],
        states: vec![State {
            name: "a".into(),
            kind: StateKind::Weight,
            variable: VarId(0),
            sharded: false,
            remote: false,
        }],
        streams: vec![Stream {
            name: "x".into(),
            direction: Direction::HostToDevice,
            variable: VarId(0),
        }],
        procedures: vec![
            Procedure {
                name: "body".into(),
                steps: vec![
                    Step::Host {
                        stream: 0,
                        origin: OriginId(0),
                    },
                    Step::Sync(Sync::Ipu(IpuId(0))),
                    exchange,
                    step,
                ],
            },
            Procedure {
                name: "entry".into(),
                steps: vec![Step::Repeat {
                    count: 4,
                    body: ProcId(0),
                }],
            },
        ],
        entry: ProcId(1),
        parts: vec![],
        rounding: Rounding::Nearest,
        origins: vec![Origin {
            name: "h.0.add".into(),
            kind: "add".into(),
            ipu: IpuId(0),
            phase: Phase::Backward,
            flops: 192,
        }],
    }
}

fn executable() -> Executable {
    Executable {
        manifest: "{\n  \"kind\": \"training\",\n  \"model\": \"tiny\"\n}".into(),
        program: program(),
    }
}

#[test]
fn bytes_and_back_and_the_same_bytes_again() {
    let bytes = executable().to_bytes();
    let back = Executable::from_bytes(&bytes).unwrap();
    assert_eq!(back, executable());
    assert_eq!(back.to_bytes(), bytes);
}

#[test]
fn head_shows_format_table_and_manifest() {
    let bytes = executable().to_bytes();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().take(8).collect();
    assert!(lines[0].starts_with(&format!("superstep executable format {FORMAT} version ")));
    assert!(lines[1].starts_with("section manifest "));
    assert!(lines[2].starts_with("section program "));
    assert!(lines[3].starts_with("header "));
    assert_eq!(
        lines[4..],
        [
            "{",
            "  \"kind\": \"training\",",
            "  \"model\": \"tiny\"",
            "}"
        ]
    );
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = executable().to_bytes();
    for length in 0..bytes.len() {
        let error = Executable::from_bytes(&bytes[..length]).unwrap_err();
        let truncated = matches!(
            error,
            ExecutableError::Truncated { .. } | ExecutableError::TruncatedHeader
        );
        assert!(truncated, "{length} bytes: {error}");
    }
    let more = [bytes.as_slice(), b"\n"].concat();
    assert_eq!(
        Executable::from_bytes(&more),
        Err(ExecutableError::Corrupted { section: "end" })
    );
}

#[test]
fn every_flipped_byte_is_an_error_that_names_the_section() {
    let bytes = executable().to_bytes();
    let manifest = bytes.len() - codec::encode(&program()).len();
    let header = manifest - executable().manifest.len() - 1;
    for at in 0..bytes.len() {
        for mask in [0x01u8, 0x20, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= mask;
            let error = Executable::from_bytes(&bad).unwrap_err();
            let corrupted = |section| ExecutableError::Corrupted { section };
            if at >= manifest {
                assert_eq!(error, corrupted("program"), "byte {at}");
            } else if at >= header {
                assert_eq!(error, corrupted("manifest"), "byte {at}");
            }
        }
    }
}

#[test]
fn other_files_and_other_formats_are_told() {
    for other in ["PK\x03\x04", "{\"model\": 1}", "superstep graph"] {
        assert_eq!(
            Executable::from_bytes(other.as_bytes()),
            Err(ExecutableError::NotAnExecutable)
        );
    }
    let later = "superstep executable format 99 version 3.1.4\nwhatever";
    let message = Executable::from_bytes(later.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("format 99, written by superstep 3.1.4"),
        "{message}"
    );
    let reads = format!("which reads format {FORMAT}");
    assert!(message.contains(&reads), "{message}");
}

/// A file with right digests around any program bytes.
fn sealed(manifest: &str, program: &[u8]) -> Vec<u8> {
    let manifest = format!("{manifest}\n");
    let header = header::Header {
        manifest: header::Section::of(manifest.as_bytes()),
        program: header::Section::of(program),
    };
    [header.to_text().as_bytes(), manifest.as_bytes(), program].concat()
}

fn message(bytes: &[u8]) -> String {
    Executable::from_bytes(bytes).unwrap_err().to_string()
}

#[test]
fn right_digests_do_not_make_it_right() {
    let program = codec::encode(&program());
    assert!(message(&sealed("{", &program)).contains("manifest: "));
    assert!(message(&sealed("{}", &program[..50])).contains("program: "));
    let more = [program.as_slice(), &[0]].concat();
    assert!(message(&sealed("{}", &more)).contains("program: "));
}

#[test]
fn references_to_nothing_are_refused() {
    type Break = fn(&mut Program);
    let breaks: [(&str, Break); 12] = [
        ("no variable 2", |p| p.states[0].variable = VarId(2)),
        ("lies on no grid", |p| p.variables[0].grid = GridId(9)),
        ("no procedure 5", |p| p.entry = ProcId(5)),
        ("no IPU 3", |p| p.grids[0].ipu = IpuId(3)),
        ("does not lie on the tiles", |p| {
            p.grids[0].axes[0].extent = 17
        }),
        ("does not lie on the tiles", |p| {
            p.grids[0].axes[0].extent = 0
        }),
        ("cut by axes", |p| p.variables[0].cuts[1] = Cut::by(&[0], 1)),
        ("cut by axes", |p| p.variables[0].cuts[0].grain = 0),
        ("beyond the tile's memory", |p| {
            p.variables[1].address = 65_500
        }),
        ("in a circle", |p| {
            p.procedures[0].steps.push(Step::Call(ProcId(1)))
        }),
        ("`clock_hz`", |p| p.machine.clock_hz = f64::NAN),
        ("impossibly large", |p| {
            p.variables[0].ty.shape = [usize::MAX, 3].into();
        }),
    ];
    for (expected, damage) in breaks {
        let mut damaged = program();
        damage(&mut damaged);
        let found = message(&sealed("{}", &codec::encode(&damaged)));
        assert!(found.contains(expected), "{found} should say {expected}");
    }
}

#[test]
fn calls_that_never_end_are_refused() {
    let mut endless = program();
    for i in 2..40u32 {
        let steps = vec![Step::Call(ProcId(i - 1)), Step::Call(ProcId(i - 1))];
        endless.procedures.push(Procedure {
            name: format!("twice {i}"),
            steps,
        });
    }
    assert!(message(&sealed("{}", &codec::encode(&endless))).contains("for ever"));
}

/// A program whose first sequence claims to be as long as a u64 can say is found out without memory being set aside for it.
#[test]
fn lengths_that_lie_cost_no_memory() {
    let mut bytes = codec::encode(&program());
    // name: length 1 and "p"; then the machine, whose name is "test".
    assert_eq!(&bytes[..2], b"\x01p");
    bytes.splice(..1, [253, 255, 255, 255, 255, 255, 255, 255, 127]);
    assert!(message(&sealed("{}", &bytes)).contains("program: "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Damage that keeps the digests right: whatever decodes may be walked, printed and encoded.
    #[test]
    fn damaged_programs_never_panic(at in 0usize..4000, value: u8, at2 in 0usize..4000, value2: u8) {
        let mut bytes = codec::encode(&program());
        let length = bytes.len();
        bytes[at % length] = value;
        bytes[at2 % length] = value2;
        if let Ok(executable) = Executable::from_bytes(&sealed("{}", &bytes)) {
            let mut steps = 0u64;
            executable.program.walk(&mut |_, _| steps += 1);
            executable.to_bytes();
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Executable::from_bytes(&bytes).is_err());
        let sealed = sealed("{}", &bytes);
        prop_assert!(Executable::from_bytes(&sealed).is_err());
    }
}

#[test]
fn reals_keep_their_bits() {
    let mut with_nan = program();
    let fill = |value| Codelet::Fill { value: Real(value) };
    let Step::Compute(set) = &mut with_nan.procedures[0].steps[3] else {
        panic!("the fourth step computes");
    };
    set.groups[0].codelet = fill(f64::from_bits(0x7ff8_dead_beef_0001));
    let executable = Executable {
        manifest: "{}".into(),
        program: with_nan,
    };
    assert_eq!(
        Executable::from_bytes(&executable.to_bytes()),
        Ok(executable)
    );
    assert!(Machine::mk2().check().is_ok());
}
