//! The client: everything is in the library.

fn main() -> std::process::ExitCode {
    ftd::client::main()
}
