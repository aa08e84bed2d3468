//! Sizes, times and counts, as an administrator writes them.

use std::time::Duration;

use bytesize::ByteSize;
use toml::de::DeValue;

/// Why a value is no quantity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Misread {
    /// It is spelled in no way that we know.
    Form,
    /// It is a quantity, but negative or beyond what a machine word holds.
    Range,
}

/// A quantity with a spelling: `u64` is a size in bytes, `usize` a count, [`Duration`] a time.
pub(super) trait Quantity: Copy + PartialOrd {
    /// What must be written, for a message.
    const FORM: &'static str;

    /// The value, if it is spelled as one.
    fn read(value: &DeValue<'_>) -> Result<Self, Misread>;

    /// The value as an administrator would write it; reads back to the same.
    fn show(self) -> String;

    /// The value as a bound in a message.
    fn show_bound(self) -> String {
        self.show()
    }
}

impl Quantity for u64 {
    const FORM: &'static str = "a size such as \"64MiB\", or a number of bytes";

    fn read(value: &DeValue<'_>) -> Result<Self, Misread> {
        match value {
            DeValue::Integer(_) => integer(value),
            DeValue::String(text) => {
                let (negative, text) = sign(text);
                if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return text.parse().ok().filter(|_| !negative).ok_or(Misread::Range);
                }
                let size: ByteSize = text.parse().map_err(|_| Misread::Form)?;
                if negative { Err(Misread::Range) } else { Ok(size.as_u64()) }
            }
            _ => Err(Misread::Form),
        }
    }

    fn show(self) -> String {
        const UNITS: [&str; 7] = ["", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let (mut size, mut unit) = (self, 0);
        while size > 0 && size % 1024 == 0 && unit + 1 < UNITS.len() {
            size /= 1024;
            unit += 1;
        }
        format!("{size}{}", UNITS[unit])
    }

    fn show_bound(self) -> String {
        match self.checked_add(1) {
            Some(round) if round % (1 << 60) == 0 => format!("{} less one byte", round.show()),
            _ => self.show(),
        }
    }
}

impl Quantity for usize {
    const FORM: &'static str = "a whole number such as 1024";

    fn read(value: &DeValue<'_>) -> Result<Self, Misread> {
        integer(value).and_then(|count| Self::try_from(count).map_err(|_| Misread::Range))
    }

    fn show(self) -> String {
        self.to_string()
    }
}

impl Quantity for Duration {
    const FORM: &'static str = "a time with its unit, such as \"30s\", \"5min\" or \"1h\"";

    fn read(value: &DeValue<'_>) -> Result<Self, Misread> {
        let DeValue::String(text) = value else {
            return Err(Misread::Form);
        };
        let (negative, text) = sign(text);
        match humantime::parse_duration(text) {
            Ok(time) if time.is_zero() || !negative => Ok(time),
            Ok(_) | Err(humantime::DurationError::NumberOverflow) => Err(Misread::Range),
            Err(_) => Err(Misread::Form),
        }
    }

    fn show(self) -> String {
        const UNITS: [(u128, &str); 6] = [
            (86_400_000_000_000, "day"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "min"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        let nanos = self.as_nanos();
        match UNITS.iter().find(|(unit, _)| nanos.is_multiple_of(*unit)) {
            _ if nanos == 0 => "0s".to_owned(),
            Some((unit, name)) => format!("{}{name}", nanos / unit),
            None => format!("{nanos}ns"),
        }
    }
}

fn integer(value: &DeValue<'_>) -> Result<u64, Misread> {
    let DeValue::Integer(integer) = value else {
        return Err(Misread::Form);
    };
    // The TOML parser lets only digits of the radix and a sign through.
    u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| Misread::Range)
}

/// Whether a text starts with a minus, and what follows it.
fn sign(text: &str) -> (bool, &str) {
    let text = text.trim();
    text.strip_prefix('-').map_or((false, text), |rest| (true, rest.trim_start()))
}
