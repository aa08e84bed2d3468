//! Goal: the laws that the fuzzers search for a breach hold on every run of the tests (F-16, B8).
//! Method: the fuzzers' own functions, with the golden seeds, cut and mutated, and with random bytes.
#![allow(clippy::disallowed_methods, reason = "tests read the seeds")]

#[path = "../fuzz/laws.rs"]
mod laws;

use std::path::Path;

use proptest::prelude::*;

/// Cut at every place and with every byte changed once, a seed is still only bytes.
#[test]
fn every_seed_keeps_every_law_cut_and_mutated() -> Result<(), Box<dyn std::error::Error>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, law) in laws::ALL {
        let mut count = 0;
        for entry in std::fs::read_dir(seeds.join(name))? {
            let seed = std::fs::read(entry?.path())?;
            law(&seed);
            for at in 0..seed.len() {
                law(&seed[..at]);
                let mut mutated = seed.clone();
                for change in [1, 0x80, 0xFF] {
                    mutated[at] = seed[at] ^ change;
                    law(&mutated);
                }
            }
            count += 1;
        }
        assert!(count > 0, "{name} has no seed");
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_keep_every_law(data in proptest::collection::vec(any::<u8>(), 0..512)) {
        for (_, law) in laws::ALL {
            law(&data);
        }
    }
}
