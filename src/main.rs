//! The `streamgate` binary; what it does is in the library's `cli`.

use std::process::ExitCode;

/// Many small allocations of many threads at once, which the system's
/// allocator serves more slowly and keeps more memory for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(streamgate::cli::run(std::env::args_os()))
}
