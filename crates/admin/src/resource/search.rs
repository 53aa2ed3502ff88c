//! Finding things by a part of their names.

use tollgate_store::{ToValue, Value};

/// Begins the comparison of a name, which [`pattern`] and [`ESCAPED`] end.
pub(crate) const NAMED: &str = "LOWER(name) LIKE ";
pub(crate) const ESCAPED: &str = " ESCAPE '!'";

/// The pattern of whatever has a text in it, in capitals or not. What is a sign of patterns in it is none.
pub(crate) fn pattern(text: &str) -> Value {
    let mut wanted = String::from("%");
    for letter in text.trim().to_lowercase().chars() {
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
        assert_eq!(format!("{:?}", pattern(" 50%_A!")), format!("{:?}", "%50!%!_a!!%".to_value()));
    }
}
