//! A migration in PostgreSQL's words.

use std::fmt::Write;

/// The newest version when PostgreSQL was first supported. Up to it there is no row to move: only what makes the schema
/// counts, and the rest may be in the words of the embedded database.
const FIRST: i64 = 13;

/// Texts are ordered by their bytes, as ids and pages need it, whatever the database's own order is.
pub(super) fn schema_for_postgres(version: i64, sql: &str) -> String {
    let bare: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap_or(line)).collect();
    let bare = bare.join("\n");
    let mut schema = String::new();
    for statement in bare.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        let verb = statement.split_whitespace().next().unwrap_or_default();
        if version <= FIRST && !["CREATE", "ALTER", "DROP"].contains(&verb) {
            continue;
        }
        let statement =
            if ["CREATE", "ALTER"].contains(&verb) { translated(statement) } else { statement.to_owned() };
        let _ = writeln!(schema, "{statement};");
    }
    schema
}

fn translated(statement: &str) -> String {
    let mut result = String::with_capacity(statement.len());
    let mut words =
        statement.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').peekable();
    while let Some(piece) = words.next() {
        let word = piece.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let after = &piece[word.len()..];
        match word {
            "TEXT" => result.push_str("TEXT COLLATE \"C\""),
            "BLOB" => result.push_str("BYTEA"),
            "WITHOUT" if words.peek().is_some_and(|next| next.trim_end() == "ROWID") => {
                words.next();
                continue;
            }
            _ => result.push_str(word),
        }
        result.push_str(after);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_said_in_postgresqls_words() {
        let sql = "-- Where; a BLOB is.\nCREATE TABLE t (id TEXT NOT NULL, b BLOB, n TEXT) WITHOUT ROWID;\n\
                   UPDATE t SET n = json_object('TEXT', id);\nALTER TABLE t ADD COLUMN s TEXT NOT NULL DEFAULT '{}';";
        let first = schema_for_postgres(3, sql);
        assert_eq!(
            first.split_whitespace().collect::<Vec<_>>().join(" "),
            "CREATE TABLE t (id TEXT COLLATE \"C\" NOT NULL, b BYTEA, n TEXT COLLATE \"C\") ; ALTER TABLE t ADD COLUMN s \
             TEXT COLLATE \"C\" NOT NULL DEFAULT '{}';"
        );
        assert!(schema_for_postgres(FIRST + 1, "UPDATE t SET n = 'TEXT';").contains("n = 'TEXT'"));
    }
}
