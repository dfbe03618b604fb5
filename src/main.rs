//! The `roadcall` binary: parse flags, call the library, turn the result into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    roadcall::cli::main()
}
