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

/// Components in a user's home: every other byte is a slash.
pub const HOME_COMPONENTS_MAX: usize = HOME_BYTES_MAX.div_ceil(2);

/// Names that start so belong to ftd itself; a client can neither see nor ask for them.
pub const RESERVED_PREFIX: &[u8] = b".ftd-";

/// Bytes in the payload of a control frame.
pub const CONTROL_BYTES_MAX: u32 = 16 * 1024;

/// Bytes in the payload of a data frame.
pub const DATA_BYTES_MAX: u32 = 1024 * 1024;

/// Bytes of content in a packed frame, once it is unpacked: a block of zstd (RFC 8878, 3.1.1.2.4).
pub const PACKED_BYTES_MAX: u32 = 128 * 1024;

/// Bytes that stand before the compressed content of a packed frame: how long it is unpacked.
pub const PACKED_PREFIX: u32 = 4;

/// Bytes in the payload of a packed frame: content that zstd cannot make smaller becomes a little larger.
pub const PACKED_PAYLOAD_MAX: u32 = PACKED_BYTES_MAX + 1024;

/// The window of a compressed stream, as a power of two: how far back it may refer, which its receiver
/// has to remember.
pub const PACKED_WINDOW_LOG: u32 = 20;

/// Bytes in one buffer of the data path; a whole number of pages.
pub const BUFFER_BYTES: usize = 512 * 1024;
