//! The `streamgate` binary. The code of all commands is in the module `cli` of the
//! library.

use std::process::ExitCode;

/// The allocator of the process. Many threads make many small allocations at the
/// same time. For this load, the allocator of the C library is slower than mimalloc
/// and uses more memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(streamgate::cli::run(std::env::args_os()))
}
