//! One spelling of option names inside, two outside: `--block-size` is read as `--block_size`.

use std::ffi::OsString;

/// Long option names with underscores for hyphens; values, and everything after a lone `--`, stay as they are.
pub(super) fn snake_case(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut options_are_over = false;
    arguments
        .into_iter()
        .map(|argument| {
            options_are_over |= argument == "--";
            match argument.to_str().and_then(|text| text.strip_prefix("--")) {
                Some(option) if !options_are_over => {
                    let (name, value) = match option.split_once('=') {
                        Some((name, value)) => (name, Some(value)),
                        None => (option, None),
                    };
                    let name = name.replace('-', "_");
                    value
                        .map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
                        .into()
                }
                _ => argument,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_change() {
        let spelled = |text: &str| {
            let words = snake_case(text.split(' ').map(OsString::from));
            words
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            spelled("x --block-size 3 --train_file a-b"),
            "x --block_size 3 --train_file a-b"
        );
        assert_eq!(
            spelled("--max-steps=1 --out-dir=a-b=c-d"),
            "--max_steps=1 --out_dir=a-b=c-d"
        );
        assert_eq!(spelled("-o a-b -- --x-y"), "-o a-b -- --x-y");
    }
}
