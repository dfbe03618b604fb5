//! The operator `wildcard`: `*` stands for any run of characters, none included; `\*` and `\\` for themselves.

use std::fmt;

/// A parsed form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wildcard {
    /// What stands between the stars: one more part than stars.
    parts: Vec<String>,
}

impl Wildcard {
    /// Reads a form; the error is the end of a sentence that starts with the field.
    pub(super) fn parse(form: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut characters = form.chars();
        let mut after_star = false;
        while let Some(character) = characters.next() {
            let literal = match character {
                '*' if after_star => {
                    return Err(format!(
                        "wildcard '{form}' has two stars side by side; one says the same"
                    ));
                }
                '*' => {
                    parts.push(String::new());
                    after_star = true;
                    continue;
                }
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '\\')) => escaped,
                    _ => {
                        return Err(format!(
                            "wildcard '{form}' has a backslash that escapes neither * nor \\"
                        ));
                    }
                },
                other => other,
            };
            after_star = false;
            // There is always a last part: the list starts with one and only grows.
            if let Some(part) = parts.last_mut() {
                part.push(literal);
            }
        }
        Ok(Self { parts })
    }

    /// The text, of a form without a star.
    pub(super) fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Greedy from the left: each part between two stars is taken at its first place, the last one must end the text.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.parts.split_first() else {
            return text.is_empty();
        };
        let Some((last, middle)) = rest.split_last() else {
            return text == first;
        };
        let Some(mut text) = text.strip_prefix(first.as_str()) else {
            return false;
        };
        for part in middle {
            let Some(at) = text.find(part.as_str()) else {
                return false;
            };
            text = &text[at + part.len()..];
        }
        text.ends_with(last.as_str())
    }
}

impl fmt::Display for Wildcard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.parts.iter().enumerate() {
            if n > 0 {
                f.write_str("*")?;
            }
            f.write_str(&part.replace('\\', "\\\\").replace('*', "\\*"))?;
        }
        Ok(())
    }
}
