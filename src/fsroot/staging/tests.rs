//! Goal: what a file on its way in takes of the disk is what was announced and no more, and it is
//! nobody else's. Method: real files, whose blocks are counted.
#![expect(clippy::disallowed_methods, reason = "tests look at files from outside")]

use std::os::unix::fs::MetadataExt as _;

use super::super::tests::{Place, TestResult, publish, rel};
use super::*;

const MIB: u64 = 1024 * 1024;

/// Bytes that the file takes of the disk.
fn allocated(staging: &Staging) -> std::io::Result<u64> {
    Ok(staging.file.metadata()?.blocks() * 512)
}

#[test]
fn space_is_allocated_in_steps_ahead_of_the_data() -> TestResult {
    let place = Place::without_flushes()?;
    let announce = |bytes| -> Result<Staging, Box<dyn std::error::Error>> {
        let mut staging = place.tree.stage(&rel("f")?)?;
        staging.reserve(bytes)?;
        staging.write_all(b"x")?;
        Ok(staging)
    };
    let mut large = announce(130 * MIB)?;
    assert!((64 * MIB..66 * MIB).contains(&allocated(&large)?), "one step of 64 MiB");
    large.write_all(&vec![7; 64 * 1024 * 1024 + 1])?;
    assert!((128 * MIB..130 * MIB).contains(&allocated(&large)?), "and the next from there");
    assert_eq!(large.file.metadata()?.len(), 64 * MIB + 2, "which nobody sees in its size");
    drop(large);
    assert!((MIB..2 * MIB).contains(&allocated(&announce(MIB)?)?), "never past what was announced");
    assert!(allocated(&announce(MIB - 1)?)? < MIB / 2, "and not for what is small");
    Ok(())
}

/// Who announced more than there was gets no file with a tail that nobody can see.
#[test]
fn what_was_allocated_and_not_written_is_given_back() -> TestResult {
    let place = Place::without_flushes()?;
    let mut staging = place.tree.stage(&rel("f")?)?;
    staging.reserve(8 * MIB)?;
    staging.write_all(&[7; 5000])?;
    assert!(allocated(&staging)? >= 8 * MIB);
    staging.commit(&rel("f")?, &publish(&[7; 5000], false))?;
    assert!(std::fs::metadata(place.path("f"))?.blocks() * 512 <= MIB);
    Ok(())
}

#[test]
fn room_for_what_nobody_announced_is_asked_for_in_steps() -> TestResult {
    let place = Place::without_flushes()?;
    let mut staging = place.tree.stage(&rel("f")?)?;
    staging.write_all(b"x")?;
    assert_eq!(staging.granted, 8 * MIB);
    staging.write_all(&vec![7; 8 * 1024 * 1024 - 1])?;
    assert_eq!(staging.granted, 8 * MIB, "up to the last byte");
    staging.write_all(b"x")?;
    assert_eq!(staging.granted, 16 * MIB);
    assert!(allocated(&staging)? < 10 * MIB, "asked for, not taken");
    Ok(())
}

#[test]
fn nobody_else_reads_what_is_on_its_way() -> TestResult {
    let place = Place::without_flushes()?;
    let (one, two) = (place.tree.stage(&rel("f")?)?, place.tree.stage(&rel("f")?)?);
    assert_ne!(one.name, two.name);
    for staging in [&one, &two] {
        assert_eq!(staging.file.metadata()?.mode() & 0o7777, 0o600);
        assert_eq!(staging.name.len(), 32, "a name that nobody guesses");
    }
    // Our own directory is gone: not the client's mistake.
    drop((one, two));
    std::fs::remove_dir(place.path(".ftd-stage"))?;
    let error = place.tree.stage(&rel("f")?).err().ok_or("staged nowhere")?;
    assert_eq!(error.code(), ErrorCode::Io);
    Ok(())
}
