//! Floor 4.

/// Runs `ftc`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
