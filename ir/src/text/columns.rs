//! Text in columns: what every printer ends with.

/// Rows as lines, every column as wide as its widest entry that is not wider than `widths_max` of that column. Entries of one row are
/// two spaces apart; trailing spaces are cut.
pub(super) fn align(indent: &str, rows: &[Vec<String>], widths_max: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let max = widths_max.get(column).copied().unwrap_or(usize::MAX);
        let entries = rows.iter().filter_map(|r| r.get(column));
        let widths = entries.map(|e| e.chars().count());
        widths.filter(|&w| w <= max).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_string();
        for (column, (entry, &width)) in row.iter().zip(&widths).enumerate() {
            if width == 0 && entry.is_empty() {
                continue;
            }
            if column > 0 {
                line.push_str("  ");
            }
            line.push_str(&format!("{entry:width$}"));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `n` with a comma between groups of three digits.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_are_grouped() {
        let rows = [
            vec!["a".to_string(), "b".into()],
            vec!["long".into(), "c".into()],
        ];
        assert_eq!(align("", &rows, &[]), "a     b\nlong  c\n");
        assert_eq!(align("", &rows, &[3]), "a  b\nlong  c\n");
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!(grouped(123456), "123,456");
    }
}
