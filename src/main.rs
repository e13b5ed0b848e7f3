use std::process::ExitCode;

fn main() -> ExitCode {
    millpond::cli::main(std::env::args_os())
}
