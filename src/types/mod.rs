//! Floor 0: the words everything else is written in. Standard library only, no I/O.

mod access;
mod digest;
mod error_code;
mod escaped;
mod key;
pub mod limits;
mod path;
mod quota;

pub use access::{Pattern, Principal, Right, Rights, Rule, UnknownRight};
pub use digest::{DigestError, Sha256Digest};
pub use error_code::ErrorCode;
pub use escaped::{Escaped, Foreign, is_acting};
pub use key::{KeyAlgorithm, PublicKey};
pub use path::{FileName, NameError, RelPath};
pub use quota::{Quota, Reserve};

/// What the kernel said, in words only.
pub fn said(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// When a stored file counts as safe.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// The file, its name and every directory made for it are flushed before the answer.
    #[default]
    Full,
    /// Nothing is flushed: for scratch trees. A crash of the machine may lose what was stored.
    None,
}
