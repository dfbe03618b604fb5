//! The `roadcall` binary: parse flags, call the library, turn the result into an exit code.

fn main() {}
