//! The parts of a test file.

/// The line between what goes in and what must come out.
pub(crate) const SEPARATOR: &str = "// ---- becomes";

/// What is done with the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Opt(Vec<String>),
    Print,
    Verify,
}

pub(crate) struct TestFile<'t> {
    pub(crate) command: Command,
    /// Everything before the separator, first line and comments included, so that line numbers are those of the file.
    pub(crate) input: &'t str,
    /// What stands after the separator, if there is one.
    pub(crate) expected: Option<&'t str>,
}

impl<'t> TestFile<'t> {
    pub(crate) fn parse(text: &'t str) -> Result<TestFile<'t>, String> {
        let first = text.lines().next().unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().collect();
        let command = match words.as_slice() {
            ["//", "test:", "verify"] => Command::Verify,
            ["//", "test:", "print"] => Command::Print,
            ["//", "test:", "opt", "--passes", names] => {
                Command::Opt(names.split(',').map(str::to_string).collect())
            }
            _ => return Err(format!("the first line is no test command: {first}")),
        };
        let (input, expected) = match text.find(SEPARATOR) {
            None => (text, None),
            Some(at) => {
                let after = &text[at + SEPARATOR.len()..];
                (&text[..at], Some(after.strip_prefix('\n').unwrap_or(after)))
            }
        };
        Ok(TestFile {
            command,
            input,
            expected,
        })
    }

    /// The whole file with another expectation.
    pub(crate) fn with_expected(&self, expected: &str) -> String {
        format!("{}\n\n{SEPARATOR}\n{expected}", self.input.trim_end())
    }
}

#[test]
fn a_file_is_taken_apart_and_put_together() {
    let text = "// test: opt --passes cse,dead_code\n// why\ngraph @f {\n}\n\n// ---- becomes\ngraph @f {\n}\n";
    let file = TestFile::parse(text).unwrap();
    let names = vec!["cse".to_string(), "dead_code".to_string()];
    assert_eq!(file.command, Command::Opt(names));
    assert_eq!(file.expected, Some("graph @f {\n}\n"));
    assert_eq!(file.with_expected("graph @f {\n}\n"), text);
    assert!(TestFile::parse("// test: frobnicate").is_err());
}
