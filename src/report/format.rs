//! Numbers as people read them.

/// `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `96 B`, `12.5 KiB`, `891.2 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `12.3 µs`, `4.56 ms`, `7.89 s`: three digits.
pub fn seconds(s: f64) -> String {
    let (value, unit) = match s {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A rate or size with three significant digits, or more where the number is large.
pub fn three_digits(x: f64) -> String {
    match x.abs() {
        a if a < 10.0 => format!("{x:.2}"),
        a if a < 100.0 => format!("{x:.1}"),
        a if a < 1e15 => grouped(x.round().abs() as u64),
        _ => format!("{x:.2e}"),
    }
}

/// `12.3 M`, `4.5 G`: a large count.
pub fn count(n: u64) -> String {
    let x = n as f64;
    match n {
        0..10_000 => grouped(n),
        10_000..1_000_000 => format!("{:.1} k", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", x / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.1} G", x / 1e9),
        _ => format!("{:.1} T", x / 1e12),
    }
}

/// `34.5 %` of a whole; a whole of 0 has no share.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        "–".into()
    } else {
        format!("{:.1} %", 100.0 * part as f64 / whole as f64)
    }
}

/// `[0 4 4 4]`: a list of numbers as options take it.
pub fn number_list<'n>(numbers: impl IntoIterator<Item = &'n u32>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(u32::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!(
            [grouped(7), grouped(1234), grouped(1_234_567)],
            ["7", "1,234", "1,234,567"]
        );
        assert_eq!(
            [bytes(96), bytes(12_800), bytes(638_976)],
            ["96 B", "12.5 KiB", "624.0 KiB"]
        );
        assert_eq!(
            [seconds(1.5), seconds(0.0123), seconds(4.56e-5)],
            ["1.50 s", "12.3 ms", "45.6 µs"]
        );
        assert_eq!(
            [three_digits(0.5), three_digits(12.34), three_digits(1234.5)],
            ["0.50", "12.3", "1,235"]
        );
        assert_eq!(
            [count(999), count(12_345), count(124_439_808)],
            ["999", "12.3 k", "124.4 M"]
        );
        assert_eq!([share(1, 3), share(1, 0)], ["33.3 %", "–"]);
    }
}
