//! Finding things by a part of their names.

use tollgate_store::{Sql, ToValue, Value};

/// Begins a comparison, which goes on with two patterns.
pub(crate) struct Searched {
    pub(crate) lower: &'static str,
    pub(crate) plain: &'static str,
}

const ESCAPED: &str = " ESCAPE '!'";

/// Adds the condition that a text is in a column, in capitals or not; of letters that a database has no small ones for, as it is
/// typed.
pub(crate) fn and_has(sql: Sql, values: &mut Vec<Value>, column: &Searched, text: &str) -> Sql {
    values.push(pattern(&text.to_lowercase()));
    let sql = sql.push(" AND (").push(column.lower).push(" LIKE ").push_param(values.len()).push(ESCAPED);
    if text.is_ascii() {
        return sql.push(")");
    }
    values.push(pattern(text));
    sql.push(" OR ").push(column.plain).push(" LIKE ").push_param(values.len()).push(ESCAPED).push(")")
}

/// The pattern of whatever has a text in it. What is a sign of patterns in it is none.
fn pattern(text: &str) -> Value {
    let mut wanted = String::from("%");
    for letter in text.trim().chars() {
        if "%_!".contains(letter) {
            wanted.push('!');
        }
        wanted.push(letter);
    }
    wanted.push('%');
    wanted.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_patterns_is_looked_for_as_itself() {
        assert_eq!(format!("{:?}", pattern(" 50%_a!")), format!("{:?}", "%50!%!_a!!%".to_value()));
    }
}
