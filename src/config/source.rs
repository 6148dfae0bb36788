//! Where the configuration is read: the only file of this room that meets the disk and the
//! process's environment.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::Loaded;
use super::layer::{self, FILE_VARIABLE, Layer};
use super::problem::{Problem, Problems};
use super::resolve::resolve;

/// The file that is read, if it exists, when none is named.
const DEFAULT_FILE: &str = "/etc/hydrant/hydrant.toml";

/// Where to look for settings. The default looks nowhere.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file named on the command line.
    pub file: Option<PathBuf>,
    /// The file that is read where none is named, if it exists.
    pub default_file: Option<PathBuf>,
    /// Names and values of environment variables; those that do not begin with `HYDRANT_` are
    /// passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// `KEY=VALUE` arguments, the later ones stronger.
    pub set: Vec<String>,
}

impl Sources {
    /// The sources of this process, with the file and the assignments of its command line.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        Self { file, default_file: Some(DEFAULT_FILE.into()), environment: env::vars_os().collect(), set }
    }

    fn read_file(&self) -> Result<Layer, Problem> {
        let variable =
            self.environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        let named = self.file.as_deref().or(variable.map(|(_, path)| Path::new(path)));
        let Some(path) = named.or(self.default_file.as_deref()) else { return Ok(Layer::new()) };
        match fs::read_to_string(path) {
            Ok(text) => layer::file(path, &text),
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Ok(Layer::new()),
            Err(error) => {
                Err(Problem::Unreadable { path: path.display().to_string(), reason: error.to_string() })
            }
        }
    }
}

/// The configuration that `sources` make together: built-in defaults, then the file, then the
/// environment, then `--set`, the later ones stronger.
///
/// # Errors
///
/// Everything that is wrong; only the file's own fault where it cannot be read or parsed, since
/// what else is wrong then depends on what it says.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let layers = vec![
        sources.read_file()?,
        layer::environment(&sources.environment, &mut problems),
        layer::assignments(&sources.set, &mut problems),
    ];
    resolve(layers, problems)
}
