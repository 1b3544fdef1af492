//! The program: arguments, settings, logging, run, exit code.
fn main() {}
