//! How much of what a server lists is kept.

use super::exit::{Exit, Failure};

/// Memory for names that are kept at once: two and a half million of an ordinary length.
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// What a name costs beside its own bytes: what is known of it, and what the allocator adds.
const FIXED: usize = 80;
/// What to do about a directory that is too much.
pub const IN_PARTS: &str = "take it in parts: name a directory below, or a pattern like 'a*'";

/// Counts names that are kept, so that it is not the server who decides how much memory we use.
#[derive(Default)]
pub struct Held {
    bytes: usize,
    is_full: bool,
}

impl Held {
    /// One more name is to be kept.
    ///
    /// # Errors
    /// It would be one too many.
    pub fn keep(&mut self, name: &[u8]) -> Result<(), Failure> {
        self.bytes += FIXED + name.len();
        if self.bytes <= BYTES_MAX {
            return Ok(());
        }
        self.is_full = true;
        let text = format!("the server lists more than {} MiB of names", BYTES_MAX >> 20);
        Err(Failure::new(Exit::Other, text).hint(IN_PARTS))
    }

    /// A name is kept no longer.
    pub fn release(&mut self, name: &[u8]) {
        self.bytes = self.bytes.saturating_sub(FIXED + name.len());
    }

    /// Whether a name was one too many.
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_files_fit_and_a_limit_holds() {
        let name = [b'n'; 100];
        let mut held = Held::default();
        let kept = (0..10_000_000).take_while(|_| held.keep(&name).is_ok()).count();
        assert!((1_000_000..2_000_000).contains(&kept) && held.is_full(), "{kept}");
        let mut held = Held::default();
        for _ in 0..10_000_000 {
            assert!(held.keep(&name).is_ok(), "what is released makes room");
            held.release(&name);
        }
    }
}
