//! Errors where a test expects them, and nowhere else.

use superstep_ir::text::parse_with_lines;
use superstep_ir::verify::verify_module;

/// What stands before the text of an expected error.
const MARK: &str = "// error:";

/// An error: its line, counted from 1, and what it says.
type Found = (usize, String);

pub(crate) fn check(text: &str) -> Result<(), String> {
    let found = errors(text);
    let mut wrong = Vec::new();
    let mut unexpected: Vec<&Found> = found.iter().collect();
    for (i, line) in text.lines().enumerate() {
        let Some((_, expected)) = line.split_once(MARK) else {
            continue;
        };
        let expected = expected.trim();
        let matches = |(at, message): &&Found| *at == i + 1 && message.contains(expected);
        match unexpected.iter().position(matches) {
            Some(at) => {
                unexpected.remove(at);
            }
            None => wrong.push(format!("line {}: no error `{expected}`", i + 1)),
        }
    }
    wrong.extend(
        unexpected
            .iter()
            .map(|(line, message)| format!("line {line}: unexpected error `{message}`")),
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// The one error of the parser, or all of the verifier.
fn errors(text: &str) -> Vec<Found> {
    let parsed = match parse_with_lines(text) {
        Ok(parsed) => parsed,
        Err(error) => return vec![(error.line, error.kind.to_string())],
    };
    let Err(errors) = verify_module(&parsed.module) else {
        return vec![];
    };
    let line_of = |error: &superstep_ir::verify::GraphError| {
        let graph = parsed
            .module
            .graphs
            .iter()
            .position(|g| g.name == error.graph)?;
        match &error.op {
            Some((op, _)) => parsed.line(graph, *op),
            None => text
                .lines()
                .position(|l| l.contains(&format!("graph @{} ", error.graph)))
                .map(|i| i + 1),
        }
    };
    errors
        .0
        .iter()
        .map(|e| (line_of(e).unwrap_or(0), e.kind.to_string()))
        .collect()
}
