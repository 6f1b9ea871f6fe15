//! Quoting, and reading of text rows.

use tokio_postgres::SimpleQueryRow;

/// A name as SQL takes it, whatever it holds. A NUL byte, which PostgreSQL cannot hold, is left out.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// A text as SQL takes it, whatever it holds and however `standard_conforming_strings` is set.
pub(super) fn literal(text: &str) -> String {
    let plain = text.replace('\0', "").replace('\'', "''");
    if plain.contains('\\') {
        format!("E'{}'", plain.replace('\\', "\\\\"))
    } else {
        format!("'{plain}'")
    }
}

/// A column of a row; none for NULL and for a column that is not there.
pub(super) fn column<'a>(row: &'a SimpleQueryRow, name: &str) -> Option<&'a str> {
    row.try_get(name).ok().flatten()
}

/// A boolean column; NULL is false.
pub(super) fn flag(row: &SimpleQueryRow, name: &str) -> bool {
    column(row, name) == Some("t")
}

/// A column that parses.
pub(super) fn parsed<T: std::str::FromStr>(row: &SimpleQueryRow, name: &str) -> Option<T> {
    column(row, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_whatever_a_name_or_text_holds() {
        assert_eq!(identifier(r#"a"b; DROP"#), r#""a""b; DROP""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(literal("nul\0"), "'nul'");
    }
}
