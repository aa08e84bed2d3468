//! Floor 4: the daemon.

pub mod sandbox;

/// Runs `ftd`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
