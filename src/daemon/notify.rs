//! What the service manager is told. Without one, that is without `NOTIFY_SOCKET`, nothing happens.

use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// Bytes of a status: systemd ignores a message of more than 4,096, and with it what else it says.
const STATUS_BYTES_MAX: usize = 2048;

/// A status that is not too long to be heard; the log has the whole of it.
pub(super) fn shortened(mut status: String) -> String {
    if status.len() > STATUS_BYTES_MAX {
        status.truncate(status.floor_char_boundary(STATUS_BYTES_MAX));
        status += "… (the log has the rest)";
    }
    status
}

/// Tells states. A manager that cannot be told is no reason to stop serving.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

/// Gives the manager a copy of a socket, to be handed to the next start under `name`.
///
/// Source: `sd_notify(3)`, `FDSTORE=1`; it takes as many as `FileDescriptorStoreMax=` of the unit says.
pub(super) fn keep(name: &str, socket: BorrowedFd<'_>) {
    let states = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[socket]) {
        tracing::warn!("cannot leave a socket with the service manager: {error}");
    }
}

/// Has the manager forget the socket of that name.
pub(super) fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}
