//! The `streamgate` binary. The module `cli` of the library has its code.

use std::process::ExitCode;

/// The allocator of the process. Many threads make many small allocations at
/// the same time. For these the allocator of the C library is slower and uses
/// more memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(streamgate::cli::run(std::env::args_os()))
}
