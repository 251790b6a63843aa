//! Programs that this process starts.

use std::env;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program of util-linux that sets `PR_SET_PDEATHSIG`.
const SETPRIV: &str = "setpriv";

/// Returns a command that runs `program` and ends with this process, even if
/// this process is killed.
///
/// The kernel sends SIGTERM to the program when the thread that spawned it
/// ends. Spawn the command on a thread that outlives the program.
///
/// # Errors
/// `NotFound` if `program` or `setpriv` is not installed.
pub fn command(program: &str) -> io::Result<Command> {
    find(program)?;
    let mut command = Command::new(find(SETPRIV)?);
    command.args(["--pdeathsig", "TERM", program]);
    Ok(command)
}

/// Finds the file that `execvp(3)` would run. Its exit code cannot tell a
/// program that is missing: 127 is also the code of a dynamic loader that
/// misses a library.
///
/// # Errors
/// `NotFound` if there is no such executable file.
pub fn find(program: &str) -> io::Result<PathBuf> {
    let is_executable = |path: &Path| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return if is_executable(&path) { Ok(path) } else { Err(missing(program)) };
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&folders).map(|folder| folder.join(program));
    found.into_iter().find(|path| is_executable(path)).ok_or_else(|| missing(program))
}

fn missing(program: &str) -> io::Error {
    let remedy = match program {
        SETPRIV => "install the package util-linux",
        "timeout" | "nice" => "install the package coreutils",
        "wrk" | "slowhttptest" | "nginx" => "install the package of that name",
        _ if program.ends_with("/streamgate") => {
            "build it with `cargo build --release --bin streamgate`"
        }
        _ => "`make peers` installs the peers",
    };
    let message = format!("the program `{program}` is not installed; {remedy}");
    io::Error::new(io::ErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_its_name_or_its_path() {
        let path = find("sh").unwrap();
        assert_eq!(find(path.to_str().unwrap()).unwrap(), path);
        for absent in ["no-such-program", "/no/such/program", env!("CARGO_MANIFEST_DIR")] {
            assert_eq!(find(absent).unwrap_err().kind(), io::ErrorKind::NotFound, "{absent}");
        }
    }
}
