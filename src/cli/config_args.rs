//! The command-line arguments that select the configuration.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::parser::ValueSource;

use super::exit::Failure;
use crate::config;
use crate::server::GatewayConfig;

/// The arguments of every command that needs the configuration.
#[derive(Args, Clone, Debug)]
pub(super) struct ConfigArgs {
    /// The configuration file. Without a file, the defaults apply.
    #[arg(long, short, value_name = "FILE", env = "STREAMGATE_CONFIG", value_parser = FileParser)]
    config: Option<PathBuf>,
    /// Sets one key of the configuration. This value overrides the file and the
    /// environment.
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// Loads and checks the configuration.
    pub(super) fn load(&self) -> Result<GatewayConfig, Failure> {
        Ok(config::load(self.path(), &self.set, std::env::vars_os())?)
    }

    /// Returns the path of the configuration file. An empty path counts as no file,
    /// because a compose file can set `STREAMGATE_CONFIG` to an empty text.
    pub(super) fn path(&self) -> Option<&Path> {
        self.config.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// Parses the path of the configuration file. Unlike clap's own parser, this parser
/// accepts an empty value of the environment variable. An empty value of the flag
/// stays an error.
#[derive(Clone)]
struct FileParser;

impl TypedValueParser for FileParser {
    type Value = PathBuf;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<PathBuf, clap::Error> {
        PathBufValueParser::new().parse_ref(command, argument, value)
    }

    fn parse_ref_(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<PathBuf, clap::Error> {
        if source == ValueSource::EnvVariable && value.is_empty() {
            return Ok(PathBuf::new());
        }
        self.parse_ref(command, argument, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Arguments, Exit};

    #[test]
    fn an_empty_variable_means_no_file_and_an_empty_flag_is_an_error() {
        use clap::CommandFactory as _;
        let command = Arguments::command();
        let parse = |source| FileParser.parse_ref_(&command, None, OsStr::new(""), source);
        let config = Some(parse(ValueSource::EnvVariable).unwrap());
        let arguments = ConfigArgs { config, set: Vec::new() };
        assert_eq!(arguments.path(), None);
        assert!(parse(ValueSource::CommandLine).is_err());
        let failure = crate::cli::parse(["streamgate", "check", "-c", ""].map(Into::into));
        assert_eq!(failure.unwrap_err().exit, Exit::Usage);
    }
}
