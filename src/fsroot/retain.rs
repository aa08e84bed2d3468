//! What was stored not long ago stays as it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::look::Look;
use super::{FsError, Kind};
use crate::types::ErrorCode;

/// Refuses what was stored less than `retain` ago.
///
/// The time of change is what tells: only the kernel sets it. A clock that is set back makes everything
/// younger, and so frees nothing early.
pub(super) fn check_age(
    look: &Look,
    retain: Option<Duration>,
    doing: &'static str,
) -> Result<(), FsError> {
    let Some(retain) = retain else { return Ok(()) };
    let seconds = u64::try_from(look.changed.0).unwrap_or(0);
    let until = Duration::new(seconds, look.changed.1).saturating_add(retain);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now < until { Err(FsError::kept(doing, until.as_secs().saturating_add(1))) } else { Ok(()) }
}

/// The same for what is to be renamed. A directory takes along whatever it holds, old and young, so
/// that where anything is kept no directory moves.
pub(super) fn check_movable(
    look: &Look,
    retain: Option<Duration>,
    doing: &'static str,
) -> Result<(), FsError> {
    if retain.is_some() && look.stat.kind == Kind::Directory {
        let doing = "rename: a directory cannot be renamed where what is stored is kept";
        return Err(FsError::new(ErrorCode::Denied, doing, None));
    }
    check_age(look, retain, doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    const HOUR: i64 = 3600;

    /// A directory that was made just now.
    fn look_at_new() -> Result<Look, Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        Ok(Look::at(std::fs::File::open(directory.path())?, ".")?)
    }

    /// Goal: what is younger is kept, what is older is not, and a clock that jumps back frees nothing.
    #[test]
    fn the_age_is_told_by_the_time_of_change() -> TestResult {
        let fresh = look_at_new()?;
        let hour = Some(Duration::from_hours(1));
        for (moved, retain, kept) in [
            (0, None, false),
            (0, hour, true),
            (-HOUR + 60, hour, true),
            (-HOUR - 1, hour, false),
            (10 * HOUR, hour, true), // Stored before the clock went back.
            (0, Some(Duration::MAX), true),
        ] {
            let mut look = fresh.clone();
            look.changed.0 += moved;
            let outcome = check_age(&look, retain, "remove the name");
            assert_eq!(outcome.is_err(), kept, "{moved} s, {retain:?}");
            if let Err(error) = outcome {
                assert_eq!(error.code(), ErrorCode::Denied);
                assert!(
                    error.to_string().starts_with("remove the name: what is there is kept until ")
                );
            }
        }
        Ok(())
    }

    #[test]
    fn no_directory_moves_where_anything_is_kept() -> TestResult {
        let mut look = look_at_new()?;
        look.changed = (0, 0);
        assert!(check_movable(&look, None, "rename").is_ok());
        let refused = check_movable(&look, Some(Duration::from_nanos(1)), "rename");
        assert_eq!(refused.map_err(|error| error.code()), Err(ErrorCode::Denied));
        Ok(())
    }
}
