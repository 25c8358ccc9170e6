//! An error and its causes as one line for people. Knows no error type.

use std::error::Error;

/// Joins an error with everything in its source chain: `cannot read x: permission denied`.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_the_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x")]
        struct Outer(#[source] std::fmt::Error);
        assert_eq!(one_line(&std::fmt::Error), std::fmt::Error.to_string());
        assert_eq!(one_line(&Outer(std::fmt::Error)), format!("cannot read x: {}", std::fmt::Error));
    }
}
