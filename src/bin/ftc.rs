fn main() -> std::process::ExitCode {
    ftd::client::main()
}
