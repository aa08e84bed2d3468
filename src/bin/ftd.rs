fn main() -> std::process::ExitCode {
    ftd::daemon::main()
}
