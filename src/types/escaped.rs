//! The ways in which foreign bytes reach a terminal or a log.

use std::fmt::{self, Write as _};

use super::path::is_hidden_direction;

/// Bytes from a peer or a file system, printed so that they can neither move a cursor nor forge a
/// line: control and text-direction characters, backslashes and bytes that are not UTF-8 come out
/// as `\n`, `\u{202e}`, `\\`, `\xff`.
///
/// At most [`Escaped::BYTES_MAX`] bytes are shown; the rest is counted.
pub struct Escaped<'a>(pub &'a [u8]);

impl Escaped<'_> {
    /// Bytes of the input that are printed.
    pub const BYTES_MAX: usize = 4096;
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(Self::BYTES_MAX)];
        for chunk in shown.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    '\\' => f.write_str("\\\\")?,
                    c if is_acting(c) => write!(f, "{}", c.escape_unicode())?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        match self.0.len() - shown.len() {
            0 => Ok(()),
            hidden => write!(f, "… ({hidden} bytes more)"),
        }
    }
}

/// What a peer says, for people: as [`Escaped`], but shorter than a name may be.
pub struct Foreign<'a>(pub &'a str);

impl Foreign<'_> {
    /// Bytes of the input that are printed.
    pub const BYTES_MAX: usize = 1024;
}

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.floor_char_boundary(Self::BYTES_MAX);
        Escaped(&self.0.as_bytes()[..shown]).fmt(f)?;
        match self.0.len() - shown {
            0 => Ok(()),
            hidden => write!(f, "… ({hidden} bytes more)"),
        }
    }
}

/// Whether a terminal does something else with a character than to show it.
pub fn is_acting(c: char) -> bool {
    c.is_control() || is_hidden_direction(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_cannot_act_on_a_terminal() {
        for (raw, shown) in [
            (&b"plain name"[..], "plain name"),
            ("größe 📦".as_bytes(), "größe 📦"),
            (b"a\nb\r\tc", "a\\nb\\r\\tc"),
            (b"\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
            ("\u{202E}txt".as_bytes(), "\\u{202e}txt"),
            (b"\xFFx\xC0", "\\xffx\\xc0"),
            (b"back\\slash", "back\\\\slash"),
        ] {
            assert_eq!(Escaped(raw).to_string(), shown);
        }
        let long = vec![b'x'; Escaped::BYTES_MAX + 3];
        assert!(Escaped(&long).to_string().ends_with("x… (3 bytes more)"));
        let long = "ü".repeat(513);
        assert!(Foreign(&long).to_string().ends_with("ü… (2 bytes more)"));
        assert_eq!(Foreign("\u{9b}x").to_string(), "\\u{9b}x");
    }
}
