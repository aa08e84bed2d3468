//! Quotas: which homes have one, and who waits until they are counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::start::aside;
use crate::config::Settings;
use crate::fsroot::FsError;
use crate::transfer::Store;
use crate::types::{ErrorCode, Quota, RelPath};

/// How often a change that waits looks whether the count is done.
const COUNT_STEP: Duration = Duration::from_millis(20);

/// The homes that have a quota. Where users share a home the smaller quota holds for it.
fn homes(settings: &Settings) -> Vec<(Option<RelPath>, Quota)> {
    let mut homes: HashMap<Vec<u8>, (Option<RelPath>, Quota)> = HashMap::new();
    let smaller = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    for user in settings.users.iter().filter(|user| user.quota != Quota::default()) {
        let home = user.principal.home.clone();
        let key = home.as_ref().map(|home| home.raw_bytes().to_vec()).unwrap_or_default();
        let (_, quota) = homes.entry(key).or_insert((home, user.quota));
        quota.bytes = smaller(quota.bytes, user.quota.bytes);
        quota.names = smaller(quota.names, user.quota.names);
    }
    homes.into_values().collect()
}

/// Puts the quotas and the reserve of `settings` in force, at once, and starts to count what is new: on a
/// thread of its own, because a count may take long, and first waits for changes that are under way there.
pub(super) fn enforce<S: Store>(store: &Arc<S>, settings: &Settings) {
    store.configure(&homes(settings), settings.reserve);
    let store = Arc::clone(store);
    aside("ftd-count", move || count(&*store));
}

/// Counts what is not counted yet, or could not be, and says what it found.
pub(super) fn count<S: Store>(store: &S) {
    let started = std::time::Instant::now();
    for (home, counted) in store.count() {
        let home = home.map_or_else(|| ".".to_owned(), |home| home.to_string());
        match counted {
            Ok(usage) => tracing::info!(
                home,
                bytes = usage.bytes,
                files = usage.names,
                duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "counted"
            ),
            Err(error) => tracing::error!(
                home,
                "cannot be counted, and nothing below it can be changed: {error}"
            ),
        }
    }
}

/// Waits until all homes above the paths are counted. No file thread is held meanwhile.
///
/// # Errors
/// `Busy` when that takes too long.
pub(super) async fn counted<S: Store>(
    store: &S,
    paths: &[&RelPath],
    patience: Duration,
) -> Result<(), FsError> {
    let deadline = Instant::now() + patience;
    while !paths.iter().all(|path| store.is_counted(path)) {
        if Instant::now() > deadline {
            let doing = "wait until the home is counted, because it has a quota; try again later";
            return Err(FsError::new(ErrorCode::Busy, doing, None));
        }
        sleep(COUNT_STEP).await;
    }
    Ok(())
}
