//! Hard upper bounds. A configuration may ask for less, nobody may ask for more.

/// Bytes in one component of a path. Source: `NAME_MAX` of every file system that we serve.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes in a whole path as a client spells it. With [`HOME_BYTES_MAX`] and a slash it stays below
/// the kernel's `PATH_MAX` of 4,096, which counts the final NUL.
pub const PATH_BYTES_MAX: usize = 4_000;

/// Components in a path as a client spells it.
pub const PATH_COMPONENTS_MAX: usize = 64;

/// Bytes in a user's home below the root.
pub const HOME_BYTES_MAX: usize = 90;

/// Names that start so belong to ftd itself; a client can neither see nor ask for them.
pub const RESERVED_PREFIX: &[u8] = b".ftd-";

/// Bytes in the payload of a control frame.
pub const CONTROL_BYTES_MAX: u32 = 16 * 1024;

/// Bytes in the payload of a data frame.
pub const DATA_BYTES_MAX: u32 = 1024 * 1024;

/// Bytes in one buffer of the data path; a whole number of pages.
pub const BUFFER_BYTES: usize = 512 * 1024;
