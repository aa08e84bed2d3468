//! A line as words: quotes and backslashes as in sh(1), and nothing else that sh does.

/// Splits a line; an unquoted `#` at the start of a word begins a comment.
///
/// # Errors
/// A quote without its end.
pub(super) fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '#' if word.is_none() => break,
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a ' without its end")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a \" without its end")? {
                        '"' => break,
                        '\\' => word.push(chars.next().ok_or("a \" without its end")?),
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next().ok_or("a \\ at the end")?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// A word as it has to be typed.
pub(super) fn quote(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        if c.is_whitespace() || matches!(c, '\'' | '"' | '\\' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (line, expected) in [
            ("", Some(&[][..])),
            ("  a  b ", Some(&["a", "b"])),
            ("a\\ b 'c d' \"e f\"", Some(&["a b", "c d", "e f"])),
            ("a'b'\"c\"", Some(&["abc"])),
            ("''", Some(&[""])),
            ("a # b", Some(&["a"])),
            ("a#b", Some(&["a#b"])),
            ("\"a\\\"b\"", Some(&["a\"b"])),
            ("'a", None),
            ("\"a", None),
            ("a\\", None),
        ] {
            let words = split(line).ok();
            let words: Option<Vec<&str>> =
                words.as_ref().map(|words| words.iter().map(String::as_str).collect());
            assert_eq!(words.as_deref(), expected, "{line}");
        }
        for word in ["plain", "with space", "quo'te", "back\\slash", "#hash", "dou\"ble"] {
            assert_eq!(split(&quote(word)), Ok(vec![word.to_owned()]));
        }
    }
}
