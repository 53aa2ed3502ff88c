//! SQL text. It can be composed only of pieces of the program's own source, so no value of a caller can get into it.

use std::borrow::Cow;

use crate::value::Value;

/// A statement with `$n` parameters.
#[derive(Clone, Debug)]
pub struct Sql(Cow<'static, str>);

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Sql {
    #[must_use]
    pub fn push(mut self, piece: &'static str) -> Self {
        self.0.to_mut().push_str(piece);
        self
    }

    /// Appends `($n, $n+1, ...)` for a list, and its values to those of the statement; for none a list that nothing is
    /// in. The last value is repeated up to a power of two, so that lists of all lengths make few texts to prepare.
    #[must_use]
    pub fn push_list(mut self, values: &mut Vec<Value>, list: impl IntoIterator<Item = Value>) -> Self {
        let first = values.len();
        values.extend(list);
        let count = values.len() - first;
        if let Some(last) = values.last().filter(|_| count > 0).cloned() {
            values.resize(first + count.next_power_of_two(), last);
        }
        let list: Vec<String> = (first + 1..=values.len()).map(|number| format!("${number}")).collect();
        let text = self.0.to_mut();
        text.push('(');
        text.push_str(if list.is_empty() { "NULL" } else { "" });
        text.push_str(&list.join(", "));
        text.push(')');
        self
    }

    /// Appends `$number`.
    #[must_use]
    pub fn push_param(mut self, number: usize) -> Self {
        self.0.to_mut().push('$');
        self.0.to_mut().push_str(&number.to_string());
        self
    }

    /// Text with names in it that the schema has, and nobody else.
    pub(crate) fn of_names(pieces: &[&str]) -> Self {
        Self(Cow::Owned(pieces.concat()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Where a text that stands in the program as a whole is: the same place is the same text.
    pub(crate) fn place(&self) -> Option<(usize, usize)> {
        match &self.0 {
            Cow::Borrowed(text) => Some((text.as_ptr().addr(), text.len())),
            Cow::Owned(_) => None,
        }
    }
}

/// SQLite numbers its parameters with `?1`; a `$1` there is a name, numbered by where it first occurs.
pub(crate) fn for_sqlite(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        quoted ^= letter == '\'';
        let is_parameter = letter == '$' && !quoted && letters.peek().is_some_and(char::is_ascii_digit);
        result.push(if is_parameter { '?' } else { letter });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_renamed_for_sqlite_but_not_in_literals() {
        assert_eq!(for_sqlite("SELECT $2, $10, '$1' WHERE $a"), "SELECT ?2, ?10, '$1' WHERE $a");
    }

    #[test]
    fn a_list_of_nothing_matches_nothing_and_others_are_padded() {
        let mut values = vec![Value::Int(1), Value::Int(2)];
        let none = Sql::from("x IN ").push_list(&mut values, []);
        assert_eq!((none.text(), values.len()), ("x IN (NULL)", 2));
        let three = Sql::from("x IN ").push_list(&mut values, (7..10).map(Value::Int));
        assert_eq!(three.text(), "x IN ($3, $4, $5, $6)");
        assert_eq!(values[4..], [Value::Int(9), Value::Int(9)]);
    }
}
